# SPDX-License-Identifier: Apache-2.0
"""Later passes over the global batch: values that need the statistics first, and the gradient.

Let F_i be the value of a comparison in row i, N_i the normaliser of its student relation and l_ij
the similarities or distances before normalisation. With cotangents w_i,

    d sum_i w_i F_i = sum over blocks of ( sum_i w_i dF_i at constant N  +  sum_i w_i s_i dN_i )

where the slope s_i = dF_i / dN_i is a number per row from an earlier pass. JAX differentiates one
block at a time, through the same functions that the plain form calls.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mrd_jax.losses import batch_axis, loss_plan, modalities, relation
from mrd_jax.losses.blockwise import first_pass, tiles


def compare(
    comparisons: Sequence[loss_plan.Comparison],
    samples: tiles.Samples,
    statistics: tiles.Statistics,
    scalars: loss_plan.Scalars,
    *,
    block: int,
) -> first_pass.Values:
    """Runs the second pass: the values of any comparisons, as sums over the entries of a row."""

    def step(sums: first_pass.Values, tile: tiles.Tile, _: Any) -> first_pass.Values:
        def values(normalisers: first_pass.Rows) -> tuple[jax.Array, first_pass.Rows]:
            rows = {}
            for c in comparisons:
                replaced = statistics.normalisers | {c.student: normalisers[c.part]}
                replaced_tile = dataclasses.replace(
                    tile, statistics=statistics._replace(normalisers=replaced)
                )
                rows[c.part] = jnp.sum(_terms(replaced_tile, c), axis=1)
            return sum((jnp.sum(values) for values in rows.values()), jnp.float32(0)), rows

        normalisers = {c.part: statistics.normalisers[c.student] for c in comparisons}
        slopes, rows = jax.grad(values, has_aux=True)(normalisers)
        return jax.tree.map(jnp.add, sums, first_pass.Values(rows, slopes))

    zeros = {c.part: jnp.zeros_like(statistics.normalisers[c.student]) for c in comparisons}
    return tiles.loop(
        step, first_pass.Values(zeros, zeros), samples, statistics, scalars, block=block
    )


def differentiate(
    comparisons: Sequence[loss_plan.Comparison],
    samples: tiles.Samples,
    statistics: tiles.Statistics,
    scalars: loss_plan.Scalars,
    *,
    cotangents: first_pass.Rows,
    slopes: first_pass.Rows,
    block: int,
    axis_name: str | None,
) -> tuple[jax.Array, loss_plan.Scalars]:
    """Runs the last pass: the gradient of the weighted sum of all values over all devices.

    A local point cloud is a row of R^PX on this device and a column of R^XP on every device. Only
    the row statistics of the latter are gathered: its products are those of R^PX on this device.

    Args:
      comparisons: all comparisons, contrasts included.
      samples: samples of this device and of all devices.
      statistics: statistics of the local rows.
      scalars: temperatures and mixing weights.
      cotangents: {part: [local_batch]}, cotangents of the values.
      slopes: {part: [local_batch]}, derivatives of the values with respect to the normalisers.
      block: columns at a time.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      The gradient with respect to the local points, and this device's contribution to the gradient
      with respect to the scalars.
    """
    local = samples.local
    rows = [c for c in comparisons if c.student.name[0] == "P"]
    columns = [c for c in comparisons if c.student.name[1] == "P"]
    to_normalisers = _normaliser_cotangents(comparisons, local, cotangents, slopes, axis_name)
    local_rows = _RowData(statistics, cotangents, to_normalisers)
    leaves, structure = jax.tree.flatten(local_rows.subset(columns))
    # One array, for one collective and one slice per block; rows last, the axis that
    # accelerators pad.
    gathered = batch_axis.gather(jnp.stack(leaves), axis_name, axis=1) if leaves else None
    points = local["P"].rows
    names = sorted({c.student.name for c in rows} | {c.student.name[::-1] for c in columns})

    def step(sums: Any, tile: tiles.Tile, take: Callable[..., jax.Array]) -> Any:
        slices = () if gathered is None else tuple(take(gathered, axis=1))
        block_rows = jax.tree.unflatten(structure, slices)

        def total(products: dict[str, jax.Array], scalars: loss_plan.Scalars) -> jax.Array:
            direct = dataclasses.replace(tile, products=dict(products), scalars=scalars)
            transposed = direct.transpose(block_rows.statistics)
            # The rows of R^PP already contribute to the gradient of its scalars.
            constant = dataclasses.replace(transposed, scalars=jax.lax.stop_gradient(scalars))
            result = sum((_surrogate(direct, c, local_rows) for c in rows), jnp.float32(0))
            for c in columns:
                result += _surrogate(constant if c in rows else transposed, c, block_rows)
            return result

        products = {name: tile.inner(name) for name in names}
        by_product, by_scalar = jax.grad(total, argnums=(0, 1))(products, scalars)
        by_points = sum(
            relation.products(gradient.astype(points.dtype), tile.block[name[1]].rows.T)
            for name, gradient in by_product.items()
        )
        return jax.tree.map(jnp.add, sums, (by_points, by_scalar))

    zeros = jnp.zeros(points.shape, dtype=jnp.promote_types(points.dtype, jnp.float32))
    start = (zeros, jax.tree.map(jnp.zeros_like, scalars))
    return tiles.loop(step, start, samples, statistics, scalars, block=block)


class _RowData(NamedTuple):
    """Statistics and cotangents of some rows, local or of a block.

    Attributes:
      statistics: statistics of the rows of relations.
      values: {part: [rows]}, cotangents w of the values.
      normalisers: {part: [rows]}, cotangents of the normalisers: w s for similarities; for
        distances, the sum of w s over the global batch, divided by its number of pairs.
    """

    statistics: tiles.Statistics
    values: first_pass.Rows
    normalisers: first_pass.Rows

    def subset(self, comparisons: Sequence[loss_plan.Comparison]) -> "_RowData":
        """Returns the part that these comparisons need."""
        relations = first_pass.relations_of(comparisons)
        names = {spec.name for spec in relations}
        parts = {c.part for c in comparisons}

        def select(keys: Any, rows: dict) -> dict:
            return {key: values for key, values in rows.items() if key in keys}

        statistics = tiles.Statistics(
            select(names, self.statistics.references),
            select(relations, self.statistics.normalisers),
        )
        return _RowData(statistics, select(parts, self.values), select(parts, self.normalisers))


def _normaliser_cotangents(
    comparisons: Sequence[loss_plan.Comparison],
    local: modalities.Batch,
    cotangents: first_pass.Rows,
    slopes: first_pass.Rows,
    axis_name: str | None,
) -> first_pass.Rows:
    """Computes the cotangents of the normalisers of the student's rows."""
    result = {}
    for c in comparisons:
        rows = cotangents[c.part] * slopes[c.part]
        if c.student.family != "similarity":
            pairs = first_pass.number_of_pairs(c.student, local, axis_name)
            per_pair = batch_axis.psum(jnp.sum(rows), axis_name) / pairs
            rows = jnp.broadcast_to(per_pair, rows.shape)
        result[c.part] = rows
    return result


def _surrogate(tile: tiles.Tile, comparison: loss_plan.Comparison, rows: _RowData) -> jax.Array:
    """Returns a scalar whose gradient, summed over blocks, is the gradient of the comparison."""
    spec = comparison.student
    if spec.family == "similarity":
        # Its gradient is that of the normaliser, since sum_j exp(l_ij - N_i) = 1.
        summands = jnp.exp(tile.entries(spec))
    else:
        summands = tile.magnitudes(spec)
    through_normaliser = jnp.sum(tile.broadcast(rows.normalisers[comparison.part]) * summands)
    terms = _terms(tile, comparison)
    return through_normaliser + jnp.sum(tile.broadcast(rows.values[comparison.part]) * terms)


def _terms(tile: tiles.Tile, comparison: loss_plan.Comparison) -> jax.Array:
    """Computes the summands of the values of the rows, [local_batch, block]."""
    student = tile.entries(comparison.student)
    if comparison.divergence == first_pass.CROSS_ENTROPY:
        positive = tile.diagonal & tile.valid(comparison.student)
        return jnp.where(positive, -jnp.where(positive, student, 0), 0)
    target, *others = targets = [tile.entries(spec) for spec in comparison.targets]
    if others:
        log_weights = tile.scalars.log_weights[comparison.term]
        target = relation.mix(jnp.stack(targets), log_weights, family=comparison.student.family)
    return relation.divergence_terms(target, student, kind=comparison.divergence)
