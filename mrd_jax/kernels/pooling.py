# SPDX-License-Identifier: Apache-2.0
"""Maximum over the points of each group of what a few layers make of them, group by group.

The widest arrays of a point tokenizer are what its last layer gives for every point of every group,
though only one point a group and channel survives. Here a few groups at a time pass the layers and
the maximum, so such an array never exists; the backward pass keeps which point won, computes the
layers' input anew and leaves the losers out. That is half the memory, and on a CPU less time, since
a few groups fit into the cache (`python -m benchmarks.student_step --size uni3d-s`).
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

# Points that pass at a time: with 512 channels, 8 MB in single precision. A TPU's vector memory
# holds more, and each round costs transfers: see docs/tpu_step.md.
POINTS_AT_A_TIME = 4096
POINTS_ON_TPU = 16384

Layers = Callable[[Any, Any], jax.Array]


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def group_maximum(layers: Layers, groups: Any, params: Any) -> jax.Array:
    """Apply layers to the points of every group and take each channel's maximum over the group.

    The gradient of a maximum goes to its first point only, as in PyTorch; where points are
    repeated, that is the same gradient for the parameters.

    Args:
      layers: (groups, params) -> [some, size, channels], pure, each group apart from the others.
      groups: tree of arrays with a leading axis over groups.
      params: tree of arrays that all groups share.

    Returns:
      [groups, channels].
    """

    def whole(at_a_time, groups, params):
        return _in_chunks(lambda some: jnp.max(layers(some, params), axis=1), groups, at_a_time)

    return _by_platform(whole, groups, params)


def product(groups: jax.Array, kernel: jax.Array) -> jax.Array:
    """A linear map of every point: [groups, size, channels] to [groups, size, features]."""
    # Two-dimensional, so that every gradient is one plain matrix product.
    rows = groups.reshape(-1, groups.shape[-1]) @ kernel.astype(groups.dtype)
    return rows.reshape(*groups.shape[:2], -1)


def _forward(layers, groups, params):
    def whole(at_a_time, groups, params):
        def one(some):
            values = layers(some, params)
            highest = jnp.max(values, axis=1)
            lane = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1)
            # A minimum vectorises on CPU and TPU; argmax carries pairs and does not.
            last = values.shape[1] - 1
            winner = jnp.min(jnp.where(values == highest[:, None], lane, last), axis=1)
            return highest, winner

        return _in_chunks(one, groups, at_a_time)

    highest, winner = _by_platform(whole, groups, params)
    return highest, (groups, params, winner)


def _backward(layers, residuals, gradient):
    def whole(at_a_time, groups, params, winner, gradient):
        def one(total, chunk):
            some, winner, gradient = chunk
            values, pull = jax.vjp(layers, some, params)
            lane = jax.lax.broadcasted_iota(jnp.int32, values.shape, 1)
            to_values = jnp.where(lane == winner[:, None], gradient[:, None], 0)
            to_groups, to_params = pull(to_values.astype(values.dtype))
            return jax.tree.map(jnp.add, total, to_params), to_groups

        zeros = jax.tree.map(jnp.zeros_like, params)
        chunks = _split((groups, winner, gradient), at_a_time)
        total, to_groups = jax.lax.scan(one, zeros, chunks)
        return jax.tree.map(_join, to_groups), total

    return _by_platform(whole, *residuals, gradient)


group_maximum.defvjp(_forward, _backward)


def _by_platform(function: Callable[..., Any], *arguments: Any) -> Any:
    """`function(points at a time, *arguments)`, as many as suit the platform compiled for."""
    return jax.lax.platform_dependent(
        *arguments,
        tpu=functools.partial(function, POINTS_ON_TPU),
        default=functools.partial(function, POINTS_AT_A_TIME),
    )


def _in_chunks(function: Callable[[Any], Any], groups: Any, at_a_time: int) -> Any:
    return jax.tree.map(_join, jax.lax.map(function, _split(groups, at_a_time)))


def _split(groups: Any, at_a_time: int) -> Any:
    """Leading axis [groups] to [chunks, groups of a chunk], as even as divisors allow."""
    leaves = jax.tree.leaves(groups)
    count, size = leaves[0].shape[0], leaves[0].shape[1]
    most = max(1, at_a_time // size)
    some = max(n for n in range(1, min(most, count) + 1) if count % n == 0)
    return jax.tree.map(lambda x: x.reshape(count // some, some, *x.shape[1:]), groups)


def _join(x: jax.Array) -> jax.Array:
    return x.reshape(-1, *x.shape[2:])
