# SPDX-License-Identifier: Apache-2.0
"""Symmetric InfoNCE between point clouds and one teacher modality, and its accuracy."""

from typing import Any

import jax
import jax.numpy as jnp

from mrd_jax.losses import batch_axis, relation


def contrastive_loss(
    points: jax.Array,
    teacher: jax.Array,
    *,
    scale: jax.typing.ArrayLike,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Cross entropy of finding a sample's own teacher feature, and the sample from that feature.

    Row i is (CE(s P V^T)_i + CE(s V P^T)_i) / 2, and since R^PV = softmax(s P V^T) at
    temperature 1 / s, that is -(log R^PV_ii + log R^VP_ii) / 2. Unlike in Uni3D a masked sample
    is no negative either, as in OpenShape.

    Args:
      points: [local_batch, dim], student embeddings p_i, unit norm.
      teacher: [local_batch, dim], image or text features, unit norm; receives no gradient.
      scale: s > 0, the inverse temperature.
      mask: [local_batch] bool; a False sample is left out as a row and as a column.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      [local_batch], one value per sample, 0 where masked. `losses.mrd_loss` averages.
    """
    teacher = jax.lax.stop_gradient(teacher)
    options: dict[str, Any] = {"temperature": 1 / scale, "mask": mask, "axis_name": axis_name}
    find_teacher = relation.log_relation(points, teacher, **options)
    find_points = relation.log_relation(teacher, points, **options)
    own = batch_axis.own_columns(points.shape[0], axis_name)[:, None]
    own_teacher = jnp.take_along_axis(find_teacher, own, axis=-1)[:, 0]
    own_points = jnp.take_along_axis(find_points, own, axis=-1)[:, 0]
    loss = -(own_teacher + own_points) / 2
    return loss if mask is None else jnp.where(mask, loss, 0)


def retrieval_accuracy(
    points: jax.Array,
    teacher: jax.Array,
    *,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Whether a point cloud is nearest to its own teacher feature among those of the batch.

    A training signal, not a benchmark: it falls as the batch grows.

    Args:
      points: [local_batch, dim], unit norm.
      teacher: [local_batch, dim], unit norm.
      mask: [local_batch] bool; a False sample is left out as a row and as a column.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      [local_batch], 1 or 0, 0 where masked; of equal neighbours the first is the nearest.
    """
    valid = relation.valid_pairs(points.shape[0], mask=mask, axis_name=axis_name)
    ranking = relation.inner_products(points, teacher, axis_name=axis_name)
    ranking = jnp.where(valid, ranking, -jnp.inf)
    own = batch_axis.own_columns(points.shape[0], axis_name)
    correct = (jnp.argmax(ranking, axis=-1) == own).astype(ranking.dtype)
    return correct if mask is None else jnp.where(mask, correct, 0)
