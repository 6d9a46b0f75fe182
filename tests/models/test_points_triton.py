# SPDX-License-Identifier: Apache-2.0
"""The kernels for NVIDIA GPUs equal brute-force loops, and run there without a sort."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from point_loops import lattice, slow_ball_query, slow_farthest_points, slow_knn

from mrd_jax.kernels import platforms, points_triton
from mrd_jax.models import grouping

# Kernels are unrolled; compilation takes the time.
pytestmark = pytest.mark.usefixtures("fast_compile")

# Points and the least number of lanes: part of one row; three rows, the last one short; all rows.
SIZES = [(33, 128), (300, 128), pytest.param((248, 8), marks=pytest.mark.slow)]


@pytest.fixture(params=SIZES, ids=str)
def clouds(request, monkeypatch):
    points, lanes = request.param
    monkeypatch.setattr(points_triton, "MIN_LANES", lanes)
    return lattice(0, (2, points, 3), steps=4)


@pytest.fixture
def centres():
    """More centres than a program searches; the last one is far from every point."""
    centres = lattice(1, (2, points_triton.CENTRES + 3, 3), steps=4)
    centres[:, -1] = 9
    return centres


def run(function, *arrays, **options):
    """Runs a kernel in interpret mode."""
    return jax.jit(functools.partial(function, interpret=True, **options))(*arrays)


def test_farthest_points_equal_the_loop_with_ties_to_the_lowest_index(clouds):
    got = run(points_triton.farthest_point_sample, clouds, count=20)
    np.testing.assert_array_equal(got, [slow_farthest_points(cloud, 20) for cloud in clouds])
    assert got.dtype == np.int32


def test_skipped_points_are_chosen_only_if_they_are_first():
    clouds = lattice(2, (2, 150, 3), steps=4)  # exact in float32
    clouds[:, :3] = 1 / 64
    sample = functools.partial(
        points_triton.farthest_point_sample, count=150, skip_squared_norm=1e-3, interpret=True
    )
    got = np.asarray(jax.jit(sample)(clouds))
    for cloud, chosen in zip(clouds, got, strict=True):
        near = np.flatnonzero((cloud**2).sum(axis=-1) <= 1e-3)
        kept = np.delete(cloud, near[1:], axis=0)
        index = np.delete(np.arange(150), near[1:])
        # Once every other point is chosen, all distances are 0: the first of them is index 1 of
        # what is kept, or 0.
        distinct = len(np.unique(kept, axis=0))
        want = index[slow_farthest_points(kept, distinct)]
        np.testing.assert_array_equal(chosen[:distinct], want)
        assert not set(chosen) & set(near[1:])


def test_balls_equal_the_loop_whether_full_short_or_empty(clouds, centres):
    count = 7
    got = run(points_triton.ball_query, clouds, centres, radius=0.5, count=count)
    pairs = zip(clouds, centres, strict=True)
    np.testing.assert_array_equal(got, [slow_ball_query(*pair, 0.5, count) for pair in pairs])
    assert got.dtype == np.int32


def test_neighbours_equal_the_loop_with_ties_for_the_last_place(clouds, centres):
    for count in (1, clouds.shape[1]) if clouds.shape[1] == 33 else (40,):
        got = run(points_triton.knn, clouds, centres, count=count)
        pairs = zip(clouds, centres, strict=True)
        np.testing.assert_array_equal(got, [slow_knn(*pair, count) for pair in pairs])
    assert got.dtype == np.int32


def test_neighbours_differ_in_the_last_bit_or_in_the_exponent():
    """Squared distances: 0, the smallest, 1 and the next float, the largest, and infinity."""
    x = np.array([1, 3e38, 2e-19, 1 + 2**-23, 1.8e19, 0, 1, 1e25], np.float32)
    cloud, order = np.stack([x, 0 * x, 0 * x], axis=-1), [5, 2, 0, 6, 3, 4, 1, 7]
    search = jax.jit(lambda cloud, centre: [
        points_triton.knn(cloud, centre, count=count, interpret=True) for count in (2, 4, 7)
    ])  # fmt: skip
    for got, count in zip(search(cloud, np.zeros((1, 3), np.float32)), (2, 4, 7), strict=True):
        np.testing.assert_array_equal(got, [sorted(order[:count])])


def group(xyz):
    """Samples and searches by every function, and uses the points that they find."""
    centres = grouping.gather(xyz, grouping.farthest_point_sample(xyz, 5))
    within = grouping.ball_query(xyz, centres, radius=0.5, count=4)
    nearest = grouping.knn(xyz, centres, count=4)
    return jnp.sum(grouping.gather(xyz, within)) + jnp.sum(grouping.gather(xyz, nearest))


def lowered(platform, points=64):
    cloud = jax.ShapeDtypeStruct((2, points, 3), np.float32)
    traced = jax.jit(jax.grad(group)).trace(cloud)
    return traced.lower(lowering_platforms=(platform,)).as_text()


def test_cuda_program_is_three_kernels_without_sort_loop_or_distances(monkeypatch):
    monkeypatch.setattr(platforms, "compiles_cuda", lambda: True)
    program = lowered("cuda")
    assert program.count("@__gpu$xla.gpu.triton(") == 3
    assert not any(
        name in program for name in ("stablehlo.sort", "top_k", "stablehlo.while", "5x64x")
    )


@pytest.mark.parametrize("platform", ["cpu", "tpu", "rocm"])
def test_other_platforms_do_not_run_the_kernels(monkeypatch, platform):
    monkeypatch.setattr(platforms, "compiles_cuda", lambda: True)
    assert "triton" not in lowered(platform)


def test_larger_clouds_are_searched_without_the_kernels(monkeypatch):
    monkeypatch.setattr(platforms, "compiles_cuda", lambda: True)
    assert "triton" not in lowered("cuda", points=points_triton.MAX_POINTS + 1)


@pytest.mark.parametrize("points", [1, 3968, 3969, 10_000, 16_384, points_triton.MAX_POINTS])
def test_every_supported_cloud_fits_into_rows_of_a_power_of_two(points):
    cloud = jax.ShapeDtypeStruct((1, points, 3), np.float32)
    _, _, rows, lanes = jax.eval_shape(points_triton._planes, cloud).shape
    assert rows * lanes >= points and rows <= points_triton.MAX_ROWS
    assert lanes & (lanes - 1) == 0 and lanes <= points_triton.MAX_LANES
    assert points_triton.supports(points) and not points_triton.supports(1 + 31 * 1024)
