# SPDX-License-Identifier: Apache-2.0
"""Row statistics that the first pass accumulates, one block of columns at a time."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrd_jax.losses import batch_axis, loss_plan
from mrd_jax.losses.blockwise import tiles

# Below every similarity over temperature; finite, so that the difference of two of them is not nan.
_LOWEST = -1e30


class State(NamedTuple):
    """Running statistics after some blocks, in few arrays, since each array costs launches.

    Attributes:
      maxima: [similarities, rows], largest similarity of each row.
      exponentials: [similarities, rows], sums of exp(l_ij - maximum_i).
      weighted: [expectations, rows], sums of (l^R_ij - l^Q_ij) exp(l_ij - maximum_i).
      magnitudes: [distances, rows], sums of distances, or of absolute cosines.
      positives: [pairs, rows], product of a row with its own column.
      nearest: [pairs, rows], largest product of a row.
      nearest_before: [pairs, rows], largest product of a row with a column before its own.
      columns: [2, pairs, global_batch], for relations whose rows are split over the devices: the
        largest similarity and the sum of exponentials over the entries on this device.
    """

    maxima: jax.Array
    exponentials: jax.Array
    weighted: jax.Array
    magnitudes: jax.Array
    positives: jax.Array
    nearest: jax.Array
    nearest_before: jax.Array
    columns: jax.Array


@dataclasses.dataclass(frozen=True)
class Accumulator:
    """Row statistics to accumulate.

    Attributes:
      similarities: relations whose log-sum-exp is needed.
      expectations: (relation, comparison); the difference l^R_ij - l^Q_ij of the comparison,
        student minus target, is averaged under the softmax of the relation.
      distances: relations whose mean magnitude is needed.
      pairs: relations (R^PX, R^XP) of a contrast. They have the same products, so the row
        statistics of the second are column statistics of the first.
    """

    similarities: tuple[loss_plan.RelationSpec, ...]
    expectations: tuple[tuple[loss_plan.RelationSpec, loss_plan.Comparison], ...]
    distances: tuple[loss_plan.RelationSpec, ...]
    pairs: tuple[tuple[loss_plan.RelationSpec, loss_plan.RelationSpec], ...]

    def init(self, zeros: jax.Array, *, global_batch: int) -> State:
        """Returns the state before the first block; `zeros` is [rows]."""

        def repeat(items: Sequence) -> jax.Array:
            return jnp.zeros((len(items), *zeros.shape), zeros.dtype)

        return State(
            maxima=repeat(self.similarities) + _LOWEST,
            exponentials=repeat(self.similarities),
            weighted=repeat(self.expectations),
            magnitudes=repeat(self.distances),
            positives=repeat(self.pairs),
            nearest=repeat(self.pairs) - jnp.inf,
            nearest_before=repeat(self.pairs) - jnp.inf,
            columns=jnp.zeros((2, len(self.pairs), global_batch), zeros.dtype),
        )

    def update(self, state: State, tile: tiles.Tile, transposed: tiles.Tile) -> State:
        """Adds a block, given as a tile and as its transpose."""
        specs = self.similarities
        values = {spec: jnp.where(tile.valid(spec), tile.values(spec), -jnp.inf) for spec in specs}
        maxima = _stack(state.maxima, [jnp.max(values[spec], axis=1) for spec in specs])
        maxima = jnp.maximum(state.maxima, maxima)
        row_maxima = {spec: maxima[k][:, None] for k, spec in enumerate(specs)}
        exponentials = {spec: jnp.exp(values[spec] - row_maxima[spec]) for spec in specs}
        rescale = jnp.exp(state.maxima - maxima)
        sums = [jnp.sum(exponentials[spec], axis=1) for spec in specs]
        weighted = [
            jnp.sum(
                exponentials[spec] * (tile.values(c.student) - tile.values(c.targets[0])), axis=1
            )
            for spec, c in self.expectations
        ]
        indices = jnp.array([specs.index(spec) for spec, _ in self.expectations], dtype=int)
        magnitudes = [jnp.sum(tile.magnitudes(spec), axis=1) for spec in self.distances]
        return State(
            maxima=maxima,
            exponentials=rescale * state.exponentials + _stack(state.exponentials, sums),
            weighted=rescale[indices] * state.weighted + _stack(state.weighted, weighted),
            magnitudes=state.magnitudes + _stack(state.magnitudes, magnitudes),
            **self._update_retrieval(state, tile),
            columns=self._update_columns(state, transposed),
        )

    def _update_retrieval(self, state: State, tile: tiles.Tile) -> dict[str, jax.Array]:
        positives, nearest, before = [], [], []
        for spec, _ in self.pairs:
            valid = tile.valid(spec)
            inner = jnp.where(valid, tile.inner(spec.name), -jnp.inf)
            earlier = tile.columns[None, :] < tile.positions[:, None]
            positives.append(jnp.sum(jnp.where(tile.diagonal & valid, inner, 0), axis=1))
            nearest.append(jnp.max(inner, axis=1))
            before.append(jnp.max(jnp.where(earlier, inner, -jnp.inf), axis=1))
        return {
            "positives": state.positives + _stack(state.positives, positives),
            "nearest": jnp.maximum(state.nearest, _stack(state.nearest, nearest)),
            "nearest_before": jnp.maximum(
                state.nearest_before, _stack(state.nearest_before, before)
            ),
        }

    def _update_columns(self, state: State, tile: tiles.Tile) -> jax.Array:
        """Writes the statistics of the block's columns; repeated columns get the same values."""
        if not self.pairs:
            return state.columns
        maxima, exponentials = [], []
        for _, spec in self.pairs:
            values = jnp.where(tile.valid(spec, repeat=True), tile.values(spec), -jnp.inf)
            maxima.append(jnp.maximum(jnp.max(values, axis=0), _LOWEST))
            exponentials.append(jnp.sum(jnp.exp(values - maxima[-1][None, :]), axis=0))
        block = jnp.stack([jnp.stack(maxima), jnp.stack(exponentials)])
        return jax.lax.dynamic_update_slice_in_dim(state.columns, block, tile.columns[0], axis=2)

    def log_sum_exp(self, state: State) -> dict[loss_plan.RelationSpec, jax.Array]:
        """Returns the log-sum-exp of the rows of `similarities`; 0 for a row without an entry."""
        rows = _log_sum_exp(state.maxima, state.exponentials)
        return dict(zip(self.similarities, rows, strict=True))

    def log_sum_exp_of_columns(
        self, state: State, axis_name: str | None
    ) -> dict[loss_plan.RelationSpec, jax.Array]:
        """Returns the log-sum-exp of the rows of each R^XP, [global_batch], over all devices."""
        local_maxima, exponentials = state.columns
        maxima = batch_axis.pmax(local_maxima, axis_name)
        sums = batch_axis.psum(exponentials * jnp.exp(local_maxima - maxima), axis_name)
        rows = _log_sum_exp(maxima, sums)
        return dict(zip((spec for _, spec in self.pairs), rows, strict=True))

    def averages(self, state: State) -> dict[tuple[loss_plan.RelationSpec, str], jax.Array]:
        """Returns the `expectations` by relation and part; 0 for a row without an entry."""
        sums = dict(zip(self.similarities, state.exponentials, strict=True))
        return {
            (spec, c.part): weighted / jnp.where(sums[spec] > 0, sums[spec], 1)
            for (spec, c), weighted in zip(self.expectations, state.weighted, strict=True)
        }

    def is_correct(self, state: State) -> jax.Array:
        """Returns 1 for a row whose own column is nearest, [pairs, rows]; the first of equals."""
        correct = (state.positives >= state.nearest) & (state.positives > state.nearest_before)
        nonempty = state.nearest > -jnp.inf
        return (correct & nonempty).astype(state.positives.dtype)


def _log_sum_exp(maxima: jax.Array, exponentials: jax.Array) -> jax.Array:
    nonempty = exponentials > 0
    return jnp.where(nonempty, maxima + jnp.log(jnp.where(nonempty, exponentials, 1)), 0)


def _stack(like: jax.Array, rows: Sequence[jax.Array]) -> jax.Array:
    """Stacks rows to [count, rows], of the shape of `like` if there are none."""
    return jnp.stack(rows) if len(rows) else jnp.zeros_like(like)
