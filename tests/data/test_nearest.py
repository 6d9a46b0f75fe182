# SPDX-License-Identifier: Apache-2.0
"""The search for nearest records equals a plain loop, ties and duplicates included."""

import numpy as np
import pytest

from mrd_jax.data.hard_negatives import mining

RECORDS, DIM = 43, 4


def slow_search(grid, present, *, count):
    """Every pair in whole numbers of any size, sorted by (cosine, index)."""
    grid = grid.astype(object)
    found = []
    for i, row in enumerate(grid):
        others = [
            (-sum(row * other), j)
            for j, other in enumerate(grid)
            if present[i] and present[j] and any(row != other)
        ]
        places = [j for _, j in sorted(others)[:count]]
        found.append(places + [-1] * (count - len(places)))
    return np.array(found)


@pytest.fixture(scope="module")
def grid():
    """Few different values, so that cosines tie and rows repeat."""
    grid = np.random.default_rng(0).integers(-1, 2, (RECORDS, DIM)).astype(np.int16)
    assert len(np.unique(grid, axis=0)) < RECORDS
    return grid


@pytest.mark.parametrize("block", [RECORDS, 8, 100])  # whole, an uneven last one, too large
def test_blocks_find_what_a_loop_over_all_pairs_finds(grid, block):
    present = np.ones(RECORDS, bool)
    present[[0, 17]] = False
    groups = mining.group_equals(grid, present)
    got = np.concatenate(list(mining.search(grid, groups, count=6, block=block)))
    np.testing.assert_array_equal(got, slow_search(grid, present, count=6))
    assert got.dtype == np.int32


def test_a_record_with_fewer_neighbours_than_asked_for_says_so():
    grid = np.array([[3, 0], [3, 0], [0, 3], [1, 1]], np.int16)
    groups = mining.group_equals(grid, np.array([True, True, True, False]))
    assert groups.tolist() == [0, 0, 2, -1]
    (got,) = mining.search(grid, groups, count=2)
    assert got.tolist() == [[2, -1], [2, -1], [0, 1], [-1, -1]]


def test_a_grid_keeps_cosines_and_its_sums_are_exact():
    features = np.random.default_rng(1).normal(size=(60, 1_280))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    grid = mining.to_grid(unit).astype(np.int64)
    np.testing.assert_allclose(grid @ grid.T / mining.GRID**2, unit @ unit.T, atol=1e-3)
    # The longest a row can become: float32 holds whole numbers up to 2**24.
    assert (mining.GRID + np.sqrt(mining.MAX_DIM) / 2) ** 2 <= 2**24
    with pytest.raises(ValueError, match="30001 dimensions; at most 30000"):
        mining.to_grid(np.zeros(30_001))


def test_every_view_of_a_record_weighs_the_same():
    """Features are unnormalised: the longer one must not count for more."""
    views = np.array([[10, 0], [0, 1]], np.float16)
    np.testing.assert_allclose(mining.unit_mean(views), [0.5**0.5, 0.5**0.5])


@pytest.mark.parametrize("views", [[[0, 0], [1, 0]], [[1, 0], [-1, 0]], [[np.inf, 0]]])
def test_features_without_a_direction_are_refused(views):
    with pytest.raises(ValueError, match="no direction"):
        mining.unit_mean(np.array(views, np.float16))
