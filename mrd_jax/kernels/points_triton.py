# SPDX-License-Identifier: Apache-2.0
"""Pallas kernels, through Triton, for sampling and neighbour search on NVIDIA GPUs.

Each kernel is one launch: distances stay in registers, and only the indices are written. One
program holds a whole point cloud, as rows of one point per lane; point i is in lane i // rows and
row i % rows. A lane thus has consecutive points, so that an index list in ascending order needs one
prefix sum over the lanes, whatever the number of points.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton as plgpu

# Rows of a program: a bit mask of a lane's points is one word, without its sign.
MAX_ROWS = 31
# Lanes of a program, and lanes of a warp.
MIN_LANES, MAX_LANES, WARP = 128, 1024, 32
# Points of a cloud. Counts of two kinds of points share a word, 16 bits each.
MAX_POINTS = MAX_LANES * MAX_ROWS
# Centres that a program searches, one after another.
CENTRES = 16


def supports(points: int) -> bool:
    """Returns whether the kernels support clouds of this size."""
    return points <= MAX_POINTS


def farthest_point_sample(
    xyz: jax.Array,
    count: int,
    *,
    skip_squared_norm: float | None = None,
    interpret: bool = False,
) -> jax.Array:
    """Computes `mrd_jax.models.grouping.farthest_point_sample`, one program per cloud.

    Args:
      xyz: float32 [..., points, 3].
      count: number of points to choose.
      skip_squared_norm: as there.
      interpret: run as ordinary JAX, on any device.

    Returns:
      int32 [..., count].
    """
    kernel = functools.partial(
        _farthest_kernel, points=xyz.shape[-2], skip_squared_norm=skip_squared_norm
    )
    return _call(kernel, xyz, (), (count,), programs=1, interpret=interpret)


def ball_query(
    xyz: jax.Array, centres: jax.Array, *, radius: float, count: int, interpret: bool = False
) -> jax.Array:
    """Computes `mrd_jax.models.grouping.ball_query`.

    Args:
      xyz: float32 [..., points, 3].
      centres: float32 [..., groups, 3].
      radius: radius of the balls.
      count: points per group.
      interpret: run as ordinary JAX, on any device.

    Returns:
      int32 [..., groups, count].
    """
    return _search(_ball_kernel, xyz, centres, count, interpret, squared_radius=radius * radius)


def knn(xyz: jax.Array, centres: jax.Array, *, count: int, interpret: bool = False) -> jax.Array:
    """Computes `mrd_jax.models.grouping.knn`, by radix selection; no sort.

    Args:
      xyz: float32 [..., points, 3].
      centres: float32 [..., groups, 3].
      count: neighbours per centre.
      interpret: run as ordinary JAX, on any device.

    Returns:
      int32 [..., groups, count].
    """
    return _search(_nearest_kernel, xyz, centres, count, interpret)


def _search(
    kernel: Callable[..., None],
    xyz: jax.Array,
    centres: jax.Array,
    count: int,
    interpret: bool,
    **options: float,
) -> jax.Array:
    groups = centres.shape[-2]
    return _call(
        functools.partial(kernel, **options),
        xyz,
        (centres.reshape(-1, groups, 3),),
        (groups, count),
        programs=-(-groups // CENTRES),
        interpret=interpret,
    )


def _call(
    kernel: Callable[..., None],
    xyz: jax.Array,
    others: Sequence[jax.Array],
    result: tuple[int, ...],
    *,
    programs: int,
    interpret: bool,
) -> jax.Array:
    """Runs a kernel on every cloud.

    Args:
      kernel: takes references to the planes [batch, 3, rows, lanes], to `others` and to the result.
      xyz: [..., points, 3].
      others: arrays with a leading axis over the clouds.
      result: shape of the result of a cloud.
      programs: programs per cloud.
      interpret: run as ordinary JAX, on any device.

    Returns:
      int32 [..., *result].
    """
    leading, points = xyz.shape[:-2], xyz.shape[-2]
    planes = _planes(xyz.reshape(-1, points, 3))
    batch, lanes = planes.shape[0], planes.shape[-1]
    indices = pl.pallas_call(
        kernel,
        out_shape=jax.ShapeDtypeStruct((batch, *result), jnp.int32),
        grid=(batch, programs),
        compiler_params=plgpu.CompilerParams(num_warps=lanes // WARP, num_stages=1),
        interpret=interpret,
    )(planes, *others)
    return indices.reshape(*leading, *result)


def _planes(xyz: jax.Array) -> jax.Array:
    """Arranges [batch, points, 3] as [batch, 3, rows, lanes]; pads with points at infinity."""
    batch, points, _ = xyz.shape
    lanes = MIN_LANES
    while lanes < min(-(-points // MAX_ROWS), MAX_LANES):
        lanes *= 2
    rows = -(-points // lanes)
    widths = ((0, 0), (0, rows * lanes - points), (0, 0))
    padded = jnp.pad(xyz, widths, constant_values=jnp.inf)
    return padded.reshape(batch, lanes, rows, 3).transpose(0, 3, 2, 1)


def _farthest_kernel(planes, chosen, *, points: int, skip_squared_norm: float | None):
    cloud, (rows, lanes) = pl.program_id(0), planes.shape[2:]
    lane = jax.lax.iota(jnp.int32, lanes)
    coordinates = [_load(planes, cloud, row) for row in range(rows)]

    def initial(row):
        excluded = lane * rows + row >= points
        if skip_squared_norm is not None:
            excluded |= _squared_norm(coordinates[row]) <= skip_squared_norm
        return jnp.where(excluded, -1.0, jnp.inf)

    def choose(step, carry):
        index, distances = carry
        chosen[cloud, step] = index
        point = [planes[cloud, axis, index % rows, index // rows] for axis in range(3)]
        farthest, position = jnp.full(lanes, -jnp.inf), lane * rows
        nearer = []
        for row in range(rows):
            distance = jnp.minimum(distances[row], _squared_distance(coordinates[row], point))
            nearer.append(distance)
            # The first of equal distances, here and among the lanes.
            position = jnp.where(distance > farthest, lane * rows + row, position)
            farthest = jnp.maximum(distance, farthest)
        maximum = jnp.max(farthest)
        index = jnp.min(jnp.where(farthest == maximum, position, rows * lanes))
        return index, tuple(nearer)

    first = jnp.int32(0), tuple(initial(row) for row in range(rows))
    jax.lax.fori_loop(0, chosen.shape[1], choose, first)


def _ball_kernel(planes, centres, indices, *, squared_radius: float):
    cloud, (rows, lanes) = pl.program_id(0), planes.shape[2:]
    count = indices.shape[2]
    lane = jax.lax.iota(jnp.int32, lanes)
    slot = jax.lax.iota(jnp.int32, pl.next_power_of_2(count))
    coordinates = [_load(planes, cloud, row) for row in range(rows)]

    def search(centre):
        point = [centres[cloud, centre, axis] for axis in range(3)]
        bits = jnp.zeros(lanes, jnp.int32)
        for row in range(rows):
            inside = _squared_distance(coordinates[row], point) <= squared_radius
            bits |= jnp.where(inside, jnp.int32(1 << row), 0)
        sizes = jax.lax.population_count(bits)
        position = jax.lax.cumsum(sizes) - sizes
        for row in range(rows):
            inside = (bits & (1 << row)) != 0
            _store(indices, cloud, centre, position, lane * rows + row, inside & (position < count))
            position += inside.astype(jnp.int32)
        # The lowest set bit, minus one, has as many bits as there are points before it.
        lowest = lane * rows + jax.lax.population_count((bits & -bits) - 1)
        first = jnp.min(jnp.where(bits != 0, lowest, rows * lanes))
        first = jnp.where(first < rows * lanes, first, 0)
        missing = (slot >= jnp.sum(sizes)) & (slot < count)
        _store(indices, cloud, centre, slot, jnp.broadcast_to(first, slot.shape), missing)

    _for_each_centre(search, centres.shape[1])


def _nearest_kernel(planes, centres, indices):
    cloud, (rows, lanes) = pl.program_id(0), planes.shape[2:]
    count = indices.shape[2]
    lane = jax.lax.iota(jnp.int32, lanes)

    def search(centre):
        point = [centres[cloud, centre, axis] for axis in range(3)]
        # Loaded again for every centre: distances take the registers. Non-negative floats have the
        # same order as their bit patterns read as integers.
        distances = [_squared_distance(_load(planes, cloud, row), point) for row in range(rows)]
        order = [jax.lax.bitcast_convert_type(distance, jnp.int32) for distance in distances]

        def select_bit(step, prefix):
            candidate = prefix | (jnp.int32(1) << (30 - step))
            below = sum((numbers < candidate).astype(jnp.int32) for numbers in order)
            return jnp.where(jnp.sum(below) < count, candidate, prefix)

        # The largest number with fewer than `count` numbers below it.
        last = jax.lax.fori_loop(0, 31, select_bit, jnp.int32(0))
        # Nearer points in the lower half of a word, points at the last distance in the upper half.
        sizes = sum(
            (numbers < last).astype(jnp.int32) + ((numbers == last).astype(jnp.int32) << 16)
            for numbers in order
        )
        before = jax.lax.cumsum(sizes) - sizes
        missing = count - (jnp.sum(sizes) & 0xFFFF)
        nearer, equal = before & 0xFFFF, before >> 16
        for row, numbers in enumerate(order):
            is_nearer, is_equal = numbers < last, numbers == last
            taken = is_nearer | (is_equal & (equal < missing))
            position = nearer + jnp.minimum(equal, missing)
            _store(indices, cloud, centre, position, lane * rows + row, taken)
            nearer += is_nearer.astype(jnp.int32)
            equal += is_equal.astype(jnp.int32)

    _for_each_centre(search, centres.shape[1])


def _for_each_centre(search: Callable[[Any], None], groups: int) -> None:
    """Calls `search` with the index of each centre of this program."""
    first = pl.program_id(1) * CENTRES

    def body(step, carry):
        search(first + step)
        return carry

    jax.lax.fori_loop(0, jnp.minimum(CENTRES, groups - first), body, 0)


def _load(planes: Any, cloud: jax.Array, row: int) -> list[jax.Array]:
    return [planes[cloud, axis, row, :] for axis in range(3)]


def _store(
    indices: Any,
    cloud: jax.Array,
    centre: jax.Array,
    position: jax.Array,
    values: jax.Array,
    mask: jax.Array,
) -> None:
    plgpu.store(indices.at[cloud, centre, position], values, mask=mask)


def _squared_norm(point: Sequence[jax.Array]) -> jax.Array:
    x, y, z = point
    return x * x + y * y + z * z


def _squared_distance(left: Sequence[jax.Array], right: Sequence[jax.Array]) -> jax.Array:
    return _squared_norm([a - b for a, b in zip(left, right, strict=True)])
