# SPDX-License-Identifier: Apache-2.0
"""Sampling and neighbour search as array operations, for `mrd_jax.models.grouping`.

On a TPU, a gather of single numbers takes one transfer per number, so there the inner steps compare
and sum whole rows; on other platforms they search. The indices are the same.

Arguments and results are those of `grouping`; coordinates are float32.
"""

import functools

import jax
import jax.numpy as jnp

from mrd_jax.kernels import bit_words

# Bits of a distance that `_kth_smallest` determines per pass; two bits take three counts.
BITS = 2


def farthest_point_sample(
    xyz: jax.Array, count: int, *, skip_squared_norm: float | None = None, one_pass: bool = False
) -> jax.Array:
    """Chooses points one by one; distances are kept in a `[batch, points]` array.

    Args:
      xyz: [batch, points, 3] or [points, 3].
      count: number of points to choose.
      skip_squared_norm: as in `grouping.farthest_point_sample`.
      one_pass: find the farthest point in one reduction, as a TPU needs it.

    Returns:
      [batch, count] or [count] indices.
    """
    planes = [xyz[..., axis] for axis in range(3)]
    distance = jnp.full(planes[0].shape, jnp.inf)
    if skip_squared_norm is not None:
        squared_norm = sum(plane * plane for plane in planes)
        distance = jnp.where(squared_norm <= skip_squared_norm, -1.0, distance)
    farthest = _farthest_in_one_pass if one_pass else _farthest

    def choose(carry, _):
        distance, index, point = carry
        offset = [plane - axis for plane, axis in zip(planes, point, strict=True)]
        distance = jnp.minimum(distance, sum(axis * axis for axis in offset))
        next_index, point = farthest(distance, *planes)
        return (distance, next_index, point), index

    first = jnp.zeros(planes[0].shape[:-1], jnp.int32), tuple(plane[..., :1] for plane in planes)
    _, indices = jax.lax.scan(choose, (distance, *first), length=count)
    return jnp.moveaxis(indices, 0, -1)


def ball_query(xyz: jax.Array, centres: jax.Array, *, radius: float, count: int) -> jax.Array:
    """Finds the first points of each ball from bit masks, without a sort: see `bit_words`."""
    distances = _squared_distances(_pad_to_words(xyz), centres)
    return bit_words.first(bit_words.pack(distances <= jnp.float32(radius * radius)), count)


def nearest_by_sort(xyz: jax.Array, centres: jax.Array, *, count: int) -> jax.Array:
    """Finds the nearest points by a sort of all distances."""
    _, index = jax.lax.top_k(-_squared_distances(xyz, centres), count)
    return jnp.sort(index.astype(jnp.int32), axis=-1)


def nearest_by_selection(xyz: jax.Array, centres: jax.Array, *, count: int) -> jax.Array:
    """Does the same as `nearest_by_sort`: points below the k-th distance, then the first ties."""
    # Non-negative floats have the same order as their bit patterns read as integers.
    distances = _squared_distances(_pad_to_words(xyz), centres)
    order = jax.lax.bitcast_convert_type(distances, jnp.int32)
    last = _kth_smallest(order, count)[..., None]
    nearer, equal = bit_words.pack(order < last), bit_words.pack(order == last)
    missing = count - bit_words.size(nearer)
    return bit_words.first(nearer | bit_words.keep_first(equal, missing), count)


def _farthest(distance: jax.Array, *planes: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Finds the point with the largest distance; ties are resolved to the lowest index.

    Args:
      distance: [batch, points].
      *planes: x, y and z of the points, each [batch, points].

    Returns:
      Its index, [batch], and its coordinates, each [batch, 1].
    """
    lane = jax.lax.broadcasted_iota(jnp.int32, distance.shape, distance.ndim - 1)
    # A maximum and a minimum vectorise on a CPU; argmax carries pairs and does not.
    farthest = jnp.max(distance, axis=-1, keepdims=True)
    index = jnp.min(jnp.where(distance == farthest, lane, distance.shape[-1]), axis=-1)
    take = functools.partial(jnp.take_along_axis, indices=index[..., None], axis=-1, mode="clip")
    return index, tuple(take(plane) for plane in planes)


def _farthest_in_one_pass(
    distance: jax.Array, *planes: jax.Array
) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Does the same as `_farthest`, in one reduction over distance, index and coordinates."""
    lane = jax.lax.broadcasted_iota(jnp.int32, distance.shape, distance.ndim - 1)

    def farther(left, right):
        is_left = (left[0] > right[0]) | ((left[0] == right[0]) & (left[1] < right[1]))
        return tuple(jnp.where(is_left, *pair) for pair in zip(left, right, strict=True))

    identity = (-jnp.inf, distance.shape[-1], *(0.0 for _ in planes))
    arrays = distance, lane, *planes
    init = [jnp.asarray(value, array.dtype) for value, array in zip(identity, arrays, strict=True)]
    _, index, *point = jax.lax.reduce(arrays, tuple(init), farther, (distance.ndim - 1,))
    return index, tuple(axis[..., None] for axis in point)


def _squared_distances(xyz: jax.Array, centres: jax.Array) -> jax.Array:
    """Computes squared distances, [batch, groups, points], from differences: zeros are exact."""
    x, y, z = (xyz[..., None, :, axis] - centres[..., :, None, axis] for axis in range(3))
    return x * x + y * y + z * z


def _pad_to_words(xyz: jax.Array) -> jax.Array:
    """Appends points at infinity until the number of points is a multiple of the word size."""
    padding = -xyz.shape[-2] % bit_words.WORD
    widths = [(0, 0)] * (xyz.ndim - 2) + [(0, padding), (0, 0)]
    return jnp.pad(xyz, widths, constant_values=jnp.inf)


def _kth_smallest(numbers: jax.Array, count: int) -> jax.Array:
    """Returns the `count`-th smallest of non-negative int32 [..., numbers], by radix selection.

    The result is the largest number with fewer than `count` numbers below it; its bits are
    determined from the highest one on. Every pass counts the numbers below a few candidates, so
    numbers that are cheap to recompute never reach main memory.
    """
    passes = -(-31 // BITS)

    def select_bits(prefix, step):
        shift = jnp.maximum(31 - (step + 1) * BITS, 0)  # 31 bits without the sign
        selected = prefix
        for bits in range(1, 2**BITS):
            candidate = prefix + (bits << shift)
            below = jnp.sum(numbers < candidate[..., None], axis=-1, dtype=jnp.int32)
            selected = jnp.where(below < count, candidate, selected)
        return selected, None

    zeros = jnp.zeros(numbers.shape[:-1], jnp.int32)
    return jax.lax.scan(select_bits, zeros, jnp.arange(passes))[0]
