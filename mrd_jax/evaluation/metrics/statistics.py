# SPDX-License-Identifier: Apache-2.0
"""How sure a difference is: paired tests and intervals for small held-out sets.

With 134 test shapes a share is known to about 8.5 points, so two models are compared shape by
shape, and over both folds together, before either is called better.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from scipy import stats


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Outcome of an exact McNemar test of two models on the same shapes.

    Attributes:
      count: shapes that both models answered.
      only_first: shapes that the first got right and the second wrong.
      only_second: the reverse.
      p_value: two-sided; how often chance alone would split the disagreements this unevenly.
    """

    count: int
    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Sequence[np.ndarray], second: Sequence[np.ndarray]) -> Comparison:
    """Exact McNemar test of two models, pooled over folds.

    Shapes that both models get right or both get wrong say nothing about their difference. Of
    the others, each model would win half if the two were equally good: a binomial test. Folds
    are pooled by adding their disagreements, which is sound while no shape is in two folds.

    Args:
      first: one bool [count] per fold, whether the first model was right.
      second: the same for the second model, shapes in the same order.

    Returns:
      The `Comparison`; its p_value is 1 where the models never disagree.

    Raises:
      ValueError: where the folds or their lengths differ.

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
    ours, theirs = np.concatenate(first), np.concatenate(second)
    only_first, only_second = int(np.sum(ours & ~theirs)), int(np.sum(theirs & ~ours))
    disagreements = only_first + only_second
    p_value = stats.binomtest(only_first, disagreements).pvalue if disagreements else 1.0
    return Comparison(len(ours), only_first, only_second, float(p_value))


def wilson_interval(successes: int, *, count: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval for a share, which stays inside 0..1 and holds for few samples.

    Args:
      successes: how many were right, 0..count.
      count: how many there were, at least 1.
      confidence: between 0 and 1.

    Returns:
      (low, high), both shares between 0 and 1.

    Raises:
      ValueError: where successes or count is out of range.

    Source: E. B. Wilson, "Probable inference, the law of succession, and statistical
    inference", JASA 22, 1927.
    """
    if count < 1 or not 0 <= successes <= count:
        raise ValueError(
            f"{successes} successes of {count}: expected 0 <= successes <= count and count >= 1"
        )
    interval = stats.binomtest(successes, count).proportion_ci(confidence, method="wilson")
    return float(interval.low), float(interval.high)
