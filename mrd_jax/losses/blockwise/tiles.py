# SPDX-License-Identifier: Apache-2.0
"""Tiles, the pairs of the local samples with a block of the global batch, and a loop over them."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mrd_jax.losses import batch_axis, loss_plan, modalities, relation


class Samples(NamedTuple):
    """Samples of this device and of all devices.

    Attributes:
      local: modalities with `local_batch` rows.
      gathered: the same modalities, all-gathered: `global_batch` rows.
      positions: [local_batch], positions of the local samples in the global batch.
    """

    local: modalities.Batch
    gathered: modalities.Batch
    positions: jax.Array


class Statistics(NamedTuple):
    """Statistics of the rows of relations, from which their entries can be computed.

    Attributes:
      references: {"XY": [rows]}, x_i . y_i. Similarities are computed relative to it: the
        difference is small for a sharp row, and so is its rounding error in float32.
      normalisers: {spec: [rows]}, the log-sum-exp of a row of similarities; for distances their
        mean over the batch, the same for every row.
    """

    references: dict[str, jax.Array]
    normalisers: dict[loss_plan.RelationSpec, jax.Array]


@dataclasses.dataclass(frozen=True)
class Tile:
    """Pairs of the local samples with the samples of a block, as arrays [local_batch, block].

    The local samples are the rows of its relations; in a transposed tile, those of the block are.
    The shape of the arrays is the same in both cases.

    Attributes:
      local: modalities of the local samples.
      block: modalities of the block's samples.
      positions: [local_batch], positions of the local samples in the global batch.
      columns: [block], positions of the block's samples in the global batch.
      unseen: [block] bool; False for samples that an earlier block contained.
      statistics: statistics of the rows.
      scalars: temperatures and mixing weights.
      products: {"XY": x_i . y_j}, local modality first; a cache, since several relations and the
        transposed tile use the same products.
      transposed: the block's samples are the rows.
    """

    local: modalities.Batch
    block: modalities.Batch
    positions: jax.Array
    columns: jax.Array
    unseen: jax.Array
    statistics: Statistics
    scalars: loss_plan.Scalars
    products: dict[str, jax.Array] = dataclasses.field(default_factory=dict)
    transposed: bool = False

    @property
    def diagonal(self) -> jax.Array:
        """Mask of the pairs of a sample with itself."""
        return self.positions[:, None] == self.columns[None, :]

    def transpose(self, statistics: Statistics) -> "Tile":
        """Returns the tile whose rows are the block's samples, which have these statistics."""
        return dataclasses.replace(self, statistics=statistics, transposed=True)

    def broadcast(self, vector: jax.Array) -> jax.Array:
        """Expands one value per row so that it broadcasts along the row."""
        return vector[None, :] if self.transposed else vector[:, None]

    def inner(self, name: str) -> jax.Array:
        """Returns the products x_i . y_j of the rows with the columns."""
        name = name[::-1] if self.transposed else name
        if name not in self.products:
            rows, columns = self.local[name[0]].rows, self.block[name[1]].rows
            self.products[name] = relation.products(rows, columns)
        return self.products[name]

    def valid(self, spec: loss_plan.RelationSpec, *, repeat: bool = False) -> jax.Array:
        """Returns the mask of the valid pairs, the same for the transposed tile.

        Args:
          spec: relation.
          repeat: count a pair in every block that contains it, instead of once per pass.
        """
        valid = modalities.present(self.local, spec.required)[:, None]
        columns = modalities.present(self.block, spec.required)
        valid &= (columns if repeat else columns & self.unseen)[None, :]
        return valid & ~self.diagonal if spec.exclude_self else valid

    def values(self, spec: loss_plan.RelationSpec) -> jax.Array:
        """Returns similarities over temperature, cosines or distances; not masked."""
        inner = self.inner(spec.name)
        if spec.family == "similarity":
            relative = inner - self.broadcast(self.statistics.references[spec.name])
            return relative / self.scalars.temperatures[spec.temperature]
        if spec.family == "cosine":
            return inner
        # The norms are constant in the student's rows too: the normalisation that made these rows
        # removes the component of a gradient along a row.
        name = spec.name[::-1] if self.transposed else spec.name
        return relation.euclidean_distances(
            inner,
            row_norms=relation.squared_norms(self.local[name[0]].rows)[:, None],
            column_norms=relation.squared_norms(self.block[name[1]].rows)[None, :],
        )

    def entries(self, spec: loss_plan.RelationSpec) -> jax.Array:
        """Returns the entries of the relation as in the plain form, -inf where masked."""
        values = self.values(spec)
        normaliser = self.broadcast(self.statistics.normalisers[spec])
        if spec.family == "similarity":
            scaled = values - normaliser
        else:
            scaled = relation.divide_by_mean(values, normaliser)
        return jnp.where(self.valid(spec), scaled, -jnp.inf)

    def magnitudes(self, spec: loss_plan.RelationSpec) -> jax.Array:
        """Returns the summands of the mean that normalises a distance relation."""
        pairs = self.valid(spec._replace(exclude_self=True))
        return jnp.where(pairs, jnp.abs(self.values(spec)), 0)


def gather(batch: modalities.Batch, axis_name: str | None) -> Samples:
    """All-gathers every modality once."""
    gathered = jax.tree.map(lambda leaf: batch_axis.gather(leaf, axis_name), dict(batch))
    local_batch = len(next(iter(batch.values())).mask)
    positions = batch_axis.global_positions(local_batch, axis_name)
    return Samples(batch, gathered, positions)


def loop(
    step: Callable[[Any, Tile, Callable[..., jax.Array]], Any],
    carry: Any,
    samples: Samples,
    statistics: Statistics,
    scalars: loss_plan.Scalars,
    *,
    block: int,
) -> Any:
    """Passes once over the global batch, one block of columns at a time.

    If the block does not divide the batch, the last block overlaps the one before; samples that it
    repeats are not `unseen`.

    Args:
      step: (carry, tile, take) -> carry; `take` slices the block's rows from `global_batch` rows.
      carry: initial carry.
      samples: samples of this device and of all devices.
      statistics: statistics of the local rows.
      scalars: temperatures and mixing weights.
      block: columns at a time; the whole batch if that is smaller.

    Returns:
      The carry after the last block.
    """
    global_batch = len(next(iter(samples.gathered.values())).mask)
    block = min(block, global_batch)

    def body(index: jax.Array, carry: Any) -> Any:
        start = jnp.minimum(index * block, global_batch - block)

        def take(rows: jax.Array, axis: int = 0) -> jax.Array:
            return jax.lax.dynamic_slice_in_dim(rows, start, block, axis)

        columns = start + jnp.arange(block)
        unseen = columns >= index * block
        tile = Tile(
            samples.local,
            jax.tree.map(take, samples.gathered),
            samples.positions,
            columns,
            unseen,
            statistics,
            scalars,
        )
        return step(carry, tile, take)

    return jax.lax.fori_loop(0, -(-global_batch // block), body, carry)
