# SPDX-License-Identifier: Apache-2.0
"""Bootstrap over groups and runs: scipy and closed forms as references."""

import numpy as np
import pytest
from scipy import stats

from mrd_jax.evaluation.metrics import bootstrap, classification


def half_width(interval) -> float:
    return (interval.high - interval.low) / 2


def test_without_groups_the_interval_is_that_of_scipy():
    values = np.random.default_rng(0).exponential(size=60)
    ours = bootstrap.mean_interval([values], groups=[np.arange(60)])
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=10_000, method="percentile", rng=np.random.default_rng(1)
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    # Two sets of 10,000 resamples differ by about 1% of the width.
    assert ours.low == pytest.approx(theirs.low, abs=0.03 * half_width(ours))
    assert ours.high == pytest.approx(theirs.high, abs=0.03 * half_width(ours))


def test_copies_within_a_group_carry_no_information():
    values = np.random.default_rng(0).normal(size=50)
    one_each = bootstrap.mean_interval([values], groups=[np.arange(50)])
    copied = bootstrap.mean_interval([np.repeat(values, 7)], groups=[np.repeat(np.arange(50), 7)])
    assert copied == pytest.approx(one_each)


def test_groups_of_equal_size_have_the_standard_error_of_their_means():
    rng = np.random.default_rng(0)
    values = (rng.normal(size=(80, 1)) + rng.normal(size=(80, 5))).ravel()
    groups = np.repeat([f"series {i}" for i in range(80)], 5)
    error = values.reshape(80, 5).mean(axis=1).std() / np.sqrt(80)
    interval = bootstrap.mean_interval([values], groups=[groups])
    assert half_width(interval) == pytest.approx(stats.norm.ppf(0.975) * error, rel=0.03)


def test_runs_that_differ_widen_the_interval_by_their_standard_error():
    effects = np.random.default_rng(0).normal(size=40)
    runs = [np.full(6, effect) for effect in effects]
    interval = bootstrap.mean_interval(runs, groups=[range(6)] * 40)
    error = effects.std() / np.sqrt(40)
    assert half_width(interval) == pytest.approx(stats.norm.ppf(0.975) * error, rel=0.03)


def test_a_group_is_resampled_alike_in_all_runs():
    """Averaging runs removes no variance that the groups have in common."""
    values = np.random.default_rng(0).normal(size=50)
    one = bootstrap.mean_interval([values], groups=[range(50)])
    same_groups = bootstrap.mean_interval([values] * 4, groups=[range(50)] * 4)
    other_groups = bootstrap.mean_interval(
        [values] * 4, groups=[[f"{run} {i}" for i in range(50)] for run in range(4)]
    )
    assert half_width(same_groups) == pytest.approx(half_width(one), rel=0.03)
    assert half_width(other_groups) < 0.7 * half_width(one)


def test_classes_have_equal_weight():
    values, classes = np.array([1.0, 1, 1, 1, 0, 1]), np.array([0, 0, 0, 0, 1, 1])
    groups = np.array(["a", "a", "b", "b", "c", "d"])
    interval = bootstrap.mean_interval([values], groups=[groups], classes=[classes])
    assert interval.mean == pytest.approx(classification.mean_per_class(values, labels=classes))
    assert interval.mean == pytest.approx(0.75)


def test_a_paired_difference_is_that_of_the_means_and_removes_common_variance():
    rng = np.random.default_rng(0)
    common = rng.normal(size=100)
    first, second = common + 0.3 + 0.1 * rng.normal(size=100), common
    groups = [np.arange(100) // 2]
    difference = bootstrap.paired_difference([first], [second], groups=groups)
    assert difference.mean == pytest.approx(first.mean() - second.mean())
    assert half_width(difference) < 0.2 * half_width(
        bootstrap.mean_interval([first], groups=groups)
    )
    assert difference.p_value == pytest.approx(2 / 10_001)
    swapped = bootstrap.paired_difference([second], [first], groups=groups)
    assert swapped[:3] == pytest.approx((-difference.mean, -difference.high, -difference.low))


def test_the_p_value_is_that_of_a_normal_test_on_group_means():
    rng = np.random.default_rng(3)
    differences = rng.normal(0.2, 1, size=120)
    z = differences.mean() / (differences.std() / np.sqrt(120))
    expected = 2 * stats.norm.sf(abs(z))
    result = bootstrap.paired_difference([differences], [np.zeros(120)], groups=[range(120)])
    assert 0.02 < expected < 0.3
    assert result.p_value == pytest.approx(expected, abs=0.015)


def test_methods_that_agree_everywhere_have_a_p_value_of_one():
    correct = np.array([True, False, True, True])
    result = bootstrap.paired_difference([correct], [correct], groups=[[0, 0, 1, 2]])
    assert result == (0, 0, 0, 1)


def test_holm_multiplies_by_the_number_of_hypotheses_left():
    # 0.005 x 4, 0.01 x 3, 0.03 x 2, and 0.04 x 1, which may not be below the one before it.
    assert bootstrap.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert bootstrap.holm([0.9, 0.8]) == pytest.approx([1, 1])
    assert bootstrap.holm([0.2]) == pytest.approx([0.2])


@pytest.mark.parametrize(
    ("values", "groups", "message"),
    [
        ([[1.0, 2.0]], [[0]], "expected one group each"),
        ([[1.0, np.nan]], [[0, 1]], "1 of 2 values are non-finite"),
        ([[]], [[]], "expected at least one shape"),
        ([], [], "expected at least one shape"),
    ],
    ids=["lengths", "non-finite", "empty run", "no runs"],
)
def test_values_that_cannot_be_averaged_are_refused(values, groups, message):
    with pytest.raises(ValueError, match=message):
        bootstrap.mean_interval(values, groups=groups)


def test_runs_of_other_shapes_cannot_be_paired():
    with pytest.raises(ValueError, match="expected the same shapes in the same runs"):
        bootstrap.paired_difference([[1.0, 0.0]], [[1.0]], groups=[[0, 1]])


def test_a_p_value_outside_of_its_range_is_refused():
    with pytest.raises(ValueError, match="expected numbers between 0 and 1"):
        bootstrap.holm([0.1, np.nan])
