# SPDX-License-Identifier: Apache-2.0
"""Sampling and neighbour search equal brute-force loops, including ties and duplicates."""

import pathlib

import jax
import numpy as np
import pytest
from point_loops import lattice, slow_ball_query, slow_farthest_points, slow_knn

from mrd_jax.models import grouping

FIXTURE = pathlib.Path(__file__).parents[1] / "fixtures" / "geometry_edge.npz"


@pytest.fixture(scope="module")
def edge():
    with np.load(FIXTURE) as archive:
        return dict(archive)


@pytest.fixture(params=["cpu", "tpu"])
def platform(request, monkeypatch):
    """Runs the branches of `jax.lax.platform_dependent` for this platform."""

    def platform_dependent(*operands, default, **branches):
        return branches.get(request.param, default)(*operands)

    monkeypatch.setattr(jax.lax, "platform_dependent", platform_dependent)


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("points", [33, 64, 200])
def test_farthest_points_equal_the_loop(points):
    clouds = lattice(0, (3, points, 3))
    got = grouping.farthest_point_sample(clouds, 20)
    want = [slow_farthest_points(cloud, 20) for cloud in clouds]
    np.testing.assert_array_equal(got, want)
    assert got.dtype == np.int32


@pytest.mark.usefixtures("platform")
def test_farthest_points_of_identical_points_are_the_first_point():
    cloud = np.ones((40, 3), np.float32)
    np.testing.assert_array_equal(grouping.farthest_point_sample(cloud, 5), np.zeros(5))


@pytest.mark.usefixtures("platform")
def test_ties_of_the_farthest_point_go_to_the_lowest_index():
    cloud = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1], [0, 0, 1]], np.float32)
    np.testing.assert_array_equal(grouping.farthest_point_sample(cloud, 4), [0, 1, 2, 3])


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize(
    "case",
    ["grid_ties", "few_unique", "all_near_origin", "first_near_origin", "skip_matters", "n_1000",
     "npoint_eq_n"],
)  # fmt: skip
def test_farthest_points_match_the_peers(edge, case):
    cloud = edge[f"fps/{case}/xyz"]
    plain, skipping = edge[f"fps/{case}/dgl_start0"], edge[f"fps/{case}/pointnet2_lowest_ties"]
    got = grouping.farthest_point_sample(cloud, len(plain))
    np.testing.assert_array_equal(got, plain)
    got = grouping.farthest_point_sample(cloud, len(plain), skip_squared_norm=1e-3)
    np.testing.assert_array_equal(got, skipping)


@pytest.mark.parametrize("count", [0, 9])
def test_invalid_number_of_farthest_points_raises(count):
    with pytest.raises(ValueError, match=f"{count} of 8 points"):
        grouping.farthest_point_sample(np.zeros((8, 3), np.float32), count)


def test_points_without_three_coordinates_raise():
    with pytest.raises(ValueError, match=r"\(8, 6\)"):
        grouping.farthest_point_sample(np.zeros((8, 6), np.float32), 2)


# Less than a word, exactly one word, several words with and without a remainder.
@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("points", [20, 32, 128, 333])
@pytest.mark.parametrize("count", [1, 7, 40])
def test_ball_query_equals_the_loop(points, count):
    clouds, centres = lattice(1, (2, points, 3), steps=4), lattice(2, (2, 9, 3), steps=4)
    got = grouping.ball_query(clouds, centres, radius=0.5, count=count)
    want = [
        slow_ball_query(cloud, cloud_centres, 0.5, count)
        for cloud, cloud_centres in zip(clouds, centres, strict=True)
    ]
    np.testing.assert_array_equal(got, want)


def test_ball_query_returns_the_first_points_by_index_not_the_nearest():
    cloud = np.array([[0.9, 0, 0], [0.1, 0, 0], [5, 0, 0], [0, 0, 0]], np.float32)
    centre = np.zeros((1, 3), np.float32)
    got = grouping.ball_query(cloud, centre, radius=1.0, count=2)
    np.testing.assert_array_equal(got, [[0, 1]])


def test_boundary_belongs_to_the_ball_and_small_balls_are_padded_with_their_first_point():
    cloud = np.array([[2, 0, 0], [0.5, 0, 0], [0, 0.5, 0]], np.float32)
    centre = np.zeros((1, 3), np.float32)
    got = grouping.ball_query(cloud, centre, radius=0.5, count=4)
    np.testing.assert_array_equal(got, [[1, 2, 1, 1]])


@pytest.mark.usefixtures("platform")
def test_empty_ball_is_padded_with_index_zero():
    cloud = np.full((50, 3), 9, np.float32)
    got = grouping.ball_query(cloud, np.zeros((2, 3), np.float32), radius=1.0, count=3)
    np.testing.assert_array_equal(got, np.zeros((2, 3)))


@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize("case", ["boundary_r0.5", "boundary_r0.25_short", "cut_r0.5"])
def test_ball_query_matches_the_peer(edge, case):
    want = edge[f"ball/{case}/idx"]
    radius = float(edge[f"ball/{case}/radius"])
    got = grouping.ball_query(
        edge["ball/xyz"], edge["ball/centres"], radius=radius, count=want.shape[1]
    )
    np.testing.assert_array_equal(got, want)


# Part of a word, whole words, and a remainder; most points of a coarse lattice have duplicates.
@pytest.mark.usefixtures("platform")
@pytest.mark.parametrize(("points", "count"), [(20, 20), (64, 1), (64, 12), (150, 149)])
def test_neighbours_equal_the_loop_including_ties_for_the_last_place(points, count):
    clouds, centres = lattice(3, (2, points, 3), steps=2), lattice(4, (2, 9, 3), steps=2)
    got = grouping.knn(clouds, centres, count=count)
    want = [slow_knn(*pair, count) for pair in zip(clouds, centres, strict=True)]
    np.testing.assert_array_equal(got, want)
    assert got.dtype == np.int32


@pytest.mark.usefixtures("platform")
def test_neighbours_among_duplicates_are_the_first_copies():
    """One point fills several words, with more copies than there are neighbours."""
    unique = lattice(8, (5, 3))
    draw = np.random.default_rng(9).integers(0, 5, 200)
    draw[40:140] = 2
    got = grouping.knn(unique[draw], unique, count=70)
    np.testing.assert_array_equal(got, slow_knn(unique[draw], unique, 70))
    np.testing.assert_array_equal(got[2], np.flatnonzero(draw == 2)[:70])


@pytest.mark.usefixtures("platform")
def test_neighbours_differ_in_the_last_bit_or_in_the_exponent():
    """Squared distances: 0, the smallest, 1 and the next float, the largest, and infinity."""
    x = jax.numpy.array([1, 3e38, 2e-19, 1 + 2**-23, 1.8e19, 0, 1, 1e25])
    cloud = jax.numpy.stack([x, 0 * x, 0 * x], axis=-1)
    order = [5, 2, 0, 6, 3, 4, 1, 7]
    for count in (1, 2, 4, 6, 7):
        got = grouping.knn(cloud, np.zeros((1, 3), np.float32), count=count)
        np.testing.assert_array_equal(got, [sorted(order[:count])])


@pytest.mark.usefixtures("platform")
def test_neighbours_match_the_peer(edge):
    got = grouping.knn(edge["knn/xyz"], edge["knn/centres"], count=int(edge["knn/k"]))
    np.testing.assert_array_equal(got, edge["knn/idx_sorted_by_index"])


def test_tpu_program_has_no_sort_and_no_gather_of_single_numbers():
    cloud = jax.ShapeDtypeStruct((2, 64, 3), np.float32)

    def group(xyz):
        centres = xyz[:, :5]
        within = grouping.ball_query(xyz, centres, radius=0.5, count=4)
        nearest = grouping.knn(xyz, centres, count=4)
        return grouping.farthest_point_sample(xyz, 5), within, nearest

    lowered = jax.jit(group).trace(cloud).lower(lowering_platforms=("tpu",)).as_text()
    assert "gather" not in lowered
    assert "sort" not in lowered and "top_k" not in lowered


def test_more_neighbours_than_points_raise():
    with pytest.raises(ValueError, match="9 neighbours of 8 points"):
        grouping.knn(np.zeros((8, 3), np.float32), np.zeros((1, 3), np.float32), count=9)


@pytest.mark.parametrize("leading", [(), (2,), (2, 3)])
def test_gather_selects_rows_of_each_point_cloud(leading):
    rng = np.random.default_rng(5)
    values = rng.normal(size=(*leading, 10, 6)).astype(np.float32)
    index = rng.integers(0, 10, (*leading, 4, 5))
    got = np.asarray(grouping.gather(values, index)).reshape(-1, 4, 5, 6)
    clouds, picks = values.reshape(-1, 10, 6), index.reshape(-1, 4, 5)
    for cloud, pick, result in zip(clouds, picks, got, strict=True):
        np.testing.assert_array_equal(result, cloud[pick])


def test_one_point_cloud_and_a_batch_of_it_agree():
    cloud = lattice(6, (100, 3))
    chosen = grouping.farthest_point_sample(cloud, 8)
    np.testing.assert_array_equal(grouping.farthest_point_sample(cloud[None], 8)[0], chosen)
    centres = grouping.gather(cloud, chosen)
    for search in (
        lambda xyz, centres: grouping.ball_query(xyz, centres, radius=0.7, count=5),
        lambda xyz, centres: grouping.knn(xyz, centres, count=5),
    ):
        np.testing.assert_array_equal(search(cloud[None], centres[None])[0], search(cloud, centres))


def test_coordinates_have_a_gradient_and_indices_have_none():
    cloud = lattice(7, (60, 3))

    def spread(xyz):
        centres = grouping.gather(xyz, grouping.farthest_point_sample(xyz, 4))
        index = grouping.ball_query(xyz, centres, radius=0.8, count=6)
        return jax.numpy.sum(grouping.gather(xyz, index) ** 2)

    centres = cloud[slow_farthest_points(cloud, 4)]
    uses = np.bincount(np.ravel(slow_ball_query(cloud, centres, 0.8, 6)), minlength=60)
    np.testing.assert_allclose(jax.grad(spread)(cloud), 2 * cloud * uses[:, None], rtol=1e-6)
