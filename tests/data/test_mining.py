# SPDX-License-Identifier: Apache-2.0
"""The nearest-neighbour search matches a plain loop, ties and duplicates included."""

import numpy as np
import pytest

from mrd_jax.data.hard_negatives import mining

RECORDS, DIM = 43, 4


def slow_search(features, present, *, count):
    """Compares every pair with Python integers, sorted by (cosine, index)."""
    features = features.astype(object)
    neighbours = []
    for i, row in enumerate(features):
        others = [
            (-sum(row * other), j)
            for j, other in enumerate(features)
            if present[i] and present[j] and any(row != other)
        ]
        places = [j for _, j in sorted(others)[:count]]
        neighbours.append(places + [-1] * (count - len(places)))
    return np.array(neighbours)


@pytest.fixture(scope="module")
def features():
    """Features of few different values, with tied cosines and repeated rows."""
    features = np.random.default_rng(0).integers(-1, 2, (RECORDS, DIM)).astype(np.int16)
    assert len(np.unique(features, axis=0)) < RECORDS
    return features


@pytest.mark.parametrize(
    "block", [RECORDS, 8, 100]
)  # one block, an uneven last block, larger than the data
def test_blocks_match_a_loop_over_all_pairs(features, block):
    present = np.ones(RECORDS, bool)
    present[[0, 17]] = False
    groups = mining.group_duplicates(features, present)
    got = np.concatenate(list(mining.search(features, groups, count=6, block=block)))
    np.testing.assert_array_equal(got, slow_search(features, present, count=6))
    assert got.dtype == np.int32


def test_lists_with_fewer_neighbours_are_padded():
    features = np.array([[3, 0], [3, 0], [0, 3], [1, 1]], np.int16)
    groups = mining.group_duplicates(features, np.array([True, True, True, False]))
    assert groups.tolist() == [0, 0, 2, -1]
    (got,) = mining.search(features, groups, count=2)
    assert got.tolist() == [[2, -1], [2, -1], [0, 1], [-1, -1]]


def test_quantised_cosines_are_accurate_and_their_sums_exact():
    features = np.random.default_rng(1).normal(size=(60, 1_280))
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    features = mining.quantise(unit).astype(np.int64)
    np.testing.assert_allclose(features @ features.T / mining.LEVELS**2, unit @ unit.T, atol=1e-3)
    # The largest norm of a row: float32 is exact for integers up to 2**24.
    assert (mining.LEVELS + np.sqrt(mining.MAX_DIM) / 2) ** 2 <= 2**24
    with pytest.raises(ValueError, match="30001 dimensions; at most 30000"):
        mining.quantise(np.zeros(30_001))


def test_every_view_of_a_record_has_the_same_weight():
    """Features are not normalised: a longer one must not count more."""
    views = np.array([[10, 0], [0, 1]], np.float16)
    np.testing.assert_allclose(mining.unit_mean(views), [0.5**0.5, 0.5**0.5])


@pytest.mark.parametrize("views", [[[0, 0], [1, 0]], [[1, 0], [-1, 0]], [[np.inf, 0]]])
def test_features_without_a_direction_are_rejected(views):
    with pytest.raises(ValueError, match="no direction"):
        mining.unit_mean(np.array(views, np.float16))
