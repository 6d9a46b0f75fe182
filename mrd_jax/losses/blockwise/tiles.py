# SPDX-License-Identifier: Apache-2.0
"""The pairs of this device's samples with one block of the global batch, and a pass over blocks."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mrd_jax.losses import batch_axis, loss_plan, modalities, relation


class Samples(NamedTuple):
    """The samples of this device, those of all devices, and where the first are in the second.

    Attributes:
      local: modalities with `local_batch` rows.
      everyone: the same, gathered once: `global_batch` rows.
      own: [local_batch], position in the global batch.
    """

    local: modalities.Batch
    everyone: modalities.Batch
    own: jax.Array


class Statistics(NamedTuple):
    """What must be known of the rows of relations before their entries can be told.

    Attributes:
      references: {"XY": [rows]}, x_i . y_i. Similarities are taken relative to it: the difference
        is small where a row is sharp, and so is what float32 loses of it.
      normalisers: {relation: [rows]}: for similarities the logarithm of the sum of exponentials,
        for distances their mean over the batch, the same for every row.
    """

    references: dict[str, jax.Array]
    normalisers: dict[loss_plan.Relation, jax.Array]


@dataclasses.dataclass(frozen=True)
class Tile:
    """The pairs of the local samples with a block, as arrays [local_batch, block].

    The rows of its relations are the local samples or, flipped, those of the block.

    Attributes:
      local, block: the modalities of either side.
      own, columns: [local_batch] and [block], positions in the global batch.
      fresh: [block] bool; False for samples that an earlier block has held.
      statistics: of the rows.
      scalars: temperatures and mixing weights.
      products: x_i . y_j by name, local modality first; filled on first use, because several
        relations share them, and so do both ways of looking.
      flipped: whether the block's samples are the rows.
    """

    local: modalities.Batch
    block: modalities.Batch
    own: jax.Array
    columns: jax.Array
    fresh: jax.Array
    statistics: Statistics
    scalars: loss_plan.Scalars
    products: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    flipped: bool = False

    @property
    def same(self) -> jax.Array:
        """Which pairs are a sample and itself."""
        return self.own[:, None] == self.columns[None, :]

    def flip(self, statistics: Statistics) -> "Tile":
        """The same pairs with the block's samples as rows, and the statistics of those."""
        return dataclasses.replace(self, statistics=statistics, flipped=True)

    def across(self, vector: jax.Array) -> jax.Array:
        """One value per row of a relation, to broadcast along the row."""
        return vector[None, :] if self.flipped else vector[:, None]

    def inner(self, name: str) -> jax.Array:
        """Products x_i . y_j of the samples that are rows with those that are columns."""
        name = name[::-1] if self.flipped else name
        if name not in self.products:
            rows, columns = self.local[name[0]].rows, self.block[name[1]].rows
            self.products[name] = relation.products(rows, columns)
        return self.products[name]

    def valid(self, which: loss_plan.Relation, *, again: bool = False) -> jax.Array:
        """Which pairs count; the same from either side. Once over the pass, or in every block."""
        valid = modalities.present(self.local, which.present)[:, None]
        columns = modalities.present(self.block, which.present)
        valid &= (columns if again else columns & self.fresh)[None, :]
        return valid & ~self.same if which.exclude_self else valid

    def values(self, which: loss_plan.Relation) -> jax.Array:
        """Similarities over temperature, cosines or distances, also where left out."""
        inner = self.inner(which.name)
        if which.family == "similarity":
            relative = inner - self.across(self.statistics.references[which.name])
            return relative / getattr(self.scalars, which.temperature)
        if which.family == "cosine":
            return inner
        # Constant for the student's rows too: the part of a gradient along a row ends at the
        # normalisation that the row came from.
        name = which.name[::-1] if self.flipped else which.name
        return relation.euclidean(
            inner,
            row_square=relation.squares(self.local[name[0]].rows)[:, None],
            column_square=relation.squares(self.block[name[1]].rows)[None, :],
        )

    def entries(self, which: loss_plan.Relation) -> jax.Array:
        """The relation as the plain form has it, -inf where left out."""
        values = self.values(which)
        normaliser = self.across(self.statistics.normalisers[which])
        if which.family == "similarity":
            scaled = values - normaliser
        else:
            scaled = relation.in_units_of(values, normaliser)
        return jnp.where(self.valid(which), scaled, -jnp.inf)

    def magnitudes(self, which: loss_plan.Relation) -> jax.Array:
        """What each pair adds to the sum whose mean is the normaliser of a distance."""
        pairs = self.valid(which._replace(exclude_self=True))
        return jnp.where(pairs, jnp.abs(self.values(which)), 0)


def gather(batch: modalities.Batch, axis_name: str | None) -> Samples:
    """Collects every modality over the devices, each once."""
    everyone = jax.tree.map(lambda leaf: batch_axis.gather(leaf, axis_name), dict(batch))
    own = batch_axis.own_columns(batch["P"].mask.shape[0], axis_name)
    return Samples(batch, everyone, own)


def sweep(
    step: Callable[[Any, Tile, Callable[..., jax.Array]], Any],
    carry: Any,
    samples: Samples,
    statistics: Statistics,
    scalars: loss_plan.Scalars,
    *,
    block: int,
) -> Any:
    """Passes over the global batch, a block of columns at a time.

    Where the block does not divide the batch, the last one reaches back into the one before;
    samples seen twice are not fresh the second time.

    Args:
      step: (carry, tile, take) -> carry; `take` cuts the block's rows out of
        `global_batch` ones.
      carry: at the start.
      samples: both sides.
      statistics: of the local rows.
      scalars: temperatures and mixing weights.
      block: columns at a time; the whole batch where that is smaller.

    Returns:
      The carry after the last block.
    """
    global_batch = samples.everyone["P"].mask.shape[0]
    block = min(block, global_batch)

    def body(index: jax.Array, carry: Any) -> Any:
        start = jnp.minimum(index * block, global_batch - block)

        def take(rows: jax.Array, axis: int = 0) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(rows, start, block, axis)

        columns = start + jnp.arange(block)
        fresh = columns >= index * block
        tile = Tile(
            samples.local,
            jax.tree.map(take, samples.everyone),
            samples.own,
            columns,
            fresh,
            statistics,
            scalars,
        )
        return step(carry, tile, take)

    return jax.lax.fori_loop(0, -(-global_batch // block), body, carry)
