# SPDX-License-Identifier: Apache-2.0
"""The values of a plan from whole relation matrices: the reference, and fastest while they fit."""

import functools
from typing import Any

import jax
import jax.numpy as jnp

from mrd_jax.losses import contrastive, loss_plan, modalities, relation


def row_values(
    plan: loss_plan.Plan,
    batch: modalities.Batch,
    scalars: loss_plan.Scalars,
    *,
    axis_name: str | None = None,
) -> dict[str, jax.Array]:
    """What each sample adds to every part of the objective.

    Args:
      plan: what to compute.
      batch: P, V and T of this device; the teacher's V and T come without gradient.
      scalars: temperatures and mixing weights.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      [local_batch] arrays: for each contrast "contrastive_X" and "accuracy_X", and each
      comparison's divergence under the name of its part; 0 for a row that does not count.
    """
    rows = {}
    for name, find_teacher, _ in plan.contrasts:
        pair = tuple(batch[letter].rows for letter in find_teacher.name)
        where: dict[str, Any] = {
            "mask": modalities.present(batch, find_teacher.present),
            "axis_name": axis_name,
        }
        rows[f"contrastive_{name}"] = contrastive.contrastive_loss(
            *pair, scale=1 / scalars.contrast, **where
        )
        rows[f"accuracy_{name}"] = contrastive.retrieval_accuracy(*pair, **where)
    relate = functools.partial(_relate, batch, scalars, axis_name=axis_name)
    for comparison in plan.comparisons:
        targets = [relate(target) for target in comparison.targets]
        target = targets[0]
        if len(targets) > 1:
            log_weights = scalars.log_weights[comparison.term]
            family = comparison.student.family
            target = relation.mix(jnp.stack(targets), log_weights, family=family)
        rows[comparison.part] = relation.divergence(
            target, relate(comparison.student), kind=comparison.divergence
        )
    return rows


def _relate(
    batch: modalities.Batch,
    scalars: loss_plan.Scalars,
    which: loss_plan.Relation,
    *,
    axis_name: str | None,
) -> jax.Array:
    """[local_batch, global_batch], the relation R^XY."""
    rows, columns = (batch[modality].rows for modality in which.name)
    pairs: dict[str, Any] = {
        "exclude_self": which.exclude_self,
        "mask": modalities.present(batch, which.present),
        "axis_name": axis_name,
    }
    if which.family == "similarity":
        temperature = getattr(scalars, which.temperature)
        return relation.log_relation(rows, columns, temperature=temperature, **pairs)
    return relation.distance_relation(rows, columns, metric=which.family, **pairs)
