# SPDX-License-Identifier: Apache-2.0
"""Blockwise form of the losses: memory for [local_batch, block] arrays, for any global batch.

Columns of the gathered modalities are processed one block at a time: the first pass computes the
statistics of each row and most divergences (`first_pass`), a second pass the divergences that need
the statistics first, and a last pass the gradient (`later_passes`). The gradient is a custom one,
since autodiff would store every block. It gathers row statistics, not embeddings, and needs no
reduce-scatter.
"""

import functools
from typing import Any, cast

import jax
import jax.numpy as jnp

from mrd_jax.losses import loss_plan, modalities, relation, temperatures
from mrd_jax.losses.blockwise import first_pass, later_passes, multi_positive, tiles


def row_values(
    plan: loss_plan.Plan,
    batch: modalities.Batch,
    scalars: loss_plan.Scalars,
    *,
    block: int,
    axis_name: str | None = None,
) -> dict[str, jax.Array]:
    """Computes the same values and gradients as `plain.row_values`, up to rounding.

    The gradient of a scalar is this device's contribution: summed over devices it equals that of
    the plain form, on a single device it does not.

    Args:
      plan: contrastive terms and comparisons to compute.
      batch: P, V and T of this device; only the rows of P receive a gradient.
      scalars: temperatures and mixing weights.
      block: columns at a time, >= 1; need not divide the global batch.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      [local_batch] arrays by name, as `plain.row_values`.
    """
    rows = {}
    several = [c for c in plan.contrasts if batch[c.points_to_teacher.required].rows.ndim == 3]
    for contrast in several:
        rows[f"contrastive_{contrast.name}"], rows[f"accuracy_{contrast.name}"] = (
            multi_positive.row_values(
                batch["P"],
                batch[contrast.points_to_teacher.required],
                scale=1 / scalars.temperatures[temperatures.CONTRAST],
                block=block,
                axis_name=axis_name,
            )
        )
    plan = plan._replace(contrasts=tuple(c for c in plan.contrasts if c not in several))
    if not _comparisons(plan):
        return rows
    letters = {letter for c in _comparisons(plan) for letter in c.student.required}
    teacher = {letter: batch[letter] for letter in sorted(letters)}
    values, correct = _values(plan, block, axis_name, batch["P"], scalars, teacher)
    rows |= {c.part: values[c.part] for c in plan.comparisons}
    for contrast in plan.contrasts:
        forward, backward = contrast.points_to_teacher.name, contrast.teacher_to_points.name
        rows[f"contrastive_{contrast.name}"] = (values[forward] + values[backward]) / 2
        rows[f"accuracy_{contrast.name}"] = correct[forward]
    return rows


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1, 2))
def _values(
    plan: loss_plan.Plan,
    block: int,
    axis_name: str | None,
    points: modalities.Modality,
    scalars: loss_plan.Scalars,
    teacher: modalities.Batch,
) -> tuple[first_pass.Rows, first_pass.Rows]:
    """Computes the values of all comparisons and the accuracy of the contrasts, by part."""
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
    statistics, (values, slopes), correct = first_pass.run(
        comparisons, samples, scalars, block=block, axis_name=axis_name
    )
    remaining = [c for c in comparisons if not first_pass.computes(c)]
    if remaining:
        second = later_passes.compare(remaining, samples, statistics, scalars, block=block)
        values, slopes = values | second.values, slopes | second.slopes
    sizes = _row_sizes(comparisons, samples, axis_name)
    return (_divide(values, sizes), correct), (samples, scalars, statistics, slopes)


def _backward(
    plan: loss_plan.Plan, block: int, axis_name: str | None, residuals: Any, cotangents: Any
) -> tuple[modalities.Modality, loss_plan.Scalars, None]:
    samples, scalars, statistics, slopes = residuals
    comparisons = _comparisons(plan)
    sizes = _row_sizes(comparisons, samples, axis_name)
    by_points, by_scalar = later_passes.differentiate(
        comparisons,
        samples,
        statistics,
        scalars,
        cotangents=_divide(cotangents[0], sizes),
        slopes=slopes,
        block=block,
        axis_name=axis_name,
    )
    rows = by_points.astype(samples.local["P"].rows.dtype)
    by_temperature = {
        key: jnp.zeros_like(slope) if temperatures.is_constant(key) else slope
        for key, slope in by_scalar.temperatures.items()
    }
    by_scalar = by_scalar._replace(temperatures=by_temperature)
    # Neither the mask nor the teacher has a gradient.
    return modalities.Modality(rows, cast(Any, None)), by_scalar, None


_values.defvjp(_forward, _backward)


def _comparisons(plan: loss_plan.Plan) -> tuple[loss_plan.Comparison, ...]:
    """Returns the comparisons of the plan, after its contrasts in the form of comparisons."""
    contrasts = (
        loss_plan.Comparison(spec.name, contrast.name, first_pass.CROSS_ENTROPY, spec, ())
        for contrast in plan.contrasts
        for spec in (contrast.points_to_teacher, contrast.teacher_to_points)
    )
    return (*contrasts, *plan.comparisons)


def _row_sizes(
    comparisons: tuple[loss_plan.Comparison, ...], samples: tiles.Samples, axis_name: str | None
) -> first_pass.Rows:
    """Returns the number of valid entries per row, for the divergences that are means."""
    return {
        c.part: first_pass.row_size(c.student, samples.local, axis_name)
        for c in comparisons
        if c.divergence in relation.MEANS
    }


def _divide(rows: first_pass.Rows, sizes: first_pass.Rows) -> first_pass.Rows:
    return {
        part: values / sizes[part] if part in sizes else values for part, values in rows.items()
    }
