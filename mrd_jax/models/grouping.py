# SPDX-License-Identifier: Apache-2.0
"""Which points form a group: sampling of centres and neighbour search, as pure functions.

Every function takes one cloud `[points, 3]` or any number of leading batch axes, computes in
float32, and returns int32 indices. Indices carry no gradient.

On a TPU a gather of single numbers is one transfer each, so there the inner steps compare and add
over whole rows instead; elsewhere they search. The indices are the same.
"""

import functools

import jax
import jax.numpy as jnp

from mrd_jax.kernels import bit_words

# How patch dropout chooses among the centres, see `choose_centres`.
CENTRE_CHOICES = ("fewer", "random")
# Bits of a distance that `_kth_smallest` finds in one pass: three counts for a look at each.
BITS = 2


def farthest_point_sample(
    xyz: jax.Array, count: int, *, skip_squared_norm: float | None = None
) -> jax.Array:
    """Choose points one by one, each the farthest from those already chosen.

    Starts at index 0 and resolves ties to the lowest index, so the result is a function of the
    cloud alone. Distances live on a `[batch, points]` plane; nothing of size
    `[batch, count, points]` exists.

    Args:
      xyz: [batch, points, 3] or [points, 3].
      count: number of points to choose; at most `points`.
      skip_squared_norm: points whose squared norm is at most this are never chosen, save index 0
        (Uni3D's CUDA sampler: 1e-3). None skips nothing (OpenShape).

    Returns:
      [batch, count] or [count] indices in the order of choice.

    Raises:
      ValueError: if `count` is not between 1 and the number of points.
    """
    points = _number_of_points(xyz)
    if not 1 <= count <= points:
        raise ValueError(f"cannot choose {count} of {points} points; use 1 to {points}")
    xyz = jax.lax.stop_gradient(xyz.astype(jnp.float32))
    planes = [xyz[..., axis] for axis in range(3)]
    distance = jnp.full(planes[0].shape, jnp.inf)
    if skip_squared_norm is not None:
        squared_norm = sum(plane * plane for plane in planes)
        distance = jnp.where(squared_norm <= skip_squared_norm, -1.0, distance)

    def choose(carry, _):
        distance, chosen, place = carry
        gap = [plane - axis for plane, axis in zip(planes, place, strict=True)]
        distance = jnp.minimum(distance, sum(axis * axis for axis in gap))
        following, place = jax.lax.platform_dependent(
            distance, *planes, tpu=_farthest_in_one_pass, default=_farthest
        )
        return (distance, following, place), chosen

    first = jnp.zeros(planes[0].shape[:-1], jnp.int32), tuple(plane[..., :1] for plane in planes)
    _, chosen = jax.lax.scan(choose, (distance, *first), length=count)
    return jnp.moveaxis(chosen, 0, -1)


def choose_centres(
    xyz: jax.Array,
    groups: int,
    *,
    dropout: float = 0.0,
    choice: str = "fewer",
    keys: jax.Array | None = None,
    skip_squared_norm: float | None = None,
) -> jax.Array:
    """Choose the centres of a cloud's groups, in training fewer of them (patch dropout).

    Groups are left out here, before anything is computed for them.

    Args:
      xyz: [batch, points, 3].
      groups: number of groups without dropout.
      dropout: share of the groups to leave out; at least one stays.
      choice: "fewer" samples fewer farthest points, which then lie further apart (OpenShape);
        "random" samples all and keeps a random subset of each cloud's (Uni3D).
      keys: [batch] random keys, one per cloud; needed for "random".
      skip_squared_norm: as in `farthest_point_sample`.

    Returns:
      [batch, kept, 3] coordinates, in the order of choice.

    Raises:
      ValueError: the cloud has too few points, or keys are missing.
    """
    kept = max(1, round((1 - dropout) * groups))
    wanted = kept if choice == "fewer" else groups
    index = farthest_point_sample(xyz, wanted, skip_squared_norm=skip_squared_norm)
    if kept < wanted:
        if keys is None:
            raise ValueError(f"random patch dropout of {dropout} needs keys=[batch] in training")
        index = random_subset(index, kept, keys=keys)
    return gather(xyz, index)


def random_subset(index: jax.Array, count: int, *, keys: jax.Array) -> jax.Array:
    """Keep `count` random entries of every row, in their order.

    Args:
      index: [batch, entries].
      count: entries to keep.
      keys: [batch] random keys: a row's subset depends on its own key only.

    Returns:
      [batch, count].
    """

    def keep(row, key):
        return row[jnp.sort(jax.random.permutation(key, row.shape[0])[:count])]

    return jax.vmap(keep)(index, keys)


def ball_query(xyz: jax.Array, centres: jax.Array, *, radius: float, count: int) -> jax.Array:
    """Return the first `count` points, by ascending index, within `radius` of each centre.

    The boundary belongs to the ball (float32). A ball with fewer points is filled up with its
    first one, an empty ball with index 0 (as PointNet++ and OpenShape do). Exact, whatever the
    number of hits, and without a sort: see `bit_words`.

    Args:
      xyz: [batch, points, 3] or [points, 3].
      centres: [batch, groups, 3] or [groups, 3].
      radius: in the units of `xyz`.
      count: points per group.

    Returns:
      [batch, groups, count] or [groups, count] indices.
    """
    distances = _squared_distances(_whole_words(xyz), centres)
    return bit_words.first(bit_words.pack(distances <= jnp.float32(radius * radius)), count)


def knn(xyz: jax.Array, centres: jax.Array, *, count: int) -> jax.Array:
    """Return the `count` nearest points of each centre, by ascending index.

    Ties for the last place go to the lowest indices.

    Args:
      xyz: [batch, points, 3] or [points, 3].
      centres: [batch, groups, 3] or [groups, 3].
      count: neighbours per centre; at most `points`.

    Returns:
      [batch, groups, count] or [groups, count] indices.

    Raises:
      ValueError: if `count` is not between 1 and the number of points.
    """
    points = _number_of_points(xyz)
    if not 1 <= count <= points:
        raise ValueError(f"cannot take {count} neighbours of {points} points; use 1 to {points}")
    return jax.lax.platform_dependent(
        xyz,
        centres,
        tpu=functools.partial(_nearest_by_selection, count=count),
        default=functools.partial(_nearest_by_sort, count=count),
    )


def gather(values: jax.Array, index: jax.Array) -> jax.Array:
    """Pick rows of every cloud.

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
        raise ValueError(f"points must be [batch, points, 3] or [points, 3], not {xyz.shape}")
    return xyz.shape[-2]


def _farthest(distance: jax.Array, *planes: jax.Array) -> tuple[jax.Array, tuple[jax.Array, ...]]:
    """Index [batch] of each cloud's largest distance, the lowest of several, and its coordinates.

    Args:
      distance: [batch, points].
      *planes: each axis of the points, [batch, points].

    Returns:
      [batch] and, for each axis, [batch, 1].
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
    """As `_farthest`, by one reduction that carries index and coordinates along."""
    lane = jax.lax.broadcasted_iota(jnp.int32, distance.shape, distance.ndim - 1)

    def better(one, other):
        first = (one[0] > other[0]) | ((one[0] == other[0]) & (one[1] < other[1]))
        return tuple(jnp.where(first, *pair) for pair in zip(one, other, strict=True))

    worst = (-jnp.inf, distance.shape[-1], *(0.0 for _ in planes))
    arrays = distance, lane, *planes
    starts = [jnp.asarray(start, array.dtype) for start, array in zip(worst, arrays, strict=True)]
    found = jax.lax.reduce(arrays, tuple(starts), better, (distance.ndim - 1,))
    return found[1], tuple(axis[..., None] for axis in found[2:])


def _squared_distances(xyz: jax.Array, centres: jax.Array) -> jax.Array:
    """Squared distances [batch, groups, points], from differences: exact zeros stay zero."""
    _number_of_points(xyz)
    xyz = jax.lax.stop_gradient(xyz.astype(jnp.float32))
    centres = jax.lax.stop_gradient(centres.astype(jnp.float32))
    x, y, z = (xyz[..., None, :, axis] - centres[..., :, None, axis] for axis in range(3))
    return x * x + y * y + z * z


def _whole_words(xyz: jax.Array) -> jax.Array:
    """Add points that are nowhere near, until all fill words of bits."""
    padding = -_number_of_points(xyz) % bit_words.WORD
    widths = [(0, 0)] * (xyz.ndim - 2) + [(0, padding), (0, 0)]
    return jnp.pad(xyz.astype(jnp.float32), widths, constant_values=jnp.inf)


def _nearest_by_sort(xyz: jax.Array, centres: jax.Array, *, count: int) -> jax.Array:
    _, index = jax.lax.top_k(-_squared_distances(xyz, centres), count)
    return jnp.sort(index.astype(jnp.int32), axis=-1)


def _nearest_by_selection(xyz: jax.Array, centres: jax.Array, *, count: int) -> jax.Array:
    """As `_nearest_by_sort`: all points nearer than the last one, and of its equals the first."""
    # Floats that are not negative are in the order of their bits as whole numbers.
    distances = _squared_distances(_whole_words(xyz), centres)
    order = jax.lax.bitcast_convert_type(distances, jnp.int32)
    last = _kth_smallest(order, count)[..., None]
    nearer, equal = bit_words.pack(order < last), bit_words.pack(order == last)
    missing = count - bit_words.size(nearer)
    return bit_words.first(nearer | bit_words.keep_first(equal, missing), count)


def _kth_smallest(numbers: jax.Array, count: int) -> jax.Array:
    """The `count`-th smallest of int32 [..., numbers], none negative: its bits from the highest on.

    The largest number that has fewer than `count` below it. Every pass counts anew what is below a
    few candidates, so that numbers that are cheap to compute never reach main memory.
    """
    passes = -(-31 // BITS)

    def settle(number, done):
        shift = jnp.maximum(31 - (done + 1) * BITS, 0)  # the sign is none of them
        found = number
        for bits in range(1, 2**BITS):
            candidate = number + (bits << shift)
            below = jnp.sum(numbers < candidate[..., None], axis=-1, dtype=jnp.int32)
            found = jnp.where(below < count, candidate, found)
        return found, None

    start = jnp.zeros(numbers.shape[:-1], jnp.int32)
    return jax.lax.scan(settle, start, jnp.arange(passes))[0]
