# SPDX-License-Identifier: Apache-2.0
"""Farthest point sampling, ball query and k-nearest-neighbour search, as pure functions.

The functions take one point cloud `[points, 3]` or any number of leading batch axes, compute in
float32, and return int32 indices, which carry no gradient.

On a TPU, a gather of single numbers takes one transfer per number, so there the inner steps compare
and sum whole rows; on other platforms they search. The indices are the same.
"""

import functools

import jax
import jax.numpy as jnp

from mrd_jax.kernels import bit_words

# Ways in which patch dropout selects the remaining centres, see `choose_centres`.
CENTRE_CHOICES = ("fewer", "random")
# Bits of a distance that `_kth_smallest` determines per pass; two bits take three counts.
BITS = 2


def farthest_point_sample(
    xyz: jax.Array, count: int, *, skip_squared_norm: float | None = None
) -> jax.Array:
    """Chooses points one by one, each the farthest from the points already chosen.

    Sampling starts at index 0 and resolves ties to the lowest index, so it is deterministic.
    Distances are kept in a `[batch, points]` array; no array of size `[batch, count, points]` is
    stored.

    Args:
      xyz: [batch, points, 3] or [points, 3].
      count: number of points to choose; at most `points`.
      skip_squared_norm: points whose squared norm is at most this are never chosen, except for
        index 0 (Uni3D's CUDA sampler: 1e-3). None excludes no point (OpenShape).

    Returns:
      [batch, count] or [count] indices, in the order of choice.

    Raises:
      ValueError: `count` is not between 1 and the number of points.
    """
    points = _number_of_points(xyz)
    if not 1 <= count <= points:
        raise ValueError(f"cannot choose {count} of {points} points; expected 1 to {points}")
    xyz = jax.lax.stop_gradient(xyz.astype(jnp.float32))
    planes = [xyz[..., axis] for axis in range(3)]
    distance = jnp.full(planes[0].shape, jnp.inf)
    if skip_squared_norm is not None:
        squared_norm = sum(plane * plane for plane in planes)
        distance = jnp.where(squared_norm <= skip_squared_norm, -1.0, distance)

    def choose(carry, _):
        distance, index, point = carry
        offset = [plane - axis for plane, axis in zip(planes, point, strict=True)]
        distance = jnp.minimum(distance, sum(axis * axis for axis in offset))
        next_index, point = jax.lax.platform_dependent(
            distance, *planes, tpu=_farthest_in_one_pass, default=_farthest
        )
        return (distance, next_index, point), index

    first = jnp.zeros(planes[0].shape[:-1], jnp.int32), tuple(plane[..., :1] for plane in planes)
    _, indices = jax.lax.scan(choose, (distance, *first), length=count)
    return jnp.moveaxis(indices, 0, -1)


def choose_centres(
    xyz: jax.Array,
    groups: int,
    *,
    dropout: float = 0.0,
    choice: str = "fewer",
    keys: jax.Array | None = None,
    skip_squared_norm: float | None = None,
) -> jax.Array:
    """Chooses the centres of the groups; patch dropout removes some of them in training.

    Groups are dropped here, before anything is computed for them.

    Args:
      xyz: [batch, points, 3].
      groups: number of groups without dropout.
      dropout: fraction of the groups to drop; at least one is kept.
      choice: "fewer" samples fewer farthest points, which then lie further apart (OpenShape);
        "random" samples all and keeps a random subset for each point cloud (Uni3D).
      keys: [batch] random keys, one per point cloud; required by "random".
      skip_squared_norm: as in `farthest_point_sample`.

    Returns:
      [batch, kept, 3] coordinates, in the order of choice.

    Raises:
      ValueError: the point clouds have too few points, or keys are missing.
    """
    kept = max(1, round((1 - dropout) * groups))
    sampled = kept if choice == "fewer" else groups
    index = farthest_point_sample(xyz, sampled, skip_squared_norm=skip_squared_norm)
    if kept < sampled:
        if keys is None:
            raise ValueError(f"random patch dropout of {dropout} needs keys=[batch] in training")
        index = random_subset(index, kept, keys=keys)
    return gather(xyz, index)


def random_subset(index: jax.Array, count: int, *, keys: jax.Array) -> jax.Array:
    """Keeps `count` random entries of every row, in their order.

    Args:
      index: [batch, entries].
      count: number of entries to keep.
      keys: [batch] random keys; the subset of a row depends on its own key only.

    Returns:
      [batch, count].
    """

    def keep(row, key):
        return row[jnp.sort(jax.random.permutation(key, row.shape[0])[:count])]

    return jax.vmap(keep)(index, keys)


def ball_query(xyz: jax.Array, centres: jax.Array, *, radius: float, count: int) -> jax.Array:
    """Returns the first `count` points, by ascending index, within `radius` of each centre.

    The boundary belongs to the ball (float32). A ball with fewer points is padded with its first
    point, an empty ball with index 0 (as in PointNet++ and OpenShape). The result is exact for any
    number of points in a ball, and needs no sort: see `bit_words`.

    Args:
      xyz: [batch, points, 3] or [points, 3].
      centres: [batch, groups, 3] or [groups, 3].
      radius: radius of the balls, in the units of `xyz`.
      count: points per group.

    Returns:
      [batch, groups, count] or [groups, count] indices.
    """
    distances = _squared_distances(_pad_to_words(xyz), centres)
    return bit_words.first(bit_words.pack(distances <= jnp.float32(radius * radius)), count)


def knn(xyz: jax.Array, centres: jax.Array, *, count: int) -> jax.Array:
    """Returns the `count` nearest points of each centre, by ascending index.

    Ties for the last place are resolved to the lowest indices.

    Args:
      xyz: [batch, points, 3] or [points, 3].
      centres: [batch, groups, 3] or [groups, 3].
      count: neighbours per centre; at most `points`.

    Returns:
      [batch, groups, count] or [groups, count] indices.

    Raises:
      ValueError: `count` is not between 1 and the number of points.
    """
    points = _number_of_points(xyz)
    if not 1 <= count <= points:
        raise ValueError(
            f"cannot take {count} neighbours of {points} points; expected 1 to {points}"
        )
    return jax.lax.platform_dependent(
        xyz,
        centres,
        tpu=functools.partial(_nearest_by_selection, count=count),
        default=functools.partial(_nearest_by_sort, count=count),
    )


def gather(values: jax.Array, index: jax.Array) -> jax.Array:
    """Gathers rows of every point cloud.

    Args:
      values: [batch, points, channels] or [points, channels].
      index: [batch, ...] or [...], indices into `points`.

    Returns:
      [batch, ..., channels] or [..., channels].
    """

    def pick(rows, positions):
        return rows.at[positions].get(mode="clip")

    for _ in range(values.ndim - 2):
        pick = jax.vmap(pick)
    return pick(jnp.asarray(values), index)


def _number_of_points(xyz: jax.Array) -> int:
    if xyz.ndim < 2 or xyz.shape[-1] != 3:
        raise ValueError(
            f"points have shape {xyz.shape}; expected [batch, points, 3] or [points, 3]"
        )
    return xyz.shape[-2]


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
    _number_of_points(xyz)
    xyz = jax.lax.stop_gradient(xyz.astype(jnp.float32))
    centres = jax.lax.stop_gradient(centres.astype(jnp.float32))
    x, y, z = (xyz[..., None, :, axis] - centres[..., :, None, axis] for axis in range(3))
    return x * x + y * y + z * z


def _pad_to_words(xyz: jax.Array) -> jax.Array:
    """Appends points at infinity until the number of points is a multiple of the word size."""
    padding = -_number_of_points(xyz) % bit_words.WORD
    widths = [(0, 0)] * (xyz.ndim - 2) + [(0, padding), (0, 0)]
    return jnp.pad(xyz.astype(jnp.float32), widths, constant_values=jnp.inf)


def _nearest_by_sort(xyz: jax.Array, centres: jax.Array, *, count: int) -> jax.Array:
    _, index = jax.lax.top_k(-_squared_distances(xyz, centres), count)
    return jnp.sort(index.astype(jnp.int32), axis=-1)


def _nearest_by_selection(xyz: jax.Array, centres: jax.Array, *, count: int) -> jax.Array:
    """Does the same as `_nearest_by_sort`: points below the k-th distance, then the first ties."""
    # Non-negative floats have the same order as their bit patterns read as integers.
    distances = _squared_distances(_pad_to_words(xyz), centres)
    order = jax.lax.bitcast_convert_type(distances, jnp.int32)
    last = _kth_smallest(order, count)[..., None]
    nearer, equal = bit_words.pack(order < last), bit_words.pack(order == last)
    missing = count - bit_words.size(nearer)
    return bit_words.first(nearer | bit_words.keep_first(equal, missing), count)


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
