# SPDX-License-Identifier: Apache-2.0
"""Plain form of the losses: whole relation matrices; the reference, and fastest while they fit."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mrd_jax.losses import contrastive, loss_plan, modalities, relation, temperatures


def row_values(
    plan: loss_plan.Plan,
    batch: modalities.Batch,
    scalars: loss_plan.Scalars,
    *,
    axis_name: str | None = None,
) -> dict[str, jax.Array]:
    """Computes the value of every part of the objective, per sample.

    Args:
      plan: contrastive terms and comparisons to compute.
      batch: P, V and T of this device; V and T have no gradient.
      scalars: temperatures and mixing weights.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      [local_batch] arrays: "contrastive_X" and "accuracy_X" for each contrast, and the divergence
      of each comparison under the name of its part; 0 for a row without a valid entry.
    """
    rows = {}
    for contrast in plan.contrasts:
        spec = contrast.points_to_teacher
        pair = tuple(batch[letter].rows for letter in spec.name)
        options: dict[str, Any] = {
            "mask": modalities.present(batch, spec.required),
            "axis_name": axis_name,
        }
        rows[f"contrastive_{contrast.name}"] = contrastive.contrastive_loss(
            *pair, scale=1 / scalars.temperatures[temperatures.CONTRAST], **options
        )
        rows[f"accuracy_{contrast.name}"] = contrastive.retrieval_accuracy(*pair, **options)
    compute = functools.partial(_relation, batch, scalars, axis_name=axis_name)
    for comparison in plan.comparisons:
        targets = [compute(target) for target in comparison.targets]
        target = targets[0]
        if len(targets) > 1:
            log_weights = scalars.log_weights[comparison.term]
            family = comparison.student.family
            target = relation.mix(jnp.stack(targets), log_weights, family=family)
        rows[comparison.part] = relation.divergence(
            target, compute(comparison.student), kind=comparison.divergence
        )
    return rows


def _relation(
    batch: modalities.Batch,
    scalars: loss_plan.Scalars,
    spec: loss_plan.RelationSpec,
    *,
    axis_name: str | None,
) -> jax.Array:
    """Computes the relation R^XY, [local_batch, global_batch]."""
    rows, columns = (batch[modality].rows for modality in spec.name)
    options: dict[str, Any] = {
        "exclude_self": spec.exclude_self,
        "mask": modalities.present(batch, spec.required),
        "axis_name": axis_name,
    }
    if spec.family == "similarity":
        temperature = scalars.temperatures[spec.temperature]
        return relation.log_relation(rows, columns, temperature=temperature, **options)
    return relation.distance_relation(rows, columns, metric=spec.family, **options)
