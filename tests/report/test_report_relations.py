# SPDX-License-Identifier: Apache-2.0
"""Relations over time and the embedding map of the report."""

import dataclasses

import numpy as np
import pytest
from held_out_example import CHAIR, LAMP, TABLE, held_out

from mrd_jax.report import embedding_map, relations

TEMPERATURES = {"teacher_temperature": 0.1, "student_temperature": 0.2}
# The split has two chairs, a table, a lamp and a shape of unknown class.
EMBEDDINGS = np.stack([CHAIR, CHAIR, TABLE, LAMP, LAMP])


def slow_relation(rows, temperature):
    """Computes the definition entry by entry."""
    count = len(rows)
    result = np.zeros((count, count))
    for i in range(count):
        exps = {j: np.exp(rows[i] @ rows[j] / temperature) for j in range(count) if j != i}
        for j, value in exps.items():
            result[i, j] = value / sum(exps.values())
    return result


def test_relation_is_the_softmax_over_the_other_shapes():
    rows = np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32)
    computed = relations.relation(rows, temperature=0.7)
    np.testing.assert_allclose(computed, slow_relation(rows.astype(float), 0.7), rtol=1e-6)


def test_tracked_shapes_have_an_image_feature_and_are_sorted_by_class():
    split = held_out()
    split.image_features[0] = 0  # as of a shape without a picture
    assert relations.TrackedShapes(split, **TEMPERATURES).positions.tolist() == [1, 2, 3]


def test_tracked_shapes_are_limited_per_class_and_in_total(monkeypatch):
    monkeypatch.setattr(relations, "MAX_SHAPES_PER_CLASS", 1)
    assert relations.TrackedShapes(held_out(), **TEMPERATURES).positions.tolist() == [0, 2, 3]
    monkeypatch.setattr(relations, "MAX_SHAPES", 2)
    assert relations.TrackedShapes(held_out(), **TEMPERATURES).positions.tolist() == [0, 2]


def test_teacher_and_student_have_their_own_temperatures():
    tracked = relations.TrackedShapes(held_out(), **TEMPERATURES)
    features = held_out().image_features[tracked.positions]
    features = features / np.linalg.norm(features, axis=1, keepdims=True)
    np.testing.assert_allclose(tracked.teacher, slow_relation(features, 0.1), rtol=1e-5)
    rows = EMBEDDINGS[tracked.positions]
    np.testing.assert_allclose(tracked.student(rows), slow_relation(rows, 0.2), rtol=1e-6)


def test_snapshots_of_the_same_shapes_are_read_in_the_order_of_steps(tmp_path):
    tracked = relations.TrackedShapes(held_out(), **TEMPERATURES)
    for step in (20, 3):
        tracked.save(str(tmp_path), step=step, embeddings=EMBEDDINGS * step)
    steps, rows = zip(*tracked.read(str(tmp_path)), strict=True)
    assert steps == (3, 20)
    np.testing.assert_array_equal(rows[0], 3 * EMBEDDINGS[tracked.positions])
    others = dataclasses.replace(held_out(), ids=("a", "b", "c", "d", "e"))
    assert relations.TrackedShapes(others, **TEMPERATURES).read(str(tmp_path)) == []


def test_figure_gives_the_distance_of_student_and_teacher():
    tracked = relations.TrackedShapes(held_out(), **TEMPERATURES)
    rows = EMBEDDINGS[tracked.positions]
    figure = tracked.draw([relations.Snapshot(0, np.ones_like(rows)), relations.Snapshot(9, rows)])
    distance = np.abs(tracked.teacher - tracked.student(rows)).sum(axis=1).mean() / 2
    uniform = np.abs(tracked.teacher - (1 - np.eye(4)) / 3).sum(axis=1).mean() / 2
    assert f"{uniform:.2f} at step 0, {distance:.2f} at step 9" in figure.alt
    assert figure.source.startswith("data:image/svg+xml")


def test_tensorboard_images_are_lighter_for_more_similar_shapes():
    tracked = relations.TrackedShapes(held_out(), **TEMPERATURES)
    images = tracked.pictures(EMBEDDINGS)
    side = relations.PIXELS * len(tracked.positions)
    assert {image.shape for image in images.values()} == {(side, side, 3)}
    assert {image.dtype for image in images.values()} == {np.dtype(np.uint8)}
    # The student embeds the two chairs alike, a chair and the lamp apart; viridis is lighter for
    # larger values.
    student = images["student"].astype(int).sum(axis=-1)
    assert student[0, relations.PIXELS] > student[0, -1]


def test_fewer_than_two_usable_shapes_are_not_tracked():
    split = held_out()
    split.image_features[:4] = 0
    assert not relations.TrackedShapes(split, **TEMPERATURES)


def test_projection_matches_the_first_two_components_of_the_svd():
    rows = np.random.default_rng(1).normal(size=(20, 4)) * [5.0, 0.1, 3.0, 0.2]
    positions, explained_variance = embedding_map.project(rows)
    centred = rows - rows.mean(axis=0)
    left, sizes, _ = np.linalg.svd(centred, full_matrices=False)
    np.testing.assert_allclose(np.abs(positions), np.abs(left[:, :2] * sizes[:2]), atol=1e-9)
    assert explained_variance == pytest.approx((sizes[:2] ** 2).sum() / (sizes**2).sum())


def test_dots_have_the_colour_of_their_class_and_the_position_of_their_embedding(tmp_path):
    drawn = embedding_map.make_map(EMBEDDINGS, held_out=held_out(pictures=tmp_path), limit=5)
    chair, chair_too, table, lamp, unknown = drawn.dots
    assert chair.colour == chair_too.colour != table.colour != lamp.colour
    assert (chair.left, chair.top) == (chair_too.left, chair_too.top)
    assert unknown.colour == drawn.others and unknown.label == "Thing, class unknown"
    assert drawn.colours[0] == (chair.colour, "chair")  # the most frequent
    assert chair.label == "Stool, chair" and chair.picture == ""
    assert all(0 <= percent <= 100 for dot in drawn.dots for percent in (dot.left, dot.top))


def test_limit_selects_evenly_spaced_dots():
    drawn = embedding_map.make_map(EMBEDDINGS, held_out=held_out(), limit=2)
    assert [dot.label for dot in drawn.dots] == ["Stool, chair", "Thing, class unknown"]
