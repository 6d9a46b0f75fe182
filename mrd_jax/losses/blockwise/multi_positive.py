# SPDX-License-Identifier: Apache-2.0
"""Blockwise form of the multi-positive contrastive loss.

One pass over the gathered features accumulates the normalisers of `losses.multi_positive`: N_i
along the rows of a block and C_im along its columns, which are then added over the devices. The
gradient is a second pass. With cotangents a_i of N_i and b_jn of C_jn, the local point cloud i
receives

  s sum_j sum_n [ a_i exp(s p_i . v_jn - N_i) [j != i] + b_jn exp(s p_i . v_jn - C_jn) ] v_jn

so that normalisers and cotangents of the features are gathered, not embeddings of point clouds.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp

from mrd_jax.losses import batch_axis, loss_plan, modalities, multi_positive, relation
from mrd_jax.losses.blockwise import tiles

# Name of the features in the samples of `tiles`.
_FEATURES = "features"
# Below every product; finite, so that the difference of two of them is not nan.
_LOWEST = -1e30


class _State(NamedTuple):
    """Running statistics after some blocks.

    Attributes:
      maxima: [local_batch], largest product with a feature of another sample.
      exponentials: [local_batch], sum of exp(s (product - maximum)) over these.
      before: [local_batch], largest product with a feature of an earlier sample.
      own: [local_batch], largest product with a feature of the sample itself.
      columns: [2, global_batch, positives], maximum and sum of exponentials of the products of a
        feature with the local point clouds.
    """

    maxima: jax.Array
    exponentials: jax.Array
    before: jax.Array
    own: jax.Array
    columns: jax.Array


class _Entries(NamedTuple):
    """Products of the local point clouds with the features of a block, and which of them count.

    Attributes:
      products: [local_batch, block, positives].
      valid: pairs of a sample that has the modality with a filled slot.
      unseen: valid pairs that no earlier block contained.
      others: unseen pairs of different samples.
    """

    products: jax.Array
    valid: jax.Array
    unseen: jax.Array
    others: jax.Array


def row_values(
    points: modalities.Modality,
    teacher: modalities.Modality,
    *,
    scale: jax.Array,
    block: int,
    axis_name: str | None,
) -> tuple[jax.Array, jax.Array]:
    """Computes the loss and the retrieval accuracy of each sample.

    Args:
      points: P of this device.
      teacher: features of this device, [local_batch, positives, dim], and their mask.
      scale: s > 0, the inverse temperature.
      block: features at a time, >= 1.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      Two [local_batch] arrays, as `contrastive.contrastive_loss` and `retrieval_accuracy`.
    """
    statistics, correct = _statistics(block, axis_name, points.rows, scale, teacher)
    loss = multi_positive.combine(
        points.rows, teacher.rows, statistics, scale=scale, mask=teacher.mask
    )
    return loss, correct


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _statistics(
    block: int,
    axis_name: str | None,
    points: jax.Array,
    scale: jax.Array,
    teacher: modalities.Modality,
) -> tuple[multi_positive.Statistics, jax.Array]:
    """Computes the normalisers and the accuracy of the local samples."""
    return _forward(block, axis_name, points, scale, teacher)[0]


def _forward(
    block: int,
    axis_name: str | None,
    points: jax.Array,
    scale: jax.Array,
    teacher: modalities.Modality,
) -> tuple[Any, Any]:
    samples = tiles.gather({_FEATURES: teacher}, axis_name)

    def step(state: _State, tile: tiles.Tile, _: Callable) -> _State:
        entries = _entries(points, tile)
        others = jnp.where(entries.others, entries.products, -jnp.inf)
        maxima = jnp.maximum(state.maxima, jnp.max(others, axis=(1, 2)))
        rescale = jnp.exp(scale * (state.maxima - maxima))
        sums = jnp.sum(jnp.exp(scale * (others - maxima[:, None, None])), axis=(1, 2))
        earlier = (tile.columns[None, :] < tile.positions[:, None])[..., None]
        before = jnp.max(jnp.where(earlier, others, -jnp.inf), axis=(1, 2))
        own = jnp.where(entries.unseen & ~entries.others, entries.products, -jnp.inf)
        # Columns that the last block repeats get the same values again.
        columns = jnp.where(entries.valid, entries.products, -jnp.inf)
        column_maxima = jnp.maximum(jnp.max(columns, axis=0), _LOWEST)
        column_sums = jnp.sum(jnp.exp(scale * (columns - column_maxima)), axis=0)
        return _State(
            maxima=maxima,
            exponentials=rescale * state.exponentials + sums,
            before=jnp.maximum(state.before, before),
            own=jnp.maximum(state.own, jnp.max(own, axis=(1, 2))),
            columns=jax.lax.dynamic_update_slice_in_dim(
                state.columns, jnp.stack([column_maxima, column_sums]), tile.columns[0], axis=1
            ),
        )

    zeros = jnp.zeros(points.shape[0], jnp.promote_types(points.dtype, jnp.float32))
    columns = jnp.zeros((2, *samples.gathered[_FEATURES].mask.shape), zeros.dtype)
    start = _State(zeros + _LOWEST, zeros, zeros - jnp.inf, zeros - jnp.inf, columns)
    state = _loop(step, start, samples, block=block)

    negatives = _log_sum_exp(state.maxima, state.exponentials, scale, empty=-jnp.inf)
    maxima = batch_axis.pmax(state.columns[0], axis_name)
    sums = state.columns[1] * jnp.exp(scale * (state.columns[0] - maxima))
    log_points = _log_sum_exp(maxima, batch_axis.psum(sums, axis_name), scale, empty=0)
    local = jax.lax.dynamic_slice_in_dim(log_points, samples.positions[0], points.shape[0])
    correct = (state.own >= state.maxima) & (state.own > state.before)
    result = multi_positive.Statistics(negatives, local), correct.astype(zeros.dtype)
    return result, (points, scale, samples, negatives, log_points)


def _backward(block: int, axis_name: str | None, residuals: Any, cotangents: Any) -> tuple:
    points, scale, samples, negatives, log_points = residuals
    by_statistics, _ = cotangents
    by_negatives = jnp.where(negatives > -jnp.inf, by_statistics.negatives, 0)[:, None, None]
    by_points = batch_axis.gather(by_statistics.points, axis_name)

    def step(sums: tuple[jax.Array, jax.Array], tile: tiles.Tile, take: Callable) -> Any:
        entries = _entries(points, tile)
        logits = scale * entries.products
        of_rows = jnp.where(entries.others, logits - negatives[:, None, None], -jnp.inf)
        of_columns = jnp.where(entries.unseen, logits - take(log_points), -jnp.inf)
        weights = by_negatives * jnp.exp(of_rows) + take(by_points) * jnp.exp(of_columns)
        rows = tile.block[_FEATURES].rows.reshape(-1, points.shape[-1])
        flat = weights.reshape(len(points), -1).astype(rows.dtype)
        gradient = relation.products(flat, rows.T)
        return sums[0] + gradient, sums[1] + jnp.sum(weights * entries.products)

    dtype = jnp.promote_types(points.dtype, jnp.float32)
    start = (jnp.zeros(points.shape, dtype), jnp.zeros((), dtype))
    gradient, by_scale = _loop(step, start, samples, block=block)
    # Neither the features nor their mask have a gradient.
    return (scale * gradient).astype(points.dtype), by_scale.astype(scale.dtype), cast(Any, None)


_statistics.defvjp(_forward, _backward)


def _entries(points: jax.Array, tile: tiles.Tile) -> _Entries:
    features, present = tile.block[_FEATURES], tile.local[_FEATURES].mask.any(axis=-1)
    products = relation.products(points, features.rows.reshape(-1, points.shape[-1]))
    valid = present[:, None, None] & features.mask[None]
    unseen = valid & tile.unseen[None, :, None]
    others = unseen & ~tile.diagonal[..., None]
    return _Entries(products.reshape(valid.shape), valid, unseen, others)


def _loop(step: Callable, start: Any, samples: tiles.Samples, *, block: int) -> Any:
    """Passes once over the gathered features, `block` of them at a time."""
    positives = samples.gathered[_FEATURES].mask.shape[1]
    none = tiles.Statistics({}, {}), loss_plan.Scalars({}, {})
    return tiles.loop(step, start, samples, *none, block=max(1, block // positives))


def _log_sum_exp(
    maxima: jax.Array, exponentials: jax.Array, scale: jax.Array, *, empty: float
) -> jax.Array:
    nonempty = exponentials > 0
    return jnp.where(
        nonempty, scale * maxima + jnp.log(jnp.where(nonempty, exponentials, 1)), empty
    )
