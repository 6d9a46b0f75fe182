# SPDX-License-Identifier: Apache-2.0
"""Bootstrap intervals and tests for shapes that come in groups and models that come in seeds.

Shapes of one group, such as a series of parts or the works of one creator, are alike: an interval
that treats them as independent is too narrow. Groups are therefore resampled as a whole. If a
method was trained several times, its runs are resampled too, independently of the groups, so that
the interval covers other trainings as well as other shapes.

Resampling both factors is the pigeonhole bootstrap: A. B. Owen, "The pigeonhole bootstrap", Annals
of Applied Statistics 1, 2007. It is conservative: for runs on disjoint folds with equal variances,
the variance of the groups counts up to 1.8 times with five runs.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Resamples, and how many of them are in memory at a time.
DRAWS = 10_000
_CHUNK = 1_000


class Interval(NamedTuple):
    """Mean of a metric and its percentile interval.

    Attributes:
      mean: mean over shapes and runs.
      low: lower end.
      high: upper end.
    """

    mean: float
    low: float
    high: float


class Difference(NamedTuple):
    """Mean difference of two methods, first minus second, its interval and a test.

    Attributes:
      mean: mean over shapes and runs.
      low: lower end of the interval.
      high: upper end.
      p_value: two-sided, for the hypothesis that the mean difference is 0; at least
        2 / (draws + 1).
    """

    mean: float
    low: float
    high: float
    p_value: float


def mean_interval(
    values: Sequence[np.ndarray],
    *,
    groups: Sequence[Sequence | np.ndarray],
    classes: Sequence[np.ndarray] | None = None,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Interval:
    """Computes the mean of a value per shape and its bootstrap interval.

    Args:
      values: one array [count] per run, such as whether each shape is classified correctly.
      groups: per run, the group of each shape; a group that occurs in several runs is the same
        group, and is resampled in all of them alike.
      classes: per run, the class of each shape: the mean is then the mean over classes of the mean
        over the shapes of a class. None for the mean over shapes.
      confidence: confidence level between 0 and 1.
      draws: number of resamples.
      seed: random seed of the resamples.

    Raises:
      ValueError: lengths differ, there is no shape, or a value is non-finite.
    """
    mean, resampled = _resample(values, groups=groups, classes=classes, draws=draws, seed=seed)
    return Interval(mean, *_percentiles(resampled, confidence))


def paired_difference(
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    *,
    groups: Sequence[Sequence | np.ndarray],
    classes: Sequence[np.ndarray] | None = None,
    confidence: float = 0.95,
    draws: int = DRAWS,
    seed: int = 0,
) -> Difference:
    """Computes the mean difference of two methods on the same shapes, its interval and a p-value.

    Run i of the first method is paired with run i of the second: same shapes in the same order,
    and the same seed where the methods have seeds.

    Args:
      first: one array [count] per run.
      second: the same for the second method.
      groups: see `mean_interval`.
      classes: see `mean_interval`.
      confidence: confidence level between 0 and 1.
      draws: number of resamples.
      seed: random seed of the resamples.

    Raises:
      ValueError: lengths differ, there is no shape, or a value is non-finite.
    """
    shapes = [np.shape(run) for run in first], [np.shape(run) for run in second]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"first has runs of {shapes[0]}, second of {shapes[1]}: expected the same shapes in "
            "the same runs"
        )
    differences = [
        np.asarray(a, np.float64) - np.asarray(b, np.float64)
        for a, b in zip(first, second, strict=True)
    ]
    mean, resampled = _resample(differences, groups=groups, classes=classes, draws=draws, seed=seed)
    # Twice the smaller tail; a difference of exactly 0 is in both.
    tail = min(np.sum(resampled <= 0), np.sum(resampled >= 0))
    p_value = min(1.0, 2 * (1 + int(tail)) / (len(resampled) + 1))
    return Difference(mean, *_percentiles(resampled, confidence), p_value)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """Corrects the p-values of a family of tests for their number.

    Args:
      p_values: [tests], each between 0 and 1.

    Returns:
      float64 [tests], in the order of `p_values`; rejecting those below a level keeps the
      probability of any false rejection below it, whatever the dependence of the tests.

    Raises:
      ValueError: a p-value is not between 0 and 1.

    Source: S. Holm, "A simple sequentially rejective multiple test procedure", Scandinavian
    Journal of Statistics 6, 1979.
    """
    given = np.asarray(p_values, dtype=np.float64)
    if given.ndim != 1 or not np.all((given >= 0) & (given <= 1)):
        raise ValueError(f"p-values {given.tolist()}: expected numbers between 0 and 1")
    order = np.argsort(given, kind="stable")
    factors = np.arange(len(given), 0, -1)
    corrected = np.empty_like(given)
    corrected[order] = np.minimum(np.maximum.accumulate(factors * given[order]), 1)
    return corrected


def _resample(
    values: Sequence[np.ndarray],
    *,
    groups: Sequence[Sequence | np.ndarray],
    classes: Sequence[np.ndarray] | None,
    draws: int,
    seed: int,
) -> tuple[float, np.ndarray]:
    """Returns the mean and the means of the resamples, float64 [at most draws].

    A resample without any shape, which takes a run without a drawn group, has no mean and is
    excluded.
    """
    sums, counts = _cells(values, groups=groups, classes=classes)
    runs, group_count, _ = sums.shape
    rng = np.random.default_rng(seed)
    means = []
    for start in range(0, draws, _CHUNK):
        size = min(_CHUNK, draws - start)
        run_weights = rng.multinomial(runs, np.full(runs, 1 / runs), size).astype(np.float64)
        group_weights = rng.multinomial(
            group_count, np.full(group_count, 1 / group_count), size
        ).astype(np.float64)
        means.append(_mean(sums, counts, run_weights, group_weights))
    resampled = np.concatenate(means)
    whole = _mean(sums, counts, np.ones((1, runs)), np.ones((1, group_count)))
    return float(whole[0]), resampled[np.isfinite(resampled)]


def _mean(
    sums: np.ndarray, counts: np.ndarray, run_weights: np.ndarray, group_weights: np.ndarray
) -> np.ndarray:
    """Returns the weighted mean of each resample, nan for a resample without shapes.

    Args:
      sums: [runs, groups, classes], sums of the values.
      counts: the same shape, numbers of shapes.
      run_weights: [draws, runs].
      group_weights: [draws, groups].
    """
    total, count = (
        sum(run_weights[:, run, None] * (group_weights @ cells[run]) for run in range(len(cells)))
        for cells in (sums, counts)
    )
    present = count > 0
    by_class = np.divide(total, count, out=np.zeros_like(total), where=present)
    class_count = present.sum(axis=1)
    means = np.full(len(class_count), np.nan)
    return np.divide(by_class.sum(axis=1), class_count, out=means, where=class_count > 0)


def _cells(
    values: Sequence[np.ndarray],
    *,
    groups: Sequence[Sequence | np.ndarray],
    classes: Sequence[np.ndarray] | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns sums of values and numbers of shapes, float64 [runs, groups, classes] each."""
    values = [np.asarray(run, dtype=np.float64) for run in values]
    classes = [np.zeros(len(run), int) for run in values] if classes is None else classes
    lengths = [np.shape(run) for run in values]
    for name, other in (("groups", groups), ("classes", classes)):
        found = [np.shape(run) for run in other]
        if found != lengths or any(len(shape) != 1 for shape in lengths):
            raise ValueError(
                f"values of {lengths}, {name} of {found}: expected one {name[:-1]} each"
            )
    if not values or not all(len(run) for run in values):
        raise ValueError("no values to average: expected at least one shape in every run")
    flat = np.concatenate(values)
    if not np.all(np.isfinite(flat)):
        raise ValueError(f"{np.sum(~np.isfinite(flat))} of {len(flat)} values are non-finite")
    run = np.repeat(np.arange(len(values)), [len(each) for each in values])
    _, group = np.unique(np.concatenate([np.asarray(each) for each in groups]), return_inverse=True)
    _, label = np.unique(
        np.concatenate([np.asarray(each) for each in classes]), return_inverse=True
    )
    shape = (len(values), group.max() + 1, label.max() + 1)
    sums, counts = np.zeros(shape), np.zeros(shape)
    np.add.at(sums, (run, group, label), flat)
    np.add.at(counts, (run, group, label), 1)
    return sums, counts


def _percentiles(resampled: np.ndarray, confidence: float) -> tuple[float, float]:
    """Returns the ends of the percentile interval."""
    outside = (1 - confidence) / 2
    low, high = np.quantile(resampled, [outside, 1 - outside])
    return float(low), float(high)
