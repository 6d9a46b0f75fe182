# SPDX-License-Identifier: Apache-2.0
"""What the first pass collects of every row, a block of columns at a time."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrd_jax.losses import plan as plans
from mrd_jax.losses.blockwise import tiles

# Below every similarity over temperature; finite, so that differences of two of them are numbers.
_LOWEST = -1e30


class State(NamedTuple):
    """What is known after some blocks, [count, rows] each: few arrays, as every one costs a launch.

    Attributes:
      largest: similarity of each row.
      exponentials: sums of exp(l_ij - largest_i).
      weighted: the same of (l^R_ij - l^Q_ij) exp(l_ij - largest_i).
      own: the entry l_ii.
      magnitudes: sums of distances, or of absolute cosines.
      nearest: largest product of the rows of a contrast.
      correct: whether that is the product of the row with its own column.
    """

    largest: jax.Array
    exponentials: jax.Array
    weighted: jax.Array
    own: jax.Array
    magnitudes: jax.Array
    nearest: jax.Array
    correct: jax.Array


@dataclasses.dataclass(frozen=True)
class Tally:
    """What to collect.

    Attributes:
      similar: relations whose log-sum-exp is wanted.
      expected: pairs of a relation and a comparison whose difference l^R_ij - l^Q_ij, student
        minus target, is expected under the softmax of that relation.
      distant: relations whose mean magnitude is wanted.
      entropies: relations whose own entry is wanted.
      retrievals: relations whose nearest column is wanted.
    """

    similar: tuple[plans.Relation, ...]
    expected: tuple[tuple[plans.Relation, plans.Comparison], ...]
    distant: tuple[plans.Relation, ...]
    entropies: tuple[plans.Relation, ...]
    retrievals: tuple[plans.Relation, ...]

    def start(self, zeros: jax.Array) -> State:
        """Before the first block; zeros: [rows]."""

        def repeat(items: Sequence) -> jax.Array:
            return jnp.zeros((len(items), *zeros.shape), zeros.dtype)

        return State(
            largest=repeat(self.similar) + _LOWEST,
            exponentials=repeat(self.similar),
            weighted=repeat(self.expected),
            own=repeat(self.entropies),
            magnitudes=repeat(self.distant),
            nearest=repeat(self.retrievals) - jnp.inf,
            correct=repeat(self.retrievals),
        )

    def add(self, state: State, tile: tiles.Tile) -> State:
        """After one block more."""
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
        own = [
            jnp.sum(jnp.where(tile.same & tile.valid(r), tile.values(r), 0), axis=1)
            for r in self.entropies
        ]
        magnitudes = [jnp.sum(tile.magnitudes(r), axis=1) for r in self.distant]
        nearest, correct = self._retrieve(state, tile)
        rows_of = jnp.array([self.similar.index(r) for r, _ in self.expected], dtype=int)
        return State(
            largest=largest,
            exponentials=before * state.exponentials + _stack(state.exponentials, sums),
            weighted=before[rows_of] * state.weighted + _stack(state.weighted, weighted),
            own=state.own + _stack(state.own, own),
            magnitudes=state.magnitudes + _stack(state.magnitudes, magnitudes),
            nearest=nearest,
            correct=correct,
        )

    def _retrieve(self, state: State, tile: tiles.Tile) -> tuple[jax.Array, jax.Array]:
        """Of equal neighbours the first column counts, in this block or one before."""
        inner = [jnp.where(tile.valid(r), tile.inner(r.name), -jnp.inf) for r in self.retrievals]
        nearest = _stack(state.nearest, [jnp.max(x, axis=1) for x in inner])
        first = [tile.columns[0] + jnp.argmax(x, axis=1) == tile.own for x in inner]
        correct = _stack(state.correct, first)
        return (
            jnp.maximum(state.nearest, nearest),
            jnp.where(nearest > state.nearest, correct, state.correct),
        )

    def log_sum_exp(self, state: State) -> dict[plans.Relation, jax.Array]:
        """Of each row; 0 for a row with no entry."""
        some = state.exponentials > 0
        logarithm = jnp.log(jnp.where(some, state.exponentials, 1))
        rows = jnp.where(some, state.largest + logarithm, 0)
        return dict(zip(self.similar, rows, strict=True))

    def expectations(self, state: State) -> dict[tuple[plans.Relation, str], jax.Array]:
        """By relation and part; 0 for a row with no entry."""
        sums = dict(zip(self.similar, state.exponentials, strict=True))
        return {
            (r, c.part): weighted / jnp.where(sums[r] > 0, sums[r], 1)
            for (r, c), weighted in zip(self.expected, state.weighted, strict=True)
        }


def _stack(like: jax.Array, rows: Sequence[jax.Array]) -> jax.Array:
    """[count, rows], also for none."""
    return jnp.stack(rows).astype(like.dtype) if len(rows) else jnp.zeros_like(like)
