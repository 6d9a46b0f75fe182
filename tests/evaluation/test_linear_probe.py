# SPDX-License-Identifier: Apache-2.0
"""Linear probe: comparison with scikit-learn, finite differences and hand-computed cases."""

import numpy as np
import pytest
from scipy import stats
from sklearn import linear_model

from mrd_jax.evaluation import linear_probe
from mrd_jax.evaluation.metrics import classification, logistic

rng = np.random.default_rng(0)
# Shapes around 6 overlapping class centres in 8 dimensions; classes 3 and 6 have no shapes.
CLASSES = np.array([0, 1, 2, 4, 5, 7])
CENTRES = rng.normal(size=(6, 8))


def shapes(count, *, seed, noise=0.8):
    """Returns features and labels."""
    draw = np.random.default_rng(seed)
    members = draw.integers(6, size=count)
    return CENTRES[members] + noise * draw.normal(size=(count, 8)), CLASSES[members]


FEATURES, LABELS = shapes(150, seed=1)
TEST_FEATURES, TEST_LABELS = shapes(400, seed=2)


@pytest.mark.parametrize("strength", [1e-1, 1e-3])
def test_fit_matches_scikit_learn(strength):
    got = logistic.fit(FEATURES, labels=LABELS, strength=strength, tolerance=1e-9)
    unit = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)
    # C is the factor on the summed cross entropy, to which half the squared weights are added.
    want = linear_model.LogisticRegression(
        C=1 / (strength * len(LABELS)), tol=1e-10, max_iter=10_000
    ).fit(unit, LABELS)
    np.testing.assert_array_equal(got.classes, want.classes_)
    np.testing.assert_allclose(got.weights.T, want.coef_, rtol=0, atol=1e-4)
    # Biases are determined up to a common shift, which changes no class probability.
    centred = got.biases - got.biases.mean()
    np.testing.assert_allclose(centred, want.intercept_ - want.intercept_.mean(), atol=1e-4)
    unit = TEST_FEATURES / np.linalg.norm(TEST_FEATURES, axis=1, keepdims=True)
    np.testing.assert_array_equal(
        got.correct(TEST_FEATURES, labels=TEST_LABELS), want.predict(unit) == TEST_LABELS
    )


def test_gradient_matches_finite_differences():
    draw = np.random.default_rng(3)
    features, targets = draw.normal(size=(7, 4)), draw.integers(3, size=7)
    parameters = draw.normal(size=15)
    _, gradient = logistic.objective(parameters, features, targets, 0.3)
    step = 1e-6
    for i, direction in enumerate(np.eye(15)):
        above, below = (
            logistic.objective(parameters + sign * step * direction, features, targets, 0.3)[0]
            for sign in (1, -1)
        )
        assert gradient[i] == pytest.approx((above - below) / (2 * step), abs=1e-8)


def test_objective_at_zero_is_the_log_of_the_class_count_and_biases_have_no_penalty():
    features, targets = np.eye(3), np.array([0, 1, 2])
    assert logistic.objective(np.zeros(12), features, targets, 5.0)[0] == pytest.approx(np.log(3))
    biases = np.r_[np.zeros(9), np.full(3, 7.0)]
    assert logistic.objective(biases, features, targets, 5.0)[0] == pytest.approx(np.log(3))


def test_objective_and_predictions_do_not_depend_on_the_chunk_size():
    parameters = np.random.default_rng(4).normal(size=54)
    _, targets = np.unique(LABELS, return_inverse=True)
    whole = logistic.objective(parameters, FEATURES, targets, 0.1)
    for chunk in (1, 64, 149):
        parts = logistic.objective(parameters, FEATURES, targets, 0.1, chunk)
        assert parts[0] == pytest.approx(whole[0], rel=1e-12)
        np.testing.assert_allclose(parts[1], whole[1], rtol=0, atol=1e-14)
    fitted = logistic.fit(FEATURES, labels=LABELS, strength=0.01)
    np.testing.assert_array_equal(
        fitted.correct(TEST_FEATURES, labels=TEST_LABELS, chunk=7),
        fitted.correct(TEST_FEATURES, labels=TEST_LABELS),
    )


def test_start_does_not_change_the_solution():
    far = logistic.fit(FEATURES, labels=LABELS, strength=1e-1)
    got = logistic.fit(FEATURES, labels=LABELS, strength=1e-3, start=far, tolerance=1e-9)
    want = logistic.fit(FEATURES, labels=LABELS, strength=1e-3, tolerance=1e-9)
    np.testing.assert_allclose(got.weights, want.weights, rtol=0, atol=1e-5)


def test_fit_that_has_not_converged_is_logged(monkeypatch, caplog):
    monkeypatch.setattr(logistic, "MAX_ITERATIONS", 2)
    logistic.fit(FEATURES, labels=LABELS, strength=1e-3)
    assert "probe of 150 shapes, strength 0.001" in caplog.text


def test_strength_is_the_best_on_the_held_out_part_and_the_final_fit_uses_all_shapes():
    got = linear_probe.linear_probe(
        FEATURES, labels=LABELS, test_features=TEST_FEATURES, test_labels=TEST_LABELS, seed=5
    )
    held_out = linear_probe.hold_out(LABELS, seed=5)
    unit = FEATURES / np.linalg.norm(FEATURES, axis=1, keepdims=True)

    def sklearn_fit(rows, strength):
        model = linear_model.LogisticRegression(
            C=1 / (strength * rows.sum()), tol=1e-8, max_iter=10_000
        )
        return model.fit(unit[rows], LABELS[rows])

    scores = [
        sklearn_fit(~held_out, strength).score(unit[held_out], LABELS[held_out])
        for strength in linear_probe.STRENGTHS
    ]
    assert len(set(scores)) > 2
    strength = linear_probe.STRENGTHS[int(np.argmax(scores))]
    unit_test = TEST_FEATURES / np.linalg.norm(TEST_FEATURES, axis=1, keepdims=True)
    correct = sklearn_fit(np.ones(150, dtype=bool), strength).predict(unit_test) == TEST_LABELS
    interval = stats.binomtest(int(correct.sum()), 400).proportion_ci(method="wilson")
    assert got == {
        "top1": correct.mean(),
        "top1_low": interval.low,
        "top1_high": interval.high,
        "mean_per_class": classification.mean_per_class(correct, labels=TEST_LABELS),
        "strength": strength,
        "train": 150,
        "held_out": held_out.sum(),
        "count": 400,
        "absent": 0,
        "classes": 6,
    }


def test_strongest_of_equally_accurate_strengths_is_chosen():
    features, labels = shapes(60, seed=6, noise=0.0)
    held_out = linear_probe.hold_out(labels, seed=0)
    options = {"labels": labels, "held_out": held_out}
    # Without noise, every penalty that separates the classes classifies all shapes correctly.
    assert linear_probe.choose_strength(features, **options, strengths=[1e-4, 1e-2, 1e-3]) == 1e-2


def test_strongest_penalty_is_chosen_without_held_out_shapes_and_classifies_by_class_means():
    rows = np.concatenate([np.flatnonzero(LABELS == c)[:2] for c in CLASSES])
    few, labels = FEATURES[rows], LABELS[rows]
    options = {"labels": labels, "held_out": np.zeros(12, dtype=bool)}
    assert linear_probe.choose_strength(few, **options, strengths=[1e-1, 1e2, 1.0]) == 1e2
    got = logistic.fit(few, labels=labels, strength=1e2, tolerance=1e-10)
    unit, unit_test = classification.normalise(few), classification.normalise(TEST_FEATURES)
    means = np.stack([unit[labels == c].mean(axis=0) for c in CLASSES]) - unit.mean(axis=0)
    nearest = CLASSES[np.argmax((unit_test - unit.mean(axis=0)) @ means.T, axis=1)]
    np.testing.assert_array_equal(
        got.correct(TEST_FEATURES, labels=TEST_LABELS), nearest == TEST_LABELS
    )


def test_a_fifth_of_each_class_is_held_out_but_never_its_only_shape():
    labels = np.repeat([3, 5, 6, 8, 9], [1, 2, 3, 20, 9])
    held_out = linear_probe.hold_out(labels, seed=0)
    assert [int(held_out[labels == c].sum()) for c in (3, 5, 6, 8, 9)] == [0, 1, 1, 4, 2]
    np.testing.assert_array_equal(held_out, linear_probe.hold_out(labels, seed=0))
    assert np.any(held_out != linear_probe.hold_out(labels, seed=1))


def test_positions_in_class_are_a_random_permutation_of_each_class():
    labels = np.array([4, 1, 4, 4, 1, 0])
    positions = linear_probe.positions_in_class(labels, seed=0)
    assert sorted(positions[labels == 4]) == [0, 1, 2]
    assert sorted(positions[labels == 1]) == [0, 1]
    assert positions[5] == 0
    orders = {tuple(linear_probe.positions_in_class(labels, seed=seed)) for seed in range(200)}
    # Each of the 3! * 2! permutations occurs.
    assert len(orders) == 12


def test_test_shapes_of_a_class_without_training_shapes_count_as_wrong():
    kept = LABELS != 7
    whole = {"test_features": TEST_FEATURES, "test_labels": TEST_LABELS}
    got = linear_probe.linear_probe(FEATURES[kept], labels=LABELS[kept], **whole)
    others = {name: rows[TEST_LABELS != 7] for name, rows in whole.items()}
    without = linear_probe.linear_probe(FEATURES[kept], labels=LABELS[kept], **others)
    assert got["absent"] == np.sum(TEST_LABELS == 7) > 0
    assert (got["classes"], got["count"], without["absent"]) == (5, 400, 0)
    assert got["top1"] * 400 == pytest.approx(without["top1"] * without["count"])
    assert got["mean_per_class"] == pytest.approx(without["mean_per_class"] * 5 / 6)


def test_shapes_of_unknown_class_are_excluded():
    unknown = np.full(30, -1)
    noise = np.random.default_rng(7).normal(size=(30, 8))
    known = {"labels": LABELS, "test_features": TEST_FEATURES, "test_labels": TEST_LABELS}
    mixed = {
        "labels": np.r_[unknown, LABELS],
        "test_features": np.vstack([noise, TEST_FEATURES]),
        "test_labels": np.r_[unknown, TEST_LABELS],
    }
    got = linear_probe.linear_probe(np.vstack([noise, FEATURES]), **mixed)
    assert got == linear_probe.linear_probe(FEATURES, **known)


def test_model_with_equal_embeddings_has_an_accuracy_of_zero():
    same, labels = np.ones((8, 3)), np.repeat([0, 1, 2, 3], 2)
    got = linear_probe.linear_probe(same, labels=labels, test_features=same, test_labels=labels)
    assert got["top1"] == 0.0


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"labels": LABELS[:9]}, r"training features \(150, 8\) and labels \(9,\)"),
        ({"labels": np.zeros(150, dtype=int)}, r"have the classes \[0\]: expected two or more"),
        ({"labels": np.full(150, -1)}, "no training shape has a known class"),
        ({"test_labels": np.full(400, -1)}, "no test shape has a known class"),
        ({"test_features": TEST_FEATURES[:, :3]}, "dim 8 and test features 3"),
        ({"test_features": np.full((400, 8), np.nan)}, "first is row 0"),
        ({"strengths": [0.0]}, "strength is 0.0: expected a positive penalty"),
        ({"strengths": []}, "no strengths to choose from"),
    ],
)
def test_invalid_arguments_raise(fields, message):
    valid = {"labels": LABELS, "test_features": TEST_FEATURES, "test_labels": TEST_LABELS}
    with pytest.raises(ValueError, match=message):
        linear_probe.linear_probe(FEATURES, **(valid | fields))
