# SPDX-License-Identifier: Apache-2.0
"""What the first pass collects of each row, a block of columns at a time.

A tally is of one relation. `start` gives its state before the first block, `add` that after one
more, `finish` what was wanted; states and results are [rows] arrays.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrd_jax.losses import batch_axis, modalities
from mrd_jax.losses import plan as plans
from mrd_jax.losses.blockwise import tiles

# Below every similarity over temperature; finite, so that differences of two of them are numbers.
_LOWEST = -1e30


class SoftmaxState(NamedTuple):
    """Running maximum, and the sums of exponentials relative to it, plain and weighted."""

    largest: jax.Array
    exponentials: jax.Array
    weighted: tuple[jax.Array, ...]


@dataclasses.dataclass(frozen=True)
class Softmax:
    """Log-sum-exp of a row, and expectations under its softmax.

    Attributes:
      which: a relation of similarities.
      comparisons: whose difference l^R_ij - l^Q_ij, student minus target before normalisation, is
        expected.
    """

    which: plans.Relation
    comparisons: tuple[plans.Comparison, ...] = ()

    def start(self, zeros: jax.Array) -> SoftmaxState:
        """Of no columns."""
        return SoftmaxState(zeros + _LOWEST, zeros, (zeros,) * len(self.comparisons))

    def add(self, state: SoftmaxState, tile: tiles.Tile) -> SoftmaxState:
        """With the columns of one block."""
        values = jnp.where(tile.valid(self.which), tile.values(self.which), -jnp.inf)
        largest = jnp.maximum(state.largest, jnp.max(values, axis=1))
        exponentials = jnp.exp(values - largest[:, None])
        before = jnp.exp(state.largest - largest)
        differences = [tile.values(c.student) - tile.values(c.targets[0]) for c in self.comparisons]
        return SoftmaxState(
            largest,
            before * state.exponentials + jnp.sum(exponentials, axis=1),
            tuple(
                before * weighted + jnp.sum(exponentials * difference, axis=1)
                for weighted, difference in zip(state.weighted, differences, strict=True)
            ),
        )

    def finish(
        self, state: SoftmaxState, local: modalities.Batch, axis_name: str | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The logarithm, and the expectations by part; 0 for a row with no entry."""
        del local, axis_name  # a row is whole on its device
        some = state.exponentials > 0
        exponentials = jnp.where(some, state.exponentials, 1)
        logarithm = jnp.where(some, state.largest + jnp.log(exponentials), 0)
        expectations = (weighted / exponentials for weighted in state.weighted)
        parts = (comparison.part for comparison in self.comparisons)
        return logarithm, dict(zip(parts, expectations, strict=True))


@dataclasses.dataclass(frozen=True)
class Magnitude:
    """Mean over the batch of distances or magnitudes of cosines, the same for every row."""

    which: plans.Relation

    def start(self, zeros: jax.Array) -> jax.Array:
        """Of no columns."""
        return zeros

    def add(self, state: jax.Array, tile: tiles.Tile) -> jax.Array:
        """With the columns of one block."""
        return state + jnp.sum(tile.magnitudes(self.which), axis=1)

    def finish(
        self, state: jax.Array, local: modalities.Batch, axis_name: str | None
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The mean, and no expectations; 0 where there is no pair of different samples."""
        amount = batch_axis.total(jnp.sum(state), axis_name)
        pairs = number_of_pairs(self.which, local, axis_name)
        return jnp.broadcast_to(amount / pairs, state.shape), {}


@dataclasses.dataclass(frozen=True)
class Own:
    """The entry of a sample with itself, before normalisation, as the products have it."""

    which: plans.Relation

    def start(self, zeros: jax.Array) -> jax.Array:
        """Of no columns."""
        return zeros

    def add(self, state: jax.Array, tile: tiles.Tile) -> jax.Array:
        """With the columns of one block."""
        own = tile.same & tile.fresh[None, :]
        return state + jnp.sum(jnp.where(own, tile.values(self.which), 0), axis=1)


@dataclasses.dataclass(frozen=True)
class Nearest:
    """Whether a row's largest product is with itself; of equal ones the first column's counts."""

    which: plans.Relation

    def start(self, zeros: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Of no columns."""
        return zeros - jnp.inf, zeros > 0

    def add(
        self, state: tuple[jax.Array, jax.Array], tile: tiles.Tile
    ) -> tuple[jax.Array, jax.Array]:
        """With the columns of one block."""
        before, correct = state
        inner = jnp.where(tile.valid(self.which), tile.inner(self.which.name), -jnp.inf)
        largest = jnp.max(inner, axis=1)
        own = tile.columns[0] + jnp.argmax(inner, axis=1) == tile.own
        return jnp.maximum(largest, before), jnp.where(largest > before, own, correct)


def number_of_pairs(
    which: plans.Relation, local: modalities.Batch, axis_name: str | None
) -> jax.Array:
    """Ordered pairs of different samples that count in the global batch; at least 1."""
    mask = modalities.present(local, which.present)
    count = batch_axis.total(jnp.sum(mask, dtype=jnp.float32), axis_name)
    return jnp.maximum(count * (count - 1), 1)


def row_size(which: plans.Relation, local: modalities.Batch, axis_name: str | None) -> jax.Array:
    """[local_batch], the number of entries of each row, at least 1."""
    mask = modalities.present(local, which.present)
    count = batch_axis.total(jnp.sum(mask, dtype=jnp.float32), axis_name)
    return jnp.where(mask, jnp.maximum(count - which.exclude_self, 1), 1)
