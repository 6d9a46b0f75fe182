# SPDX-License-Identifier: Apache-2.0
"""Farthest point sampling, ball query and k-nearest-neighbour search, as pure functions.

The functions take one point cloud `[points, 3]` or any number of leading batch axes, compute in
float32, and return int32 indices, which carry no gradient.

Here each platform gets its formulation: on NVIDIA GPUs the kernels of `points_triton`, elsewhere
those of `point_search`. The indices are the same.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mrd_jax.kernels import platforms, point_search, points_triton

# Ways in which patch dropout selects the remaining centres, see `choose_centres`.
CENTRE_CHOICES = ("fewer", "random")


def farthest_point_sample(
    xyz: jax.Array, count: int, *, skip_squared_norm: float | None = None
) -> jax.Array:
    """Chooses points one by one, each the farthest from the points already chosen.

    Sampling starts at index 0 and resolves ties to the lowest index, so it is deterministic.
    No array of size `[batch, count, points]` is stored.

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
    sample: dict[str, Any] = dict(count=count, skip_squared_norm=skip_squared_norm)
    return _per_platform(
        (xyz,),
        tpu=functools.partial(point_search.farthest_point_sample, **sample, one_pass=True),
        cuda=functools.partial(points_triton.farthest_point_sample, **sample),
        default=functools.partial(point_search.farthest_point_sample, **sample),
    )


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
    number of points in a ball, and needs no sort.

    Args:
      xyz: [batch, points, 3] or [points, 3].
      centres: [batch, groups, 3] or [groups, 3].
      radius: radius of the balls, in the units of `xyz`.
      count: points per group.

    Returns:
      [batch, groups, count] or [groups, count] indices.
    """
    _number_of_points(xyz)
    search: dict[str, Any] = dict(radius=radius, count=count)
    return _per_platform(
        (xyz, centres),
        cuda=functools.partial(points_triton.ball_query, **search),
        default=functools.partial(point_search.ball_query, **search),
    )


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
    return _per_platform(
        (xyz, centres),
        tpu=functools.partial(point_search.nearest_by_selection, count=count),
        cuda=functools.partial(points_triton.knn, count=count),
        default=functools.partial(point_search.nearest_by_sort, count=count),
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


def _per_platform(
    arrays: Sequence[jax.Array],
    *,
    cuda: Callable[..., jax.Array],
    default: Callable[..., jax.Array],
    **others: Callable[..., jax.Array],
) -> jax.Array:
    """Calls the formulation of the platform with float32 points, which carry no gradient."""
    arrays = [jax.lax.stop_gradient(jnp.asarray(array, jnp.float32)) for array in arrays]
    if platforms.compiles_cuda() and points_triton.supports(arrays[0].shape[-2]):
        others["cuda"] = cuda
    return jax.lax.platform_dependent(*arrays, default=default, **others)
