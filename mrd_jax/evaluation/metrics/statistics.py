# SPDX-License-Identifier: Apache-2.0
"""Significance of differences on small held-out sets: a paired test and a confidence interval.

With 134 test shapes, the 95% interval of an accuracy extends about 8.5 points to either side.
Compare two models shape by shape, pooled over both folds, before calling one of them better.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import scipy  # scipy.stats is slow to import: its first use loads it

from mrd_jax.evaluation.metrics import bootstrap

# With fewer groups, a bootstrap over them gives intervals that are far too narrow.
MIN_GROUPS = 10


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Result of an exact McNemar test of two models on the same shapes.

    Attributes:
      count: number of shapes.
      only_first: number of shapes that only the first model classifies correctly.
      only_second: number of shapes that only the second model classifies correctly.
      p_value: two-sided; probability that two equally good models disagree at least this unevenly.
    """

    count: int
    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Comparison:
    """Computes the exact McNemar test of two models, pooled over folds.

    Only shapes on which the models disagree carry information about their difference. If the two
    were equally good, each would be correct on half of these: a binomial test. Folds are pooled by
    adding their disagreements, which is valid if no shape is in two folds.

    Args:
      first: one bool [count] per fold, True for a shape that the first model classifies correctly.
      second: the same for the second model, with the shapes in the same order.

    Returns:
      The comparison; its p-value is 1 if the models never disagree.

    Raises:
      ValueError: the numbers of folds or of shapes differ.

    Source: Q. McNemar, "Note on the sampling error of the difference between correlated
    proportions or percentages", Psychometrika 12, 1947; the exact form is the sign test.
    """
    first = [np.asarray(fold, dtype=bool) for fold in first]
    second = [np.asarray(fold, dtype=bool) for fold in second]
    shapes = [fold.shape for fold in first], [fold.shape for fold in second]
    if shapes[0] != shapes[1] or not first or any(len(shape) != 1 for shape in shapes[0]):
        raise ValueError(
            f"first has folds of {shapes[0]}, second of {shapes[1]}: expected the same shapes "
            "of the same folds, as a list of vectors"
        )
    a, b = np.concatenate(first), np.concatenate(second)
    only_first, only_second = int(np.sum(a & ~b)), int(np.sum(b & ~a))
    disagreements = only_first + only_second
    p_value = scipy.stats.binomtest(only_first, disagreements).pvalue if disagreements else 1.0
    return Comparison(len(a), only_first, only_second, float(p_value))


@dataclasses.dataclass(frozen=True)
class AccuracyInterval:
    """95% interval of an accuracy.

    Attributes:
      low: lower end.
      high: upper end.
      groups: number of groups that it was computed over; 0 for a Wilson interval over shapes.
    """

    low: float
    high: float
    groups: int


def accuracy_interval(correct: np.ndarray, *, groups: np.ndarray | None) -> AccuracyInterval:
    """Computes the 95% interval of an accuracy on shapes that may come in groups.

    Args:
      correct: bool [count], True for a shape that is classified correctly.
      groups: int [count], group of each shape. With at least `MIN_GROUPS` groups, the interval is
        the cluster bootstrap's, or, if all shapes are correct or none is, the Wilson interval of as
        many trials as there are groups. Otherwise, and for None, it is the Wilson interval.

    Raises:
      ValueError: there is no shape.
    """
    hits, count = int(np.sum(correct)), len(correct)
    group_count = 0 if groups is None else len(np.unique(groups))
    if groups is None or group_count < MIN_GROUPS:
        return AccuracyInterval(*wilson_interval(hits, count=count), 0)
    if hits in (0, count):  # every resample has the same accuracy
        successes = group_count if hits else 0
        return AccuracyInterval(*wilson_interval(successes, count=group_count), group_count)
    found = bootstrap.mean_interval([correct], groups=[groups])
    return AccuracyInterval(found.low, found.high, group_count)


def wilson_interval(successes: int, *, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Computes the Wilson score interval of a proportion, which is valid for few samples too.

    Args:
      successes: number of successes, in 0..count.
      count: number of trials, at least 1.
      confidence: confidence level between 0 and 1.

    Returns:
      (low, high), both between 0 and 1.

    Raises:
      ValueError: successes or count is out of range.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", JASA 22, 1927.
    """
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(
            f"{successes} successes of {count}: expected 0 <= successes <= count and count >= 1"
        )
    interval = scipy.stats.binomtest(successes, count).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
