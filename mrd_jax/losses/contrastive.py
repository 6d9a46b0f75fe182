# SPDX-License-Identifier: Apache-2.0
"""Symmetric InfoNCE between point clouds and one teacher modality, and its accuracy."""

from typing import Any

import jax
import jax.numpy as jnp

from mrd_jax.losses import batch_axis, multi_positive, relation


def contrastive_loss(
    points: jax.Array,
    teacher: jax.Array,
    *,
    scale: jax.typing.ArrayLike,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes symmetric InfoNCE, one value per sample.

    Row i is (CE(s P V^T)_i + CE(s V P^T)_i) / 2. Since R^PV = softmax(s P V^T) at temperature
    1 / s, this equals -(log R^PV_ii + log R^VP_ii) / 2. A masked sample is not a negative either,
    as in OpenShape but not in Uni3D.

    Args:
      points: [local_batch, dim], student embeddings p_i, unit norm.
      teacher: [local_batch, dim], image or text features, unit norm; receives no gradient. With
        [local_batch, positives, dim], the loss is that of `multi_positive`.
      scale: s > 0, the inverse temperature.
      mask: [local_batch] bool; a False sample is excluded as a row and as a column. With several
        positives, [local_batch, positives]: a False one is excluded.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      [local_batch], 0 where masked. `losses.mrd_loss` averages.
    """
    if teacher.ndim == 3:
        mask = jnp.ones(teacher.shape[:2], dtype=bool) if mask is None else mask
        return multi_positive.contrastive_loss(
            points, teacher, scale=scale, mask=mask, axis_name=axis_name
        )
    teacher = jax.lax.stop_gradient(teacher)
    options: dict[str, Any] = {"temperature": 1 / scale, "mask": mask, "axis_name": axis_name}
    points_to_teacher = relation.log_relation(points, teacher, **options)
    teacher_to_points = relation.log_relation(teacher, points, **options)
    positive = batch_axis.global_positions(points.shape[0], axis_name)[:, None]
    log_teacher = jnp.take_along_axis(points_to_teacher, positive, axis=-1)[:, 0]
    log_points = jnp.take_along_axis(teacher_to_points, positive, axis=-1)[:, 0]
    loss = -(log_teacher + log_points) / 2
    return loss if mask is None else jnp.where(mask, loss, 0)


def retrieval_accuracy(
    points: jax.Array,
    teacher: jax.Array,
    *,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes top-1 accuracy of retrieving a sample's teacher feature within the global batch.

    This is a training signal, not a benchmark: it decreases as the batch grows.

    Args:
      points: [local_batch, dim], unit norm.
      teacher: [local_batch, dim] or [local_batch, positives, dim], unit norm.
      mask: [local_batch] or [local_batch, positives] bool, as in `contrastive_loss`.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      [local_batch], 1 or 0 per sample, 0 where masked; ties are resolved to the first column.
    """
    if teacher.ndim == 3:
        mask = jnp.ones(teacher.shape[:2], dtype=bool) if mask is None else mask
        return multi_positive.retrieval_accuracy(points, teacher, mask=mask, axis_name=axis_name)
    valid = relation.valid_pairs(points.shape[0], mask=mask, axis_name=axis_name)
    similarity = relation.inner_products(points, teacher, axis_name=axis_name)
    similarity = jnp.where(valid, similarity, -jnp.inf)
    positive = batch_axis.global_positions(points.shape[0], axis_name)
    correct = (jnp.argmax(similarity, axis=-1) == positive).astype(similarity.dtype)
    return correct if mask is None else jnp.where(mask, correct, 0)
