# SPDX-License-Identifier: Apache-2.0
"""Chunked max-pooling with rematerialisation.

The largest array of a point tokenizer is the output of its last layer for every point of every
group, though only one point per group and channel survives the maximum. Here the layers and the
maximum are applied to a few groups at a time, so that this array is never stored; the backward pass
keeps the index of the maximum and recomputes the activations. That takes half the memory, and on a
CPU less time, since a few groups fit into the cache
(`python -m benchmarks.student_step --size uni3d-s`).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Points per chunk: with 512 channels, 8 MB in single precision. A TPU's vector memory holds more,
# and each chunk costs transfers: see docs/tpu_step.md.
CHUNK_POINTS = 4096
CHUNK_POINTS_TPU = 16384
# On a GPU each chunk costs kernel launches, and must fill the device: the chunks of 4,096 points of
# a step of configs/mrd_pointbert.py launch 8,179 kernels, these 619, in the same memory
# (`mrd_jax.tools.compile`, 64 clouds). 256 channels of a chunk take 32 MiB, as much as an L2 cache.
CHUNK_POINTS_GPU = 65536

Layers = Callable[[Any, Any], jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def group_maximum(layers: Layers, groups: Any, params: Any) -> jax.Array:
    """Applies layers to the points of every group and takes each channel's maximum over the group.

    The gradient of a maximum goes to its first point only, as in PyTorch; if points are repeated,
    the gradient of the parameters is the same.

    Args:
      layers: (groups, params) -> [groups, group_size, channels], a pure function that treats each
        group independently.
      groups: tree of arrays with a leading axis over groups.
      params: tree of arrays shared by all groups.

    Returns:
      [groups, channels].
    """

    def pool(chunk_points, groups, params):
        return _map_chunks(
            lambda chunk: jnp.max(layers(chunk, params), axis=1), groups, chunk_points
        )

    return _per_platform(pool, groups, params)


def product(groups: jax.Array, kernel: jax.Array) -> jax.Array:
    """Multiplies every point by a kernel.

    Args:
      groups: [groups, group_size, channels].
      kernel: [channels, features], cast to the dtype of `groups`.

    Returns:
      [groups, group_size, features].
    """
    # Two-dimensional, so that every gradient is one plain matrix product.
    rows = groups.reshape(-1, groups.shape[-1]) @ kernel.astype(groups.dtype)
    return rows.reshape(*groups.shape[:2], -1)


def _forward(layers, groups, params):
    def pool(chunk_points, groups, params):
        def pool_chunk(chunk):
            values = layers(chunk, params)
            maximum = jnp.max(values, axis=1)
            point = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1)
            # A minimum vectorises on CPU and TPU; argmax carries pairs and does not.
            last = values.shape[1] - 1
            argmax = jnp.min(jnp.where(values == maximum[:, None], point, last), axis=1)
            return maximum, argmax

        return _map_chunks(pool_chunk, groups, chunk_points)

    maximum, argmax = _per_platform(pool, groups, params)
    return maximum, (groups, params, argmax)


def _backward(layers, residuals, gradient):
    def differentiate(chunk_points, groups, params, argmax, gradient):
        def differentiate_chunk(total, chunk):
            groups, argmax, gradient = chunk
            values, vjp = jax.vjp(layers, groups, params)
            point = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1)
            to_values = jnp.where(point == argmax[:, None], gradient[:, None], 0)
            to_groups, to_params = vjp(to_values.astype(values.dtype))
            return jax.tree.map(jnp.add, total, to_params), to_groups

        zeros = jax.tree.map(jnp.zeros_like, params)
        chunks = _split((groups, argmax, gradient), chunk_points)
        to_params, to_groups = jax.lax.scan(differentiate_chunk, zeros, chunks)
        return jax.tree.map(_join, to_groups), to_params

    return _per_platform(differentiate, *residuals, gradient)


group_maximum.defvjp(_forward, _backward)


def _per_platform(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls `function(chunk_points, *arguments)` with the chunk size of the target platform."""
    return jax.lax.platform_dependent(
        *arguments,
        tpu=functools.partial(function, CHUNK_POINTS_TPU),
        cuda=functools.partial(function, CHUNK_POINTS_GPU),
        default=functools.partial(function, CHUNK_POINTS),
    )


def _map_chunks(function: Callable[[Any], Any], groups: Any, chunk_points: int) -> Any:
    return jax.tree.map(_join, jax.lax.map(function, _split(groups, chunk_points)))


def _split(groups: Any, chunk_points: int) -> Any:
    """Splits [groups, ...] into equal chunks, [chunks, groups per chunk, ...]."""
    leaves = jax.tree.leaves(groups)
    count, size = leaves[0].shape[0], leaves[0].shape[1]
    limit = max(1, chunk_points // size)
    chunk = max(n for n in range(1, min(limit, count) + 1) if count % n == 0)
    return jax.tree.map(lambda x: x.reshape(count // chunk, chunk, *x.shape[1:]), groups)


def _join(x: jax.Array) -> jax.Array:
    """Inverts `_split` for one array."""
    return x.reshape(-1, *x.shape[2:])
