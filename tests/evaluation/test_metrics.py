# SPDX-License-Identifier: Apache-2.0
"""Classification metrics, McNemar test and Wilson interval: small matrices and scikit-learn."""

import numpy as np
import pytest
import sklearn.metrics
from scipy import stats

from mrd_jax.evaluation.metrics import classification, statistics

# Rows are shapes; the true classes are 0, 1, 2, 1.
SCORES = np.array(
    [
        [0.9, 0.1, 0.5, 0.2],  # true class first
        [0.9, 0.1, 0.5, 0.2],  # true class last
        [0.9, 0.1, 0.5, 0.2],  # true class second
        [0.3, 0.7, 0.1, 0.7],  # true class shares the first place
    ]
)
LABELS = np.array([0, 1, 2, 1])


def test_tied_classes_rank_before_the_true_class():
    np.testing.assert_array_equal(classification.label_ranks(SCORES, labels=LABELS), [1, 4, 2, 2])


@pytest.mark.parametrize(("k", "fraction"), [(1, 0.25), (2, 0.75), (3, 0.75), (4, 1.0)])
def test_topk_accuracy_is_the_fraction_of_ranks_up_to_k(k, fraction):
    assert classification.topk_accuracy(SCORES, labels=LABELS, k=k) == fraction


def test_model_with_equal_scores_has_an_accuracy_of_zero():
    assert classification.topk_accuracy(np.ones((5, 6)), labels=np.arange(5), k=5) == 0.0


def test_label_ranks_match_the_coverage_error_of_scikit_learn_with_ties():
    rng = np.random.default_rng(2)
    # Few distinct scores give many ties.
    scores, labels = rng.integers(4, size=(60, 7)), rng.integers(7, size=60)
    ranks = classification.label_ranks(scores, labels=labels)
    want = [
        sklearn.metrics.coverage_error(np.eye(7)[[label]], row[None])
        for row, label in zip(scores, labels, strict=True)
    ]
    np.testing.assert_array_equal(ranks, want)
    assert np.any(ranks != np.sum(scores > scores[np.arange(60), labels][:, None], axis=1) + 1)


def test_topk_accuracy_matches_scikit_learn_without_ties():
    rng = np.random.default_rng(3)
    scores, labels = rng.normal(size=(60, 7)), rng.integers(7, size=60)
    for k in (1, 3, 5):
        want = sklearn.metrics.top_k_accuracy_score(labels, scores, k=k, labels=np.arange(7))
        assert classification.topk_accuracy(scores, labels=labels, k=k) == pytest.approx(want)


def test_mean_per_class_matches_the_balanced_accuracy_of_scikit_learn():
    rng = np.random.default_rng(4)
    labels, predicted = rng.integers(5, size=(2, 80))
    want = sklearn.metrics.balanced_accuracy_score(labels, predicted)
    assert classification.mean_per_class(predicted == labels, labels=labels) == pytest.approx(want)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_non_finite_score_raises_and_names_the_row(value):
    scores = SCORES.copy()
    scores[2, 1] = value
    with pytest.raises(ValueError, match="first is row 2"):
        classification.label_ranks(scores, labels=LABELS)


def test_label_of_an_unknown_class_raises():
    with pytest.raises(ValueError, match="labels run from -1 to 2"):
        classification.label_ranks(SCORES, labels=np.array([0, -1, 2, 1]))


def test_mean_per_class_gives_rare_and_frequent_classes_the_same_weight():
    correct = np.array([True, True, True, False, True])
    labels = np.array([0, 0, 0, 0, 7])
    # Class 0: 3 of 4; class 7: 1 of 1.
    assert classification.mean_per_class(correct, labels=labels) == (0.75 + 1.0) / 2


def test_confusion_matrix_has_true_classes_in_rows():
    table = classification.confusion(
        np.array([1, 1, 0, 2]), labels=np.array([0, 0, 0, 2]), classes=3
    )
    np.testing.assert_array_equal(table, [[1, 2, 0], [0, 0, 0], [0, 0, 1]])


def test_confusion_of_a_class_out_of_range_raises():
    with pytest.raises(ValueError, match="predicted has values from 0 to 3"):
        classification.confusion(np.array([0, 3]), labels=np.array([0, 1]), classes=3)


def test_normalise_keeps_a_row_of_zeros():
    got = classification.normalise(np.array([[3, 4], [0, 0]], dtype=np.float16))
    np.testing.assert_allclose(got, [[0.6, 0.8], [0, 0]], rtol=1e-6)
    assert got.dtype == np.float32


@pytest.mark.parametrize(
    ("count", "size", "want"),
    [(5, 2, [(0, 2), (2, 4), (4, 5)]), (4, 2, [(0, 2), (2, 4)]), (3, 9, [(0, 3)]), (0, 9, [])],
)
def test_chunks_cover_every_row_once(count, size, want):
    assert [(rows.start, rows.stop) for rows in classification.chunks(count, size=size)] == want


def test_recall_without_queries_raises():
    with pytest.raises(ValueError, match="at least one query"):
        classification.recall_at(np.array([]), k=1)


def test_mcnemar_is_the_sign_test_of_the_disagreements():
    # Only the first is correct on 5 shapes, only the second on 1, both or neither on 4.
    first = np.array([1, 1, 1, 1, 1, 0, 1, 1, 0, 0], dtype=bool)
    second = np.array([0, 0, 0, 0, 0, 1, 1, 1, 0, 0], dtype=bool)
    got = statistics.mcnemar([first], [second])
    # Two-sided: twice the probability of at most one head in six throws, (1 + 6) / 64.
    assert got == statistics.Comparison(10, 5, 1, pytest.approx(2 * 7 / 64))


def test_mcnemar_pools_folds_by_adding_disagreements():
    whole = statistics.mcnemar([np.array([1, 1, 1, 0])], [np.array([0, 0, 0, 1])])
    folds = statistics.mcnemar(
        [np.array([1, 1]), np.array([1, 0])], [np.array([0, 0]), np.array([0, 1])]
    )
    assert folds == whole


def test_mcnemar_p_value_is_one_without_disagreements():
    same = np.array([True, False])
    assert statistics.mcnemar([same], [same]).p_value == 1.0


def test_mcnemar_of_folds_of_different_lengths_raises():
    with pytest.raises(ValueError, match="the same shapes"):
        statistics.mcnemar([np.ones(3)], [np.ones(4)])


@pytest.mark.parametrize(("successes", "count"), [(0, 10), (36, 134), (10, 10)])
def test_wilson_interval_solves_its_equation(successes, count):
    # Both ends p satisfy (fraction - p)^2 = z^2 p (1 - p) / count, with the normal quantile z.
    z = 1.959963984540054
    fraction = successes / count
    low, high = statistics.wilson_interval(successes, count=count)
    for p in (low, high):
        assert (fraction - p) ** 2 == pytest.approx(z**2 * p * (1 - p) / count, abs=1e-12)
    assert 0 <= low <= fraction <= high <= 1
    assert high - low > 0.05


def test_the_interval_of_an_accuracy_is_over_groups_if_there_are_enough():
    groups = np.repeat(np.arange(40), 5)
    correct = groups < 20  # each group is all right or all wrong: 40 trials, not 200
    found = statistics.accuracy_interval(correct, groups=groups)
    want = stats.binom.ppf([0.025, 0.975], 40, 0.5) / 40
    np.testing.assert_allclose([found.low, found.high], want, atol=1e-12)
    assert found.groups == 40
    few = statistics.accuracy_interval(correct, groups=groups // 5)
    assert (few.low, few.high) == statistics.wilson_interval(100, count=200) and few.groups == 0


@pytest.mark.parametrize("right", [0, 40])
def test_the_interval_of_an_accuracy_without_variation_counts_groups_as_trials(right):
    groups = np.repeat(np.arange(40), 5)
    found = statistics.accuracy_interval(groups < right, groups=groups)
    assert (found.low, found.high) == statistics.wilson_interval(right, count=40)


def test_wilson_interval_of_more_successes_than_trials_raises():
    with pytest.raises(ValueError, match="5 successes of 4"):
        statistics.wilson_interval(5, count=4)
