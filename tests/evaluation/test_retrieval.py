# SPDX-License-Identifier: Apache-2.0
"""Retrieval metrics on the five example shapes."""

import dataclasses
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
        TABLE,  # the second Stool is embedded like a table
        TABLE + 0.1 * CHAIR,
        LAMP,
        CHAIR + TABLE + LAMP,
    ]
)


def test_points_to_text_ranks_the_distinct_names():
    got = retrieval.retrieval(EMBEDDINGS, held_out())
    # Ranks of the correct names: 1; the second Stool ranks Desk and Thing first, then Stool and
    # Torch tie at cosine 0, which gives rank 4; then 1, 1, 1.
    assert got["points_to_text/recall@1"] == 4 / 5
    assert got["points_to_text/median_rank"] == 1
    assert (got["points_to_text/queries"], got["points_to_text/gallery"]) == (5, 4)


def test_text_to_points_accepts_any_shape_of_that_name():
    got = retrieval.retrieval(EMBEDDINGS, held_out())
    # "Stool" ranks the first Stool first; "Desk" ranks the table-like Stool before the desk.
    assert got["text_to_points/recall@1"] == 3 / 4
    assert got["text_to_points/recall@5"] == 1.0
    assert (got["text_to_points/queries"], got["text_to_points/gallery"]) == (4, 5)


def test_only_the_own_image_of_a_shape_is_correct():
    got = retrieval.retrieval(EMBEDDINGS, held_out())
    # Both Stools have the same picture, so the first ties with the other: rank 2.
    # Pictures: chair, chair, half chair and half table, lamp, all three.
    # Second Stool (table): desk, thing, then three at cosine 0, its own among them: rank 5.
    # Desk (table and a little chair): its own picture ranks first.
    assert got["points_to_image/recall@1"] == 3 / 5
    assert got["points_to_image/median_rank"] == 1
    assert got["points_to_image/recall@5"] == 1.0


def test_image_to_points_uses_images_as_queries():
    got = retrieval.retrieval(EMBEDDINGS, held_out())
    # Picture of the first Stool (chair): itself, rank 1. Of the second: chair 1, thing 0.58, desk
    # 0.0995, then lamp and itself at 0: rank 5. Desk's: thing 0.82, desk 0.77, Stools 0.71: 2.
    assert got["image_to_points/recall@1"] == 3 / 5
    assert got["image_to_points/median_rank"] == 1


def test_queries_with_unseen_names_search_the_whole_gallery():
    got = retrieval.retrieval(EMBEDDINGS, held_out())
    # Desk and Torch are unseen; "Desk" still ranks the seen, table-like Stool first.
    assert got["unseen/text_to_points/recall@1"] == 1 / 2
    assert got["unseen/text_to_points/median_rank"] == 1.5
    assert got["unseen/text_to_points/queries"] == 2
    assert got["unseen/text_to_points/gallery"] == 5
    assert got["unseen/points_to_text/recall@1"] == 1.0


def test_split_without_unseen_names_has_no_unseen_metrics():
    rows = [row for row in records() if row["id"] not in ("d", "t")]
    got = retrieval.retrieval(np.stack([CHAIR, CHAIR, LAMP]), held_out(rows=rows))
    assert not [key for key in got if key.startswith("unseen/")]


def test_shape_without_views_is_excluded_from_image_retrieval():
    rows = [*records(), record("Blank", label=-1, feature=TABLE - CHAIR, views=[])]
    got = retrieval.retrieval(np.vstack([EMBEDDINGS, TABLE - CHAIR]), held_out(rows=rows))
    assert (got["points_to_image/queries"], got["points_to_image/gallery"]) == (5, 5)
    assert (got["points_to_text/queries"], got["points_to_text/gallery"]) == (6, 5)


def test_wrong_number_of_embeddings_raises():
    with pytest.raises(ValueError, match="4 embeddings for 5 held-out shapes"):
        retrieval.retrieval(EMBEDDINGS[:4], held_out())


def test_neighbours_are_sorted_by_cosine():
    nearest, cosines = retrieval.nearest_neighbours(
        np.array([[2.0, 0.0]]), np.array([[0.0, 1.0], [3.0, 4.0], [1.0, 0.0]]), count=2
    )
    np.testing.assert_array_equal(nearest, [[2, 1]])
    np.testing.assert_allclose(cosines, [[1.0, 0.6]], rtol=1e-6)


def test_skip_self_excludes_a_shape_from_its_neighbours():
    shapes = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    nearest, _ = retrieval.nearest_neighbours(shapes, shapes, count=5, skip_self=True)
    np.testing.assert_array_equal(nearest, [[1, 2], [0, 2], [1, 0]])


def test_neighbours_do_not_depend_on_the_chunk_size():
    rng = np.random.default_rng(0)
    shapes = rng.normal(size=(50, 4))
    shapes[10] = shapes[30]  # tied neighbours are in the order of the gallery
    whole, cosines = retrieval.nearest_neighbours(shapes, shapes, count=50, skip_self=True)
    assert whole.shape == (50, 49)
    for chunk in (1, 7, 49):
        got = retrieval.nearest_neighbours(shapes, shapes, count=50, skip_self=True, chunk=chunk)
        np.testing.assert_array_equal(got[0], whole)
        np.testing.assert_allclose(got[1], cosines, atol=1e-6)


def test_points_to_points_excludes_the_query_itself():
    got = retrieval.retrieval(EMBEDDINGS, held_out())
    # Only the Stools share a class. Among the labelled, the first ranks the desk at 0.0995, then
    # the other Stool and the lamp tie at 0: rank 3. The second ranks the desk first, then the
    # first Stool and the lamp tie: rank 3.
    assert got["points_to_points/map"] == pytest.approx(1 / 3)
    assert got["points_to_points/map_per_class"] == pytest.approx(1 / 3)
    counts = [got[f"points_to_points/map_{key}"] for key in ("queries", "gallery", "lonely")]
    assert counts == [2, 4, 2]


def test_class_to_points_uses_class_names_as_queries():
    got = retrieval.retrieval(EMBEDDINGS, held_out())
    # chair: the first Stool at 1; desk 0.0995; second Stool and lamp at 0, rank 4: (1 + 2/4) / 2.
    # table: the second Stool at 1, the desk at 0.995: 1/2. lamp: the lamp.
    assert got["class_to_points/map"] == pytest.approx((0.75 + 0.5 + 1) / 3)
    assert got["class_to_points/map_lonely"] == 0


def test_own_picture_of_a_shape_is_relevant_by_class():
    got = retrieval.retrieval(EMBEDDINGS, held_out())
    # Pictures of the labelled: chair, chair, half chair and half table, lamp.
    # First Stool: both chairs first, 1. Second, like a table: the desk's at 0.707, then chairs and
    # lamp tie at 0, the lamp first: (1/3 + 2/4) / 2. Desk: its own at 0.774. Lamp: its own.
    assert got["points_to_image/map"] == pytest.approx((1 + (1 / 3 + 2 / 4) / 2 + 1 + 1) / 4)
    # The class chair has the same weight as table and lamp.
    by_class = ((1 + (1 / 3 + 2 / 4) / 2) / 2 + 1 + 1) / 3
    assert got["points_to_image/map_per_class"] == pytest.approx(by_class)
    counts = [got[f"points_to_image/map_{key}"] for key in ("queries", "gallery", "lonely")]
    assert counts == [4, 4, 0]


def test_name_of_shapes_of_two_classes_has_no_class():
    rows = records()
    rows[1]["label"] = 1  # one Stool is a chair, the other a table
    got = retrieval.retrieval(EMBEDDINGS, held_out(rows=rows))
    # Desk, a table, and Torch, a lamp, remain; no text has the class of the first Stool, chair.
    counts = [got[f"points_to_text/map_{key}"] for key in ("queries", "gallery", "lonely")]
    assert counts == [3, 2, 1]
    assert got["points_to_text/map"] == 1.0
    # "Desk" ranks the second Stool and the desk first.
    assert got["text_to_points/map"] == 1.0


def test_split_without_classes_has_no_mean_average_precision():
    rows = [record("Thing", label=-1, feature=CHAIR), record("Other", label=-1, feature=LAMP)]
    got = retrieval.retrieval(np.stack([CHAIR, LAMP]), held_out(rows=rows))
    assert got["points_to_text/recall@1"] == 1.0
    assert not [key for key in got if "/map" in key]


@pytest.mark.parametrize("chunk", [1, 3])
def test_metrics_do_not_depend_on_the_chunk_size(chunk):
    want = retrieval.retrieval(EMBEDDINGS, held_out())
    assert retrieval.retrieval(EMBEDDINGS, held_out(), chunk=chunk) == pytest.approx(want)


def test_memory_stays_below_the_whole_matrix_of_cosines():
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
            # int64 indices and two copies of the cosines of a chunk, and the shapes, are a tenth of
            # the matrix.
            assert peak < count * count * 4 / 10
    finally:
        tracemalloc.stop()


def test_precision_has_an_interval_over_groups_where_the_queries_are_shapes():
    rows = [record(f"n{i}", label=i % 3, feature=np.eye(3)[i % 3], id=f"i{i}") for i in range(24)]
    shapes = dataclasses.replace(held_out(rows=rows), groups=tuple(f"g{i // 2}" for i in range(24)))
    embeddings = np.random.default_rng(0).normal(size=(24, 3))
    metrics = retrieval.retrieval(embeddings, shapes)
    low, high = (metrics[f"points_to_points/map_{end}"] for end in ("low", "high"))
    assert low < metrics["points_to_points/map"] < high
    assert "image_to_points/map_low" in metrics and "class_to_points/map_low" not in metrics
    ungrouped = retrieval.retrieval(embeddings, dataclasses.replace(shapes, groups=None))
    assert {k: v for k, v in metrics.items() if not k.endswith(("_low", "_high"))} == ungrouped


def test_ranks_and_precisions_name_the_shape_of_every_query():
    ranks = retrieval.own_ranks(EMBEDDINGS, held_out())
    # The name "Stool" belongs to shapes 0 and 1, and is that of the first.
    assert ranks["text_to_points"].shapes.tolist() == [0, 2, 3, 4]
    assert ranks["points_to_text"].shapes.tolist() == [0, 1, 2, 3, 4]
    assert ranks["points_to_text"].ranks.tolist() == [1, 4, 1, 1, 1]
    precisions = retrieval.class_precisions(EMBEDDINGS, held_out())
    shapes = precisions["points_to_points"].shapes
    assert (held_out().labels[shapes] == precisions["points_to_points"].labels).all()
    assert precisions["class_to_points"].shapes.tolist() == [-1] * len(
        precisions["class_to_points"].labels
    )
