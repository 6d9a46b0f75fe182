# SPDX-License-Identifier: Apache-2.0
"""The later passes over the global batch: values that need statistics, and the gradient.

Let F_i be the value of a comparison in row i, N_i the normaliser of its student relation and l_ij
the similarities or distances before normalisation. Then with weights w_i

    d sum_i w_i F_i = sum over blocks of ( sum_i w_i dF_i at constant N  +  sum_i w_i s_i dN_i )

where s_i = dF_i / dN_i, the slope, is a number per row that an earlier pass has found. JAX
differentiates one block at a time, through the functions that the plain form calls as well.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mrd_jax.losses import batch_axis, loss_plan, modalities, relation
from mrd_jax.losses.blockwise import collection, tiles


def compare(
    comparisons: Sequence[loss_plan.Comparison],
    samples: tiles.Samples,
    statistics: tiles.Statistics,
    scalars: loss_plan.Scalars,
    *,
    block: int,
) -> collection.Values:
    """Second pass: the values of any comparisons, as sums over the entries of a row."""

    def step(sums: collection.Values, tile: tiles.Tile, _: Any) -> collection.Values:
        def values(normalisers: collection.Rows) -> tuple[jax.Array, collection.Rows]:
            rows = {}
            for c in comparisons:
                changed = statistics.normalisers | {c.student: normalisers[c.part]}
                seen = dataclasses.replace(
                    tile, statistics=statistics._replace(normalisers=changed)
                )
                rows[c.part] = jnp.sum(_terms(seen, c), axis=1)
            return sum((jnp.sum(values) for values in rows.values()), jnp.float32(0)), rows

        at = {c.part: statistics.normalisers[c.student] for c in comparisons}
        slopes, rows = jax.grad(values, has_aux=True)(at)
        return jax.tree.map(jnp.add, sums, collection.Values(rows, slopes))

    zeros = {c.part: jnp.zeros_like(statistics.normalisers[c.student]) for c in comparisons}
    return tiles.sweep(
        step, collection.Values(zeros, zeros), samples, statistics, scalars, block=block
    )


def differentiate(
    comparisons: Sequence[loss_plan.Comparison],
    samples: tiles.Samples,
    statistics: tiles.Statistics,
    scalars: loss_plan.Scalars,
    *,
    weights: collection.Rows,
    slopes: collection.Rows,
    block: int,
    axis_name: str | None,
) -> tuple[jax.Array, loss_plan.Scalars]:
    """Last pass: the gradient of the weighted sum of all values over all devices.

    A local point cloud is a row of R^PX here and a column of the R^XP of every device. Of the
    latter only the statistics of their rows are fetched: R^XP of one sample with another is a
    product that this device has formed for R^PX.

    Args:
      comparisons: all of them.
      samples: both sides.
      statistics: of the local rows.
      scalars: temperatures and mixing weights.
      weights: of the local rows' values.
      slopes: of the local rows' values.
      block: columns at a time.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      The gradients of the local points, and this device's share of those of the scalars.
    """
    local = samples.local
    rows = [c for c in comparisons if c.student.name[0] == "P"]
    columns = [c for c in comparisons if c.student.name[1] == "P"]
    near = _Known(statistics, weights, _reach(comparisons, local, weights, slopes, axis_name))
    leaves, structure = jax.tree.flatten(near.of(columns))
    # Rows last, as accelerators pad that dimension; one array: one collective, one cut a block.
    far = batch_axis.gather(jnp.stack(leaves), axis_name, axis=1) if leaves else None
    points = local["P"].rows
    names = sorted({c.student.name for c in rows} | {c.student.name[::-1] for c in columns})

    def step(sums: Any, tile: tiles.Tile, take: Callable[..., jax.Array]) -> Any:
        beside = jax.tree.unflatten(structure, () if far is None else tuple(take(far, axis=1)))

        def total(products: dict[str, jax.Array], scalars: loss_plan.Scalars) -> jax.Array:
            mine = dataclasses.replace(tile, products=dict(products), scalars=scalars)
            theirs = mine.flip(beside.statistics)
            # R^PP has its share of these from the side of its rows.
            fixed = dataclasses.replace(theirs, scalars=jax.lax.stop_gradient(scalars))
            result = sum((_pull(mine, c, near) for c in rows), jnp.float32(0))
            for c in columns:
                result += _pull(fixed if c in rows else theirs, c, beside)
            return result

        products = {name: tile.inner(name) for name in names}
        by_product, by_scalar = jax.grad(total, argnums=(0, 1))(products, scalars)
        by_points = sum(
            relation.products(slope.astype(points.dtype), tile.block[name[1]].rows.T)
            for name, slope in by_product.items()
        )
        return jax.tree.map(jnp.add, sums, (by_points, by_scalar))

    zeros = jnp.zeros(points.shape, dtype=jnp.promote_types(points.dtype, jnp.float32))
    start = (zeros, jax.tree.map(jnp.zeros_like, scalars))
    return tiles.sweep(step, start, samples, statistics, scalars, block=block)


class _Known(NamedTuple):
    """Of rows, local or of a block: all that a gradient needs beside the products.

    Attributes:
      statistics: of their relations.
      weights: w by part, per entry of the row.
      reach: w s by part; for a distance the same for every row, per pair of the batch.
    """

    statistics: tiles.Statistics
    weights: collection.Rows
    reach: collection.Rows

    def of(self, comparisons: Sequence[loss_plan.Comparison]) -> "_Known":
        """Without what these comparisons do not need."""
        used = collection.relations_of(comparisons)
        names = {which.name for which in used}
        parts = {c.part for c in comparisons}

        def only(some: Any, rows: dict) -> dict:
            return {key: values for key, values in rows.items() if key in some}

        statistics = tiles.Statistics(
            only(names, self.statistics.references), only(used, self.statistics.normalisers)
        )
        return _Known(statistics, only(parts, self.weights), only(parts, self.reach))


def _reach(
    comparisons: Sequence[loss_plan.Comparison],
    local: modalities.Batch,
    weights: collection.Rows,
    slopes: collection.Rows,
    axis_name: str | None,
) -> collection.Rows:
    """What the normaliser of each row of the student's relation adds to the sum, per unit."""
    reach = {}
    for c in comparisons:
        rows = weights[c.part] * slopes[c.part]
        if c.student.family != "similarity":
            pairs = collection.number_of_pairs(c.student, local, axis_name)
            amount = batch_axis.total(jnp.sum(rows), axis_name) / pairs
            rows = jnp.broadcast_to(amount, rows.shape)
        reach[c.part] = rows
    return reach


def _pull(tile: tiles.Tile, comparison: loss_plan.Comparison, known: _Known) -> jax.Array:
    """A scalar of one block whose gradient, summed over the blocks, is that of the comparison."""
    which = comparison.student
    # The gradient of these is that of the normaliser, as sum_j exp(l_ij - N_i) = 1.
    pull = jnp.exp(tile.entries(which)) if which.family == "similarity" else tile.magnitudes(which)
    through_normaliser = jnp.sum(tile.across(known.reach[comparison.part]) * pull)
    terms = _terms(tile, comparison)
    return through_normaliser + jnp.sum(tile.across(known.weights[comparison.part]) * terms)


def _terms(tile: tiles.Tile, comparison: loss_plan.Comparison) -> jax.Array:
    """[local_batch, block], what each pair adds to the value of its row."""
    student = tile.entries(comparison.student)
    if comparison.divergence == collection.CROSS_ENTROPY:
        own = tile.same & tile.valid(comparison.student)
        return jnp.where(own, -jnp.where(own, student, 0), 0)
    target, *others = targets = [tile.entries(which) for which in comparison.targets]
    if others:
        log_weights = tile.scalars.log_weights[comparison.term]
        target = relation.mix(jnp.stack(targets), log_weights, family=comparison.student.family)
    return relation.divergence_terms(target, student, kind=comparison.divergence)
