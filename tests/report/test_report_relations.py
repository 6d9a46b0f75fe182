# SPDX-License-Identifier: Apache-2.0
"""Relations over time and the map of the embeddings, as the report draws them."""

import dataclasses

import numpy as np
import pytest
from held_out_example import CHAIR, LAMP, TABLE, held_out

from mrd_jax.report import embedding_map, relations

TEMPERATURES = {"teacher_temperature": 0.1, "student_temperature": 0.2}
# Rows of the split: two chairs, a table, a lamp, a shape of unknown class.
EMBEDDINGS = np.stack([CHAIR, CHAIR, TABLE, LAMP, LAMP])


def slow_relation(rows, temperature):
    """The definition, entry by entry."""
    count = len(rows)
    result = np.zeros((count, count))
    for i in range(count):
        exps = {j: np.exp(rows[i] @ rows[j] / temperature) for j in range(count) if j != i}
        for j, value in exps.items():
            result[i, j] = value / sum(exps.values())
    return result


def test_a_relation_is_the_softmax_over_the_others():
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    found = relations.relation(rows, temperature=0.7)
    np.testing.assert_allclose(found, slow_relation(rows.astype(float), 0.7), rtol=1e-6)


def test_shapes_are_watched_class_by_class_where_the_teacher_saw_them():
    split = held_out()
    split.image_features[0] = 0  # the first chair has no picture
    assert relations.TrackedShapes(split, **TEMPERATURES).positions.tolist() == [1, 2, 3]


def test_a_frequent_class_does_not_crowd_out_the_others(monkeypatch):
    monkeypatch.setattr(relations, "MOST_OF_A_CLASS", 1)
    assert relations.TrackedShapes(held_out(), **TEMPERATURES).positions.tolist() == [0, 2, 3]
    monkeypatch.setattr(relations, "MOST", 2)
    assert relations.TrackedShapes(held_out(), **TEMPERATURES).positions.tolist() == [0, 2]


def test_teacher_and_student_have_their_own_temperatures():
    tracked = relations.TrackedShapes(held_out(), **TEMPERATURES)
    features = held_out().image_features[tracked.positions]
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(tracked.teacher, slow_relation(features, 0.1), rtol=1e-5)
    rows = EMBEDDINGS[tracked.positions]
    np.testing.assert_allclose(tracked.student(rows), slow_relation(rows, 0.2), rtol=1e-6)


def test_what_is_saved_comes_back_in_the_order_of_steps_and_only_for_these_shapes(tmp_path):
    tracked = relations.TrackedShapes(held_out(), **TEMPERATURES)
    for step in (20, 3):
        tracked.save(str(tmp_path), step=step, embeddings=EMBEDDINGS * step)
    steps, rows = zip(*tracked.read(str(tmp_path)), strict=True)
    assert steps == (3, 20)
    np.testing.assert_array_equal(rows[0], 3 * EMBEDDINGS[tracked.positions])
    others = dataclasses.replace(held_out(), ids=("a", "b", "c", "d", "e"))
    assert relations.TrackedShapes(others, **TEMPERATURES).read(str(tmp_path)) == []


def test_the_figure_says_how_far_the_student_is_from_the_teacher():
    tracked = relations.TrackedShapes(held_out(), **TEMPERATURES)
    rows = EMBEDDINGS[tracked.positions]
    figure = tracked.draw([relations.Snapshot(0, np.ones_like(rows)), relations.Snapshot(9, rows)])
    gap = np.abs(tracked.teacher - tracked.student(rows)).sum(axis=1).mean() / 2
    even = np.abs(tracked.teacher - (1 - np.eye(4)) / 3).sum(axis=1).mean() / 2
    assert f"{even:.2f} at step 0, {gap:.2f} at step 9" in figure.alt
    assert figure.source.startswith("data:image/svg+xml")


def test_pictures_for_tensorboard_tell_more_from_less():
    tracked = relations.TrackedShapes(held_out(), **TEMPERATURES)
    drawn = tracked.pictures(EMBEDDINGS)
    side = relations.PIXELS * len(tracked.positions)
    assert {one.shape for one in drawn.values()} == {(side, side, 3)}
    assert {one.dtype for one in drawn.values()} == {np.dtype(np.uint8)}
    # The two chairs are alike to the student, a chair and the lamp are not: viridis gets lighter.
    student = drawn["student"].astype(int).sum(axis=-1)
    assert student[0, relations.PIXELS] > student[0, -1]


def test_without_two_shapes_nothing_is_watched():
    split = held_out()
    split.image_features[:4] = 0
    assert not relations.TrackedShapes(split, **TEMPERATURES)


def test_the_map_holds_the_two_directions_of_most_variance():
    rows = np.random.default_rng(1).normal(size=(20, 4)) * [5.0, 0.1, 3.0, 0.2]
    places, share = embedding_map.project(rows)
    centred = rows - rows.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(places), np.abs(left[:, :2] * sizes[:2]), atol=1e-9)
    assert share == pytest.approx((sizes[:2] ** 2).sum() / (sizes**2).sum())


def test_dots_of_a_class_share_its_colour_and_lie_where_they_belong(tmp_path):
    made = embedding_map.make_map(EMBEDDINGS, held_out=held_out(pictures=tmp_path), limit=5)
    chair, chair_too, table, lamp, unknown = made.dots
    assert chair.colour == chair_too.colour != table.colour != lamp.colour
    assert (chair.left, chair.top) == (chair_too.left, chair_too.top)
    assert unknown.colour == made.others and unknown.words == "Thing, class unknown"
    assert made.colours[0] == (chair.colour, "chair")  # the most frequent
    assert chair.words == "Stool, chair" and chair.picture == ""
    assert all(0 <= place <= 100 for dot in made.dots for place in (dot.left, dot.top))


def test_a_large_split_is_thinned_out():
    made = embedding_map.make_map(EMBEDDINGS, held_out=held_out(), limit=2)
    assert [dot.words for dot in made.dots] == ["Stool, chair", "Thing, class unknown"]
