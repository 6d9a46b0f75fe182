# SPDX-License-Identifier: Apache-2.0
"""Retrieval in four directions on the five example shapes."""

import tracemalloc

import numpy as np
import pytest
from held_out_example import CHAIR, LAMP, TABLE, held_out, record, records

from mrd_jax.evaluation import retrieval
from mrd_jax.evaluation.metrics import ranking

# Shapes: two Stools, Desk, Torch, Thing. Names have the features chair, table, lamp, all three.
EMBEDDINGS = np.stack(
    [
        CHAIR,
        TABLE,  # the second Stool looks like a table
        TABLE + 0.1 * CHAIR,
        LAMP,
        CHAIR + TABLE + LAMP,
    ]
)


def test_points_to_text_ranks_the_distinct_names():
    got = retrieval.retrieval(EMBEDDINGS, held_out())
    # Places of the right names: 1; the second Stool meets Desk, Thing, then Stool and Torch
    # together at cosine 0, and the tie counts against it: 4; then 1, 1, 1.
    assert got["points_to_text/recall@1"] == 4 / 5
    assert got["points_to_text/median_rank"] == 1
    assert (got["points_to_text/queries"], got["points_to_text/gallery"]) == (5, 4)


def test_text_to_points_accepts_any_shape_of_that_name():
    got = retrieval.retrieval(EMBEDDINGS, held_out())
    # "Stool" finds the first Stool; "Desk" meets the table-like Stool first, the desk second.
    assert got["text_to_points/recall@1"] == 3 / 4
    assert got["text_to_points/recall@5"] == 1.0
    assert (got["text_to_points/queries"], got["text_to_points/gallery"]) == (4, 5)


def test_an_image_belongs_to_its_own_shape_only():
    got = retrieval.retrieval(EMBEDDINGS, held_out())
    # Both Stools have the same picture, so even the first ties with the other: place 2.
    # Pictures: chair, chair, half chair and half table, lamp, all three.
    # Second Stool (table): desk, thing, then three at cosine 0 with its own among them: 5.
    # Desk (table and a little chair): its own picture is the nearest.
    assert got["points_to_image/recall@1"] == 3 / 5
    assert got["points_to_image/median_rank"] == 1
    assert got["points_to_image/recall@5"] == 1.0


def test_image_to_points_is_the_transposed_search():
    got = retrieval.retrieval(EMBEDDINGS, held_out())
    # Chair picture of the first Stool: itself, place 1. Of the second: chair 1, thing 0.58, desk
    # 0.0995, then lamp and itself at 0: place 5. Desk's: thing 0.82, desk 0.77, Stools 0.71: 2.
    assert got["image_to_points/recall@1"] == 3 / 5
    assert got["image_to_points/median_rank"] == 1


def test_unseen_names_ask_in_the_whole_gallery():
    got = retrieval.retrieval(EMBEDDINGS, held_out())
    # Desk and Torch are unseen; "Desk" still meets the seen table-like Stool first.
    assert got["unseen/text_to_points/recall@1"] == 1 / 2
    assert got["unseen/text_to_points/median_rank"] == 1.5
    assert got["unseen/text_to_points/queries"] == 2
    assert got["unseen/text_to_points/gallery"] == 5
    assert got["unseen/points_to_text/recall@1"] == 1.0


def test_without_unseen_names_there_is_no_such_figure():
    rows = [row for row in records() if row["id"] not in ("d", "t")]
    got = retrieval.retrieval(np.stack([CHAIR, CHAIR, LAMP]), held_out(rows=rows))
    assert not [key for key in got if key.startswith("unseen/")]


def test_a_shape_without_views_is_left_out_of_image_retrieval():
    rows = [*records(), record("Blank", label=-1, feature=TABLE - CHAIR, views=[])]
    got = retrieval.retrieval(np.vstack([EMBEDDINGS, TABLE - CHAIR]), held_out(rows=rows))
    assert (got["points_to_image/queries"], got["points_to_image/gallery"]) == (5, 5)
    assert (got["points_to_text/queries"], got["points_to_text/gallery"]) == (6, 5)


def test_a_row_per_shape_is_demanded():
    with pytest.raises(ValueError, match="4 embeddings for 5 held-out shapes"):
        retrieval.retrieval(EMBEDDINGS[:4], held_out())


def test_neighbours_come_nearest_first():
    nearest, cosines = retrieval.nearest_neighbours(
        np.array([[2.0, 0.0]]), np.array([[0.0, 1.0], [3.0, 4.0], [1.0, 0.0]]), count=2
    )
    np.testing.assert_array_equal(nearest, [[2, 1]])
    np.testing.assert_allclose(cosines, [[1.0, 0.6]], rtol=1e-6)


def test_a_shape_is_not_its_own_neighbour():
    shapes = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    nearest, _ = retrieval.nearest_neighbours(shapes, shapes, count=5, skip_self=True)
    np.testing.assert_array_equal(nearest, [[1, 2], [0, 2], [1, 0]])


def test_neighbours_in_chunks_are_the_same():
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(50, 4))
    shapes[10] = shapes[30]  # a tie, in the order of the gallery
    whole, cosines = retrieval.nearest_neighbours(shapes, shapes, count=50, skip_self=True)
    assert whole.shape == (50, 49)
    for chunk in (1, 7, 49):
        got = retrieval.nearest_neighbours(shapes, shapes, count=50, skip_self=True, chunk=chunk)
        np.testing.assert_array_equal(got[0], whole)
        np.testing.assert_allclose(got[1], cosines, atol=1e-6)


def test_shapes_find_others_of_their_class_and_not_themselves():
    got = retrieval.retrieval(EMBEDDINGS, held_out())
    # Only the Stools share a class. Among the labelled, the first meets the desk at 0.0995, then
    # the other Stool and the lamp together at 0: place 3. The second meets the desk, then the
    # first Stool and the lamp together: place 3.
    assert got["points_to_points/map"] == pytest.approx(1 / 3)
    assert got["points_to_points/map_per_class"] == pytest.approx(1 / 3)
    figures = [got[f"points_to_points/map_{key}"] for key in ("queries", "gallery", "lonely")]
    assert figures == [2, 4, 2]


def test_a_class_name_finds_the_shapes_of_its_class():
    got = retrieval.retrieval(EMBEDDINGS, held_out())
    # chair: the first Stool at 1; desk 0.0995; second Stool and lamp at 0, place 4: (1 + 2/4) / 2.
    # table: the second Stool at 1, the desk at 0.995: 1/2. lamp: the lamp.
    assert got["class_to_points/map"] == pytest.approx((0.75 + 0.5 + 1) / 3)
    assert got["class_to_points/map_lonely"] == 0


def test_across_modalities_a_shapes_own_picture_counts_as_found():
    got = retrieval.retrieval(EMBEDDINGS, held_out())
    # Pictures of the labelled: chair, chair, half chair and half table, lamp.
    # First Stool: both chairs first, 1. Second, a table: desk's at 0.707, then chairs and lamp at
    # 0, the lamp before both: (1/3 + 2/4) / 2. Desk: its own at 0.774. Lamp: its own.
    assert got["points_to_image/map"] == pytest.approx((1 + (1 / 3 + 2 / 4) / 2 + 1 + 1) / 4)
    # By class, chair weighs as much as table and lamp.
    by_class = ((1 + (1 / 3 + 2 / 4) / 2) / 2 + 1 + 1) / 3
    assert got["points_to_image/map_per_class"] == pytest.approx(by_class)
    figures = [got[f"points_to_image/map_{key}"] for key in ("queries", "gallery", "lonely")]
    assert figures == [4, 4, 0]


def test_a_name_of_shapes_of_two_classes_has_none():
    rows = records()
    rows[1]["label"] = 1  # one Stool is a chair, the other a table
    got = retrieval.retrieval(EMBEDDINGS, held_out(rows=rows))
    # Left are Desk, a table, and Torch, a lamp; the first Stool, a chair, has no text to find.
    figures = [got[f"points_to_text/map_{key}"] for key in ("queries", "gallery", "lonely")]
    assert figures == [3, 2, 1]
    assert got["points_to_text/map"] == 1.0
    # "Desk" finds the second Stool and the desk at places 1 and 2.
    assert got["text_to_points/map"] == 1.0


def test_without_classes_there_is_no_precision_by_class():
    rows = [record("Thing", label=-1, feature=CHAIR), record("Other", label=-1, feature=LAMP)]
    got = retrieval.retrieval(np.stack([CHAIR, LAMP]), held_out(rows=rows))
    assert got["points_to_text/recall@1"] == 1.0
    assert not [key for key in got if "/map" in key]


@pytest.mark.parametrize("chunk", [1, 3])
def test_in_chunks_every_figure_is_the_same(chunk):
    want = retrieval.retrieval(EMBEDDINGS, held_out())
    assert retrieval.retrieval(EMBEDDINGS, held_out(), chunk=chunk) == pytest.approx(want)


def test_no_search_holds_the_whole_matrix_of_cosines():
    count, chunk = 3000, 50
    shapes = np.random.default_rng(0).normal(size=(count, 4)).astype(np.float32)
    groups = np.arange(count) % 100
    sides = {"query_groups": groups, "gallery_groups": groups, "chunk": chunk}
    searches = [
        lambda: ranking.retrieval_ranks(shapes, shapes, **sides),
        lambda: ranking.average_precisions(shapes, shapes, own=np.arange(count), **sides),
        lambda: retrieval.nearest_neighbours(shapes, shapes, count=3, chunk=chunk),
    ]
    tracemalloc.start()
    try:
        for search in searches:
            tracemalloc.reset_peak()
            search()
            _, peak = tracemalloc.get_traced_memory()
            # Indices of a chunk in int64, its cosines twice, and the shapes: a tenth of the matrix.
            assert peak < count * count * 4 / 10
    finally:
        tracemalloc.stop()
