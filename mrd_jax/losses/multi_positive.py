# SPDX-License-Identifier: Apache-2.0
"""Multi-positive InfoNCE between point clouds and several features of one teacher modality.

Sample i has the positives v_im, such as several views or captions. Each competes with the features
of the other samples, not with the other positives of its own:

  z_im   = s p_i . v_im
  N_i    = log sum_{j != i} sum_n exp(s p_i . v_jn)
  C_im   = log sum_j exp(s p_j . v_im)
  loss_i = mean_m [ (log(exp z_im + exp N_i) - z_im) + (C_im - z_im) ] / 2

With one positive, this is `contrastive.contrastive_loss`. The idea is that of HOLA's decoupled
multi-positive loss (arXiv 2606.01334); the equation is ours. Empty slots, v_im that a sample lacks,
are in no sum. Both forms of the losses compute N and C in their own way, and `combine` them.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrd_jax.losses import batch_axis, relation


class Statistics(NamedTuple):
    """Normalisers of the local samples.

    Attributes:
      negatives: [local_batch], N_i; -inf if no other sample has the modality.
      points: [local_batch, positives], C_im; finite for empty slots.
    """

    negatives: jax.Array
    points: jax.Array


def contrastive_loss(
    points: jax.Array,
    teacher: jax.Array,
    *,
    scale: jax.typing.ArrayLike,
    mask: jax.Array,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes multi-positive InfoNCE from whole matrices, one value per sample.

    Args:
      points: [local_batch, dim], student embeddings p_i, unit norm.
      teacher: [local_batch, positives, dim], features v_im, unit norm; receives no gradient.
      scale: s > 0, the inverse temperature.
      mask: [local_batch, positives] bool, False for empty slots. A sample without any positive is
        excluded as a row and as a column.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      [local_batch], 0 for a sample without a positive.
    """
    teacher = jax.lax.stop_gradient(teacher)
    local_batch, count, dim = teacher.shape
    present = mask.any(axis=-1)
    positions = batch_axis.global_positions(local_batch, axis_name)

    columns = batch_axis.gather(teacher, axis_name)
    others = positions[:, None] != jnp.arange(len(columns))[None, :]
    valid = present[:, None, None] & batch_axis.gather(mask, axis_name)[None] & others[..., None]
    products = relation.products(points, columns.reshape(-1, dim)).reshape(valid.shape)
    negatives = _log_sum_exp(jnp.multiply(scale, products), valid, axis=(1, 2))

    valid = mask[..., None] & batch_axis.gather(present, axis_name)
    rows = teacher.reshape(-1, dim)
    products = relation.inner_products(rows, points, axis_name=axis_name).reshape(valid.shape)
    log_points = _log_sum_exp(jnp.multiply(scale, products), valid, axis=2)
    log_points = jnp.where(mask, log_points, 0)
    return combine(points, teacher, Statistics(negatives, log_points), scale=scale, mask=mask)


def combine(
    points: jax.Array,
    teacher: jax.Array,
    statistics: Statistics,
    *,
    scale: jax.typing.ArrayLike,
    mask: jax.Array,
) -> jax.Array:
    """Computes the loss of each sample from the normalisers.

    Args:
      points: as in `contrastive_loss`.
      teacher: as in `contrastive_loss`.
      statistics: normalisers of these samples.
      scale: s > 0, the inverse temperature.
      mask: as in `contrastive_loss`.

    Returns:
      [local_batch], 0 for a sample without a positive.
    """
    similarity = scale * own_products(points, teacher)
    has_negatives = (statistics.negatives > -jnp.inf)[:, None]
    negatives = jnp.where(has_negatives, statistics.negatives[:, None], 0)
    forward = jnp.where(has_negatives, jax.nn.softplus(negatives - similarity), 0)
    backward = statistics.points - similarity
    total = jnp.sum(jnp.where(mask, forward + backward, 0), axis=-1)
    return total / jnp.maximum(jnp.sum(mask, axis=-1), 1) / 2


def own_products(points: jax.Array, teacher: jax.Array) -> jax.Array:
    """Returns p_i . v_im, [local_batch, positives], in float32 or better."""
    dtype = jnp.promote_types(points.dtype, jnp.float32)
    return jnp.sum(points.astype(dtype)[:, None, :] * teacher.astype(dtype), axis=-1)


def retrieval_accuracy(
    points: jax.Array, teacher: jax.Array, *, mask: jax.Array, axis_name: str | None = None
) -> jax.Array:
    """Computes whether the nearest of all features in the global batch is one of the sample's own.

    Args:
      points: as in `contrastive_loss`.
      teacher: as in `contrastive_loss`.
      mask: as in `contrastive_loss`.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      [local_batch], 1 or 0 per sample, 0 without a positive; ties are resolved to the first column.
    """
    local_batch, count, dim = teacher.shape
    columns = batch_axis.gather(teacher, axis_name).reshape(-1, dim)
    valid = mask.any(axis=-1)[:, None] & batch_axis.gather(mask, axis_name).reshape(1, -1)
    similarity = jnp.where(valid, relation.products(points, columns), -jnp.inf)
    nearest = jnp.argmax(similarity, axis=-1) // count
    correct = nearest == batch_axis.global_positions(local_batch, axis_name)
    return (correct & mask.any(axis=-1)).astype(similarity.dtype)


def _log_sum_exp(logits: jax.Array, valid: jax.Array, *, axis: int | tuple[int, ...]) -> jax.Array:
    """Returns the log-sum-exp of the valid entries, -inf without any, with finite gradients."""
    nonempty = valid.any(axis=axis, keepdims=True)
    safe = jnp.where(valid, logits, jnp.where(nonempty, -jnp.inf, 0))
    return jnp.where(jnp.squeeze(nonempty, axis), jax.nn.logsumexp(safe, axis=axis), -jnp.inf)
