# SPDX-License-Identifier: Apache-2.0
"""Baselines: chance, majority, histogram regression and the teacher."""

import dataclasses
import json

import numpy as np
import pytest
from held_out_example import CHAIR, LAMP, TABLE, Split, held_out, record, records

from mrd_jax import evaluation
from mrd_jax.data import source
from mrd_jax.evaluation import baselines, held_out_split
from mrd_jax.evaluation.baselines import __main__, histogram, nearest

GREY = (102, 102, 102)


def test_chance_is_k_over_the_number_of_classes():
    got = baselines.measure_chance(held_out())
    assert got.metrics["top1"] == got.metrics["mean_per_class"] == 1 / 3
    assert got.metrics["top3"] == got.metrics["top5"] == 1.0
    assert (got.metrics["count"], got.metrics["classes"]) == (4, 3)
    assert got.correct is None


@pytest.mark.parametrize(
    ("train_labels", "top1"),
    [
        # Chairs are 2 of the 4 labelled test shapes, tables and lamps 1 each.
        ([0, 0, 1, 2, -1, -1, -1], 2 / 4),
        ([2, 2, 0], 1 / 4),
        # Of equally frequent classes the first is preferred: a tie of scores would count as wrong.
        ([1, 2], 1 / 4),
    ],
)
def test_majority_predicts_the_most_frequent_training_class(train_labels, top1):
    got = baselines.measure_majority(held_out(), train_labels=np.array(train_labels))
    assert got.metrics["top1"] == top1


def test_majority_ranks_classes_by_frequency():
    split = dataclasses.replace(held_out(), labels=np.array([2, 2, 2, 2, 2]))
    got = baselines.measure_majority(split, train_labels=np.array([0, 0, 0, 2, 2, 1]))
    np.testing.assert_array_equal(got.correct, np.zeros(5))
    assert got.metrics["top3"] == 1.0


def test_teacher_classifies_the_pictures_and_has_no_image_retrieval():
    got = baselines.measure_teacher(held_out())
    # The desk's views are half chair, half table: a tie is wrong. The others are right.
    np.testing.assert_array_equal(got.correct, [True, True, False, True])
    assert "points_to_text/recall@1" in got.retrieval
    assert not [key for key in got.retrieval if "image" in key]


def test_histograms_match_values_computed_by_hand():
    # Points alternate between two opposite corners of the box.
    xyz = np.array([[-0.5, -0.5, -0.5], [0.5, 0.5, 0.5]] * 10)
    shape, colour = histogram.describe(xyz, np.tile(GREY, (20, 1)))
    half = np.sqrt(0.5)
    occupancy, stretched = shape[:512].reshape(8, 8, 8), shape[512:637].reshape(5, 5, 5)
    for grid in (occupancy, stretched):
        want = np.zeros(grid.shape)
        want[0, 0, 0] = want[-1, -1, -1] = half
        np.testing.assert_allclose(grid, want, rtol=1e-6)
    profile = shape[637:653]
    np.testing.assert_allclose(profile[[0, -1]], np.sqrt(0.5 / 3), rtol=1e-6)
    rings = shape[685:973].reshape(12, 24)
    # Both at radius 0.707, heights -0.5 and 0.5 of -1..1.
    np.testing.assert_allclose(rings[8, [6, 18]], half, rtol=1e-6)
    assert np.count_nonzero(rings) == 2
    # Point i is paired with point i + 10, which is at the same corner: distance 0.
    np.testing.assert_array_equal(shape[973:1005], np.eye(32)[0])
    np.testing.assert_allclose(shape[1005:], np.full(3, 1 / np.sqrt(3)), rtol=1e-6)
    # Grey 0.4 lies in the second of four bins and the second of three.
    assert colour[:64].reshape(4, 4, 4)[1, 1, 1] == 1.0
    by_height = colour[64:].reshape(4, 3, 3, 3)
    np.testing.assert_allclose(by_height[[0, 3], 1, 1, 1], half, rtol=1e-6)


def test_cube_histogram_depends_on_proportions_and_stretched_histogram_does_not():
    rng = np.random.default_rng(0)
    rgb = np.tile(GREY, (4_000, 1))
    cube = rng.uniform(-0.5, 0.5, size=(4_000, 3))
    plate = cube * [1, 1, 0.1]
    first, second = histogram.describe(cube, rgb)[0], histogram.describe(plate, rgb)[0]
    assert np.sum((first[:512] - second[:512]) ** 2) > 0.5
    np.testing.assert_allclose(first[512:637], second[512:637], atol=1e-6)


def test_histograms_of_a_flat_cloud_are_finite():
    flat = np.zeros((16, 3))
    flat[:, 0] = np.linspace(-1, 1, 16)
    shape, colour = histogram.describe(flat, np.zeros((16, 3), np.uint8))
    assert np.all(np.isfinite(shape)) and np.all(np.isfinite(colour))


def test_kernel_ridge_regression_solves_the_regularised_equations():
    rng = np.random.default_rng(1)
    kernel, queries = np.cov(rng.normal(size=(6, 20))), rng.normal(size=(2, 6))
    targets = rng.normal(size=(6, 3))
    got = histogram._ridge(kernel, targets, queries, ridge=0.3)
    weights = np.linalg.inv(kernel + 0.3 * np.eye(6)) @ (targets - targets.mean(axis=0))
    np.testing.assert_allclose(got, queries @ weights + targets.mean(axis=0), rtol=1e-9)


def cloud(kind, rng):
    """Returns a plate, a pole or a ball of 256 points, which stand for tables, lamps and chairs."""
    points = rng.normal(size=(256, 3)) * {"plate": (1, 1, 0.1), "pole": (0.1, 0.1, 1)}.get(kind, 1)
    return points / np.linalg.norm(points, axis=1).max(), np.tile(GREY, (256, 1))


def histograms(kinds, *, seed):
    rng = np.random.default_rng(seed)
    shape, colour = zip(*(histogram.describe(*cloud(kind, rng)) for kind in kinds), strict=True)
    return histogram.Histograms(np.stack(shape), np.stack(colour))


KINDS = ("ball", "plate", "pole")


def test_regression_predicts_names_from_shape_histograms():
    labels = np.tile(np.arange(3), 8)
    fit = histogram.fit(
        histograms([KINDS[label] for label in labels], seed=2),
        targets=np.eye(3)[labels],
        labels=labels,
        class_features=np.eye(3),
        queries=histograms(KINDS, seed=3),
    )
    np.testing.assert_array_equal(np.argmax(fit.embeddings, axis=1), [0, 1, 2])
    assert fit.reciprocal_rank == 1.0


def test_cross_validation_chooses_the_settings_that_predict_other_folds(monkeypatch):
    # Only the colour depends on the class, so a colour weight of 0 cannot be the best.
    monkeypatch.setattr(histogram, "WIDTHS", (1.0,))
    monkeypatch.setattr(histogram, "RIDGES", (0.1,))
    labels = np.tile([0, 1], 10)
    balls = histograms(["ball"] * 20, seed=4)
    red_or_blue = np.eye(2, dtype=np.float32)[labels]
    train = histogram.Histograms(balls.shape, red_or_blue)
    fit = histogram.fit(
        train, targets=np.eye(2)[labels], labels=labels, class_features=np.eye(2), queries=train
    )
    assert fit.settings.colour_weight > 0


def test_queries_do_not_influence_the_settings():
    labels = np.tile(np.arange(3), 4)
    arguments = {
        "targets": np.eye(3)[labels],
        "labels": labels,
        "class_features": np.eye(3),
    }
    train = histograms([KINDS[label] for label in labels], seed=5)
    first = histogram.fit(train, queries=histograms(KINDS, seed=6), **arguments)
    second = histogram.fit(train, queries=histograms(["ball"], seed=7), **arguments)
    assert first.settings == second.settings
    assert first.reciprocal_rank == second.reciprocal_rank


def test_regression_requires_a_labelled_training_shape():
    train = histograms(["ball"] * 5, seed=8)
    with pytest.raises(ValueError, match="5 training shapes, 0 with a class"):
        histogram.fit(
            train,
            targets=np.ones((5, 3)),
            labels=np.full(5, -1),
            class_features=np.eye(3),
            queries=train,
        )


@pytest.fixture
def dataset(tmp_path, monkeypatch):
    """Returns a data set in which chairs are balls, tables are plates and lamps are poles."""
    folder = tmp_path / "evaluation"
    folder.mkdir()
    (folder / "classes.json").write_text(json.dumps(["chair", "table", "lamp"]))
    np.save(folder / "class_features.npy", np.eye(3, dtype=np.float32))
    (folder / "unseen_names.json").write_text("[]")
    rng = np.random.default_rng(9)

    def with_points(row):
        xyz, rgb = cloud(KINDS[row["label"]], rng)
        return row | {"xyz": xyz, "rgb": rgb}

    train = [
        record(name, label=label, feature=feature)
        for name, label, feature in (("Stool", 0, CHAIR), ("Desk", 1, TABLE), ("Torch", 2, LAMP))
        for _ in range(6)
    ]
    splits = {
        "train": [with_points(row) for row in train],
        "test": [with_points(row) for row in records()],
    }
    monkeypatch.setattr(source, "open_split", lambda directory, split: Split(splits[split]))
    return tmp_path


def test_all_baselines_are_measured_on_a_data_set(dataset):
    lines = baselines.measure(dataset, held_out=evaluation.load_held_out(dataset))
    assert [line.name for line in lines] == [
        "chance",
        "majority",
        "nearest neighbour",
        "hand-crafted",
        "teacher",
    ]
    _, majority, nearest, fitted, _ = lines
    assert majority.metrics["top1"] == 2 / 4
    assert fitted.metrics["top1"] == nearest.metrics["top1"] == 1.0
    assert set(nearest.retrieval) == {
        f"points_to_points/map{key}"
        for key in ("", "_per_class", "_queries", "_gallery", "_lonely")
    }
    assert "5-fold cross-validation on the training split: width" in fitted.summary


def test_training_split_without_names_has_no_hand_crafted_baseline(dataset):
    for row in source.open_split(dataset, "train"):
        row["name"] = ""
    lines = baselines.measure(dataset, held_out=evaluation.load_held_out(dataset))
    assert [line.name for line in lines] == ["chance", "majority", "nearest neighbour", "teacher"]


def test_data_set_without_a_training_split_has_chance_and_teacher_only(dataset):
    lines = baselines.measure(
        dataset, held_out=evaluation.load_held_out(dataset), train_split=None, by_class=False
    )
    assert [line.name for line in lines] == ["chance", "teacher"]
    assert "points_to_text/recall@1" in lines[1].retrieval
    assert "points_to_text/map" not in lines[1].retrieval


def test_the_nearest_shape_is_that_of_brute_force():
    rng = np.random.default_rng(0)
    clouds = [
        {"xyz": rng.uniform(-0.5, 0.5, (40, 3)) * scale, "rgb": rng.integers(0, 256, (40, 3))}
        for scale in rng.uniform(0.3, 1.1, (12, 3))
    ]
    described = nearest.describe(clouds)

    def cosine(a, b, weight):
        cells = [{tuple(np.floor((p + 1) * 8).astype(int)) for p in c["xyz"]} for c in (a, b)]
        shared = len(cells[0] & cells[1]) / np.sqrt(len(cells[0]) * len(cells[1]))
        bins = [
            np.histogramdd(c["rgb"], bins=4, range=[(0, 256)] * 3)[0].ravel() / 40 for c in (a, b)
        ]
        return (1 - weight) * shared + weight * np.sum(np.sqrt(bins[0] * bins[1]))

    labels = np.array([3, 1, 1, 3, 0, 0])
    vectors = described.vectors(colour_weight=0.25)
    got = nearest.class_scores(vectors[6:], vectors[:6], labels=labels, classes=4, chunk=4)
    cosines = np.array([[cosine(a, b, 0.25) for b in clouds[:6]] for a in clouds[6:]])
    want = np.stack([cosines[:, labels == k].max(1, initial=-2) for k in range(4)], axis=1)
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert np.all(got[:, 2] == -2)


def test_the_colour_weight_is_chosen_by_shapes_of_other_groups():
    pairs = np.repeat(np.arange(4), 2)
    # All have one geometry, and the two of a class one colour, which no other shape has.
    train = nearest.Descriptors(np.ones((8, 8), bool), np.eye(4, dtype=np.float32)[pairs])
    assert nearest.choose_weight(train, labels=pairs, groups=None) > 0
    assert nearest.choose_weight(train, labels=pairs, groups=pairs) == 0


def test_training_split_above_the_limit_is_sampled(dataset, monkeypatch):
    monkeypatch.setattr(held_out_split, "MAX_TRAINING_SHAPES", 15)
    read = []
    monkeypatch.setattr(Split, "read", lambda self, index, fields: read.append((len(self), index))
                        or {name: self[index][name] for name in fields})  # fmt: skip
    baselines.measure(dataset, held_out=evaluation.load_held_out(dataset))
    trained = {index for size, index in read if size == 18}
    assert len(trained) == 15
    np.testing.assert_array_equal(held_out_split.training_subset(18), sorted(trained))


def test_histogram_baseline_uses_a_subset_of_a_large_training_split(dataset, monkeypatch):
    monkeypatch.setattr(baselines, "MAX_HISTOGRAM_SHAPES", 12)
    sizes = []
    fit = histogram.fit
    monkeypatch.setattr(
        histogram,
        "fit",
        lambda train, **rest: sizes.append(len(train.shape)) or fit(train, **rest),
    )
    baselines.measure(dataset, held_out=evaluation.load_held_out(dataset))
    assert sizes == [12]


def test_command_prints_a_table(dataset, capsys):
    assert __main__.main(["--data", str(dataset)]) == 0
    printed = capsys.readouterr().out
    assert "zero-shot, % of 4 shapes in 3 classes" in printed
    assert "majority            50.0" in printed


def test_command_prints_json(dataset, capsys):
    assert __main__.main(["--data", str(dataset), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["hand-crafted"]["top1"] == 1.0
    assert printed["teacher"]["retrieval"]["points_to_text/queries"] == 5


def test_command_names_a_missing_data_set(tmp_path, capsys):
    assert __main__.main(["--data", str(tmp_path)]) == 2
    assert "classes.json is missing" in capsys.readouterr().err
