# SPDX-License-Identifier: Apache-2.0
"""The values of a plan in memory for [local_batch, block] arrays, whatever the global batch.

Columns of the gathered modalities pass by a block at a time (`passes`): once for the statistics of
each row and most divergences, once more for those that need the statistics first, and once for the
gradient, which is our own: JAX would keep every block. What is gathered again for it are statistics
of rows, not embeddings, and nothing is reduce-scattered.
"""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp

from mrd_jax.losses import loss_plan, modalities, relation
from mrd_jax.losses.blockwise import collection, passes, tiles


def row_values(
    plan: loss_plan.Plan,
    batch: modalities.Batch,
    scalars: loss_plan.Scalars,
    *,
    block: int,
    axis_name: str | None = None,
) -> dict[str, jax.Array]:
    """The same as `plain.row_values`, values and gradients, up to float rounding.

    The gradient of a scalar is this device's share: summed over devices it is that of the plain
    form, device by device it is not.

    Args:
      plan: what to compute.
      batch: P, V and T of this device; only P's rows receive a gradient.
      scalars: temperatures and mixing weights.
      block: columns at a time, >= 1; need not divide the global batch.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      As `plain.row_values`.
    """
    used = {letter for c in _comparisons(plan) for letter in c.student.present}
    teacher = {letter: batch[letter] for letter in sorted(used)}
    values, correct = _values(plan, block, axis_name, batch["P"], scalars, teacher)
    rows = {c.part: values[c.part] for c in plan.comparisons}
    for name, there, back in plan.contrasts:
        rows[f"contrastive_{name}"] = (values[there.name] + values[back.name]) / 2
        rows[f"accuracy_{name}"] = correct[there.name]
    return rows


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _values(
    plan: loss_plan.Plan,
    block: int,
    axis_name: str | None,
    points: modalities.Modality,
    scalars: loss_plan.Scalars,
    teacher: modalities.Batch,
) -> tuple[collection.Rows, collection.Rows]:
    """Values of all comparisons, and whether rows of contrasts are correct, by part."""
    return _forward(plan, block, axis_name, points, scalars, teacher)[0]


def _forward(
    plan: loss_plan.Plan,
    block: int,
    axis_name: str | None,
    points: modalities.Modality,
    scalars: loss_plan.Scalars,
    teacher: modalities.Batch,
) -> tuple[Any, Any]:
    samples = tiles.gather({"P": points, **teacher}, axis_name)
    comparisons = _comparisons(plan)
    statistics, (values, slopes), correct = collection.collect(
        comparisons, samples, scalars, block=block, axis_name=axis_name
    )
    others = [c for c in comparisons if not collection.is_collected(c)]
    if others:
        more = passes.compare(others, samples, statistics, scalars, block=block)
        values, slopes = values | more.values, slopes | more.slopes
    sizes = _sizes(comparisons, samples, axis_name)
    values = {part: rows / sizes[part] if part in sizes else rows for part, rows in values.items()}
    return (values, correct), (samples, scalars, statistics, slopes)


def _backward(
    plan: loss_plan.Plan, block: int, axis_name: str | None, residuals: Any, cotangents: Any
) -> tuple[modalities.Modality, loss_plan.Scalars, None]:
    samples, scalars, statistics, slopes = residuals
    comparisons = _comparisons(plan)
    sizes = _sizes(comparisons, samples, axis_name)
    weights = {
        part: rows / sizes[part] if part in sizes else rows for part, rows in cotangents[0].items()
    }
    by_points, by_scalar = passes.differentiate(
        comparisons,
        samples,
        statistics,
        scalars,
        weights=weights,
        slopes=slopes,
        block=block,
        axis_name=axis_name,
    )
    rows = by_points.astype(samples.local["P"].rows.dtype)
    by_scalar = by_scalar._replace(teacher=jnp.zeros_like(scalars.teacher))
    # No gradient for the mask, nor for the teacher.
    return modalities.Modality(rows, cast(Any, None)), by_scalar, None


_values.defvjp(_forward, _backward)


def _comparisons(plan: loss_plan.Plan) -> tuple[loss_plan.Comparison, ...]:
    """Those of the plan, and its contrasts as comparisons of their own."""
    contrasts = (
        loss_plan.Comparison(which.name, contrast.name, collection.CROSS_ENTROPY, which, ())
        for contrast in plan.contrasts
        for which in (contrast.find_teacher, contrast.find_points)
    )
    return (*contrasts, *plan.comparisons)


def _sizes(
    comparisons: tuple[loss_plan.Comparison, ...], samples: tiles.Samples, axis_name: str | None
) -> collection.Rows:
    """Entries of a row, for the divergences that are a mean over them."""
    return {
        c.part: collection.row_size(c.student, samples.local, axis_name)
        for c in comparisons
        if c.divergence in relation.MEANS
    }
