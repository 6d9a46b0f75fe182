# SPDX-License-Identifier: Apache-2.0
"""What the first pass collects of every row, a block of columns at a time."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrd_jax.losses import batch_axis, loss_plan
from mrd_jax.losses.blockwise import tiles

# Below every similarity over temperature; finite, so that differences of two of them are numbers.
_LOWEST = -1e30


class State(NamedTuple):
    """What is known after some blocks: few arrays, as every one costs launches.

    Attributes:
      largest: [similar, rows], largest similarity of each row.
      exponentials: [similar, rows], sums of exp(l_ij - largest_i).
      weighted: [expected, rows], the same of (l^R_ij - l^Q_ij) exp(l_ij - largest_i).
      magnitudes: [distant, rows], sums of distances, or of absolute cosines.
      own: [pairs, rows], the product of a row with its own column.
      nearest, nearest_before: [pairs, rows], the largest product of a row, with any column and
        with one before its own.
      columns: [2, pairs, global_batch], for relations whose rows are spread over the devices:
        largest similarity, and sum of exponentials, over the entries that this device holds.
    """

    largest: jax.Array
    exponentials: jax.Array
    weighted: jax.Array
    magnitudes: jax.Array
    own: jax.Array
    nearest: jax.Array
    nearest_before: jax.Array
    columns: jax.Array


@dataclasses.dataclass(frozen=True)
class Tally:
    """What to collect.

    Attributes:
      similar: relations whose log-sum-exp is wanted.
      expected: pairs of a relation and a comparison whose difference l^R_ij - l^Q_ij, student
        minus target, is expected under the softmax of that relation.
      distant: relations whose mean magnitude is wanted.
      pairs: relations R^PX and R^XP of a contrast. A product of the first is one of the second as
        well, so that the rows of the second are had from columns of the first.
    """

    similar: tuple[loss_plan.Relation, ...]
    expected: tuple[tuple[loss_plan.Relation, loss_plan.Comparison], ...]
    distant: tuple[loss_plan.Relation, ...]
    pairs: tuple[tuple[loss_plan.Relation, loss_plan.Relation], ...]

    def start(self, zeros: jax.Array, *, global_batch: int) -> State:
        """Before the first block; zeros: [rows]."""

        def repeat(items: Sequence) -> jax.Array:
            return jnp.zeros((len(items), *zeros.shape), zeros.dtype)

        return State(
            largest=repeat(self.similar) + _LOWEST,
            exponentials=repeat(self.similar),
            weighted=repeat(self.expected),
            magnitudes=repeat(self.distant),
            own=repeat(self.pairs),
            nearest=repeat(self.pairs) - jnp.inf,
            nearest_before=repeat(self.pairs) - jnp.inf,
            columns=jnp.zeros((2, len(self.pairs), global_batch), zeros.dtype),
        )

    def add(self, state: State, tile: tiles.Tile, flipped: tiles.Tile) -> State:
        """After one block more; the tile is seen from both sides."""
        values = {r: jnp.where(tile.valid(r), tile.values(r), -jnp.inf) for r in self.similar}
        largest = _stack(state.largest, [jnp.max(values[r], axis=1) for r in self.similar])
        largest = jnp.maximum(state.largest, largest)
        above = {r: largest[k][:, None] for k, r in enumerate(self.similar)}
        exponentials = {r: jnp.exp(values[r] - above[r]) for r in self.similar}
        before = jnp.exp(state.largest - largest)
        sums = [jnp.sum(exponentials[r], axis=1) for r in self.similar]
        weighted = [
            jnp.sum(exponentials[r] * (tile.values(c.student) - tile.values(c.targets[0])), axis=1)
            for r, c in self.expected
        ]
        rows_of = jnp.array([self.similar.index(r) for r, _ in self.expected], dtype=int)
        magnitudes = [jnp.sum(tile.magnitudes(r), axis=1) for r in self.distant]
        return State(
            largest=largest,
            exponentials=before * state.exponentials + _stack(state.exponentials, sums),
            weighted=before[rows_of] * state.weighted + _stack(state.weighted, weighted),
            magnitudes=state.magnitudes + _stack(state.magnitudes, magnitudes),
            **self._retrieve(state, tile),
            columns=self._columns(state, flipped),
        )

    def _retrieve(self, state: State, tile: tiles.Tile) -> dict[str, jax.Array]:
        own, nearest, before = [], [], []
        for which, _ in self.pairs:
            inner = jnp.where(tile.valid(which), tile.inner(which.name), -jnp.inf)
            earlier = tile.columns[None, :] < tile.own[:, None]
            own.append(jnp.sum(jnp.where(tile.same & tile.valid(which), inner, 0), axis=1))
            nearest.append(jnp.max(inner, axis=1))
            before.append(jnp.max(jnp.where(earlier, inner, -jnp.inf), axis=1))
        return {
            "own": state.own + _stack(state.own, own),
            "nearest": jnp.maximum(state.nearest, _stack(state.nearest, nearest)),
            "nearest_before": jnp.maximum(
                state.nearest_before, _stack(state.nearest_before, before)
            ),
        }

    def _columns(self, state: State, tile: tiles.Tile) -> jax.Array:
        """Each block has its own columns; those that the last one repeats come out the same."""
        if not self.pairs:
            return state.columns
        largest, exponentials = [], []
        for _, which in self.pairs:
            values = jnp.where(tile.valid(which, again=True), tile.values(which), -jnp.inf)
            largest.append(jnp.maximum(jnp.max(values, axis=0), _LOWEST))
            exponentials.append(jnp.sum(jnp.exp(values - largest[-1][None, :]), axis=0))
        block = jnp.stack([jnp.stack(largest), jnp.stack(exponentials)])
        return jax.lax.dynamic_update_slice_in_dim(state.columns, block, tile.columns[0], axis=2)

    def log_sum_exp(self, state: State) -> dict[loss_plan.Relation, jax.Array]:
        """Of the rows of `similar`; 0 for a row with no entry."""
        rows = _log_sum_exp(state.largest, state.exponentials)
        return dict(zip(self.similar, rows, strict=True))

    def log_sum_exp_of_columns(
        self, state: State, axis_name: str | None
    ) -> dict[loss_plan.Relation, jax.Array]:
        """[global_batch], of the rows of each R^XP, from what all devices hold of them."""
        largest, exponentials = state.columns
        most = batch_axis.largest(largest, axis_name)
        total = batch_axis.total(exponentials * jnp.exp(largest - most), axis_name)
        return dict(zip((r for _, r in self.pairs), _log_sum_exp(most, total), strict=True))

    def expectations(self, state: State) -> dict[tuple[loss_plan.Relation, str], jax.Array]:
        """By relation and part; 0 for a row with no entry."""
        sums = dict(zip(self.similar, state.exponentials, strict=True))
        return {
            (r, c.part): weighted / jnp.where(sums[r] > 0, sums[r], 1)
            for (r, c), weighted in zip(self.expected, state.weighted, strict=True)
        }

    def correct(self, state: State) -> jax.Array:
        """[pairs, rows], whether its own column is nearest; of equal ones the first counts."""
        correct = (state.own >= state.nearest) & (state.own > state.nearest_before)
        some = state.nearest > -jnp.inf
        return (correct & some).astype(state.own.dtype)


def _log_sum_exp(largest: jax.Array, exponentials: jax.Array) -> jax.Array:
    some = exponentials > 0
    return jnp.where(some, largest + jnp.log(jnp.where(some, exponentials, 1)), 0)


def _stack(like: jax.Array, rows: Sequence[jax.Array]) -> jax.Array:
    """[count, rows], also for none."""
    return jnp.stack(rows) if len(rows) else jnp.zeros_like(like)
