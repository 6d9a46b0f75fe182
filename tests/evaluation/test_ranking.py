# SPDX-License-Identifier: Apache-2.0
"""Retrieval ranks and average precision: hand-computed cases, scikit-learn and a slow loop."""

import math

import numpy as np
import pytest
import sklearn.metrics

from mrd_jax.evaluation.metrics import ranking


def at_angles(*degrees):
    """Returns unit vectors in the plane; a smaller angle is a larger cosine to 0 degrees."""
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1)


def test_best_ranked_of_several_relevant_items_counts():
    # Seen from 0 degrees, the gallery is ranked in the order 10, 20, 30, 40 degrees.
    gallery = at_angles(40, 20, 10, 30)
    groups = np.array([5, 5, 1, 2])
    ranks = ranking.retrieval_ranks(
        at_angles(0, 0, 0), gallery, query_groups=np.array([5, 1, 2]), gallery_groups=groups
    )
    np.testing.assert_array_equal(ranks, [2, 1, 3])


def test_only_irrelevant_items_that_tie_worsen_the_rank():
    gallery = at_angles(25, 25, 25, 25)
    groups = np.array([0, 0, 1, 2])
    ranks = ranking.retrieval_ranks(
        at_angles(0, 0), gallery, query_groups=np.array([0, 1]), gallery_groups=groups
    )
    # Two irrelevant items tie with group 0, three with group 1.
    np.testing.assert_array_equal(ranks, [3, 4])


def test_equal_embeddings_give_the_last_rank_in_spite_of_rounding():
    rng = np.random.default_rng(0)
    same = np.tile(rng.normal(size=384), (40, 1)) * (1 + 1e-7 * rng.normal(size=(40, 1)))
    images = rng.normal(size=(40, 384))
    own = np.arange(40)
    ranks = ranking.retrieval_ranks(images, same, query_groups=own, gallery_groups=own)
    np.testing.assert_array_equal(ranks, np.full(40, 40))


@pytest.mark.parametrize("chunk", [1, 7, 64])
def test_retrieval_ranks_in_chunks_match_a_slow_loop(chunk):
    rng = np.random.default_rng(1)
    queries, gallery = rng.normal(size=(20, 3)), rng.normal(size=(33, 3))
    query_groups, gallery_groups = rng.integers(5, size=20), rng.integers(5, size=33)
    want = []
    for query, group in zip(queries, query_groups, strict=True):
        cosines = [
            (query @ item / math.hypot(*query) / math.hypot(*item), other == group)
            for item, other in zip(gallery, gallery_groups, strict=True)
        ]
        order = sorted(cosines, reverse=True)
        want.append(1 + next(i for i, (_, relevant) in enumerate(order) if relevant))
    got = ranking.retrieval_ranks(
        queries,
        gallery,
        query_groups=query_groups,
        gallery_groups=gallery_groups,
        chunk=chunk,
    )
    np.testing.assert_array_equal(got, want)


def test_query_without_a_relevant_item_raises():
    with pytest.raises(ValueError, match="first is row 1 of group 9"):
        ranking.retrieval_ranks(
            at_angles(0, 1),
            at_angles(2),
            query_groups=np.array([3, 9]),
            gallery_groups=np.array([3]),
        )


def test_precision_is_averaged_over_the_ranks_of_relevant_items():
    # Seen from 0 degrees, the order is 10, 20, 30, 40 degrees: groups 1, 5, 2, 5.
    gallery, groups = at_angles(40, 20, 10, 30), np.array([5, 5, 1, 2])
    precisions = ranking.average_precisions(
        at_angles(0, 0, 0), gallery, query_groups=np.array([5, 1, 2]), gallery_groups=groups
    )
    # Ranks 2 and 4: (1/2 + 2/4) / 2; rank 1; rank 3.
    np.testing.assert_allclose(precisions, [1 / 2, 1, 1 / 3], rtol=1e-15)


def test_only_irrelevant_items_that_tie_lower_the_precision():
    gallery, groups = at_angles(10, 25, 25, 25, 25, 60), np.array([0, 0, 0, 1, 2, 1])
    precisions = ranking.average_precisions(
        at_angles(0, 0, 0), gallery, query_groups=np.array([0, 1, 2]), gallery_groups=groups
    )
    # Group 0: rank 1; then two irrelevant items at 25 degrees come before its own, ranks 4 and 5.
    # Group 1: all but 60 degrees rank before it or tie, ranks 5 and 6. Group 2: rank 5.
    want = [(1 + 2 / 4 + 3 / 5) / 3, (1 / 5 + 2 / 6) / 2, 1 / 5]
    np.testing.assert_allclose(precisions, want, rtol=1e-15)


def test_query_is_excluded_from_its_own_ranking():
    shapes, groups = at_angles(0, 10, 30, 70), np.array([0, 1, 0, 1])
    precisions = ranking.average_precisions(
        shapes, shapes, query_groups=groups, gallery_groups=groups, own=np.arange(4)
    )
    # From 0: 10, 30. From 10: 0, 30, 70. From 30: 10, 0. From 70: 30, 10.
    np.testing.assert_allclose(precisions, [1 / 2, 1 / 3, 1 / 2, 1 / 2], rtol=1e-15)


def test_excluded_query_without_another_item_of_its_group_raises():
    shapes, groups = at_angles(0, 10, 30), np.array([0, 1, 0])
    with pytest.raises(ValueError, match="first is row 1 of group 1"):
        ranking.average_precisions(
            shapes, shapes, query_groups=groups, gallery_groups=groups, own=np.arange(3)
        )


def test_equal_embeddings_give_the_lowest_possible_precision():
    same, groups = np.ones((6, 3)), np.repeat([0, 1], 3)
    precisions = ranking.average_precisions(
        same, same, query_groups=groups, gallery_groups=groups, own=np.arange(6)
    )
    # Three irrelevant items first, then the two others of its group.
    np.testing.assert_allclose(precisions, np.full(6, (1 / 4 + 2 / 5) / 2), rtol=1e-15)


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("chunk", [1, 7, 512])
def test_average_precisions_in_chunks_match_scikit_learn(chunk, exclude_self):
    rng = np.random.default_rng(5)
    shapes, groups = rng.normal(size=(90, 12)), rng.integers(6, size=90)
    queries = rng.permutation(90)[:40]
    precisions = ranking.average_precisions(
        shapes[queries],
        shapes,
        query_groups=groups[queries],
        gallery_groups=groups,
        own=queries if exclude_self else None,
        chunk=chunk,
    )
    unit = shapes / np.linalg.norm(shapes, axis=1, keepdims=True)
    for precision, query in zip(precisions, queries, strict=True):
        others = np.arange(90) != query if exclude_self else np.ones(90, dtype=bool)
        want = sklearn.metrics.average_precision_score(
            groups[others] == groups[query], unit[others] @ unit[query]
        )
        assert precision == pytest.approx(want, abs=1e-12)


def test_relevant_counts_can_exclude_the_query_itself():
    gallery = np.array([3, 3, 8, 3])
    counts = ranking.relevant_counts(np.array([3, 8, 5]), gallery_groups=gallery)
    np.testing.assert_array_equal(counts, [3, 1, 0])
    counts = ranking.relevant_counts(
        np.array([3, 8, 5]), gallery_groups=gallery, own=np.array([0, 2, 1])
    )
    np.testing.assert_array_equal(counts, [2, 0, 0])
    nothing = ranking.relevant_counts(np.array([3]), gallery_groups=np.array([], dtype=int))
    np.testing.assert_array_equal(nothing, [0])


def test_chunk_size_of_zero_raises():
    with pytest.raises(ValueError, match="chunk is 0: expected at least 1 row"):
        ranking.retrieval_ranks(
            at_angles(0), at_angles(0), query_groups=[0], gallery_groups=[0], chunk=0
        )
