# SPDX-License-Identifier: Apache-2.0
"""Retrieval in four directions on the five example shapes."""

import numpy as np
import pytest
from held_out_example import CHAIR, LAMP, TABLE, held_out, record, records

from mrd_jax.evaluators import retrieval

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
