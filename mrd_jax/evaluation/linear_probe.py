# SPDX-License-Identifier: Apache-2.0
"""Linear probe: logistic regression from frozen embeddings to the classes of a data set.

The protocol is CLIP's (Radford et al. 2021, appendix A.3): L-BFGS, at most 1,000 iterations, and
an L2 penalty whose strength is chosen from a grid by accuracy on a held-out part of the training
split. Features are scaled to unit length and are not standardised. The student is trained and
searched by cosine, so the length of an embedding has no meaning; and standard deviations per
dimension, estimated from the few shapes of a few-shot probe, would amplify dimensions that hardly
vary. The grid of strengths compensates for the remaining common scale.
"""

from collections.abc import Sequence

import numpy as np

from mrd_jax.evaluation.metrics import classification, logistic, statistics

# Strengths of the penalty, in descending order: the factor on half the squared weights, which is
# added to the mean cross entropy over unit features. With the first, the classifier depends on
# little more than class sizes and class means; the last hardly restricts it.
STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
# Fraction of each class that is held out to choose the strength.
HELD_OUT = 0.2


def linear_probe(
    features: np.ndarray,
    *,
    labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    test_groups: np.ndarray | None = None,
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
) -> dict[str, float]:
    """Computes the accuracy of a linear classifier on frozen embeddings.

    Shapes of unknown class are excluded from both splits. A test shape whose class has no training
    shape counts as wrong, so that the accuracy is over the same shapes as the zero-shot accuracy.

    Args:
      features: [train, dim], embeddings of the training split; their length does not matter.
      labels: int [train], -1 for an unknown class.
      test_features: [test, dim], embeddings of the test split.
      test_labels: int [test], -1 for an unknown class.
      test_groups: int [test], group of each test shape, see `statistics.accuracy_interval`.
      seed: random seed that draws the part on which the strength is chosen.
      strengths: candidate strengths of the penalty, see `STRENGTHS`.

    Returns:
      `top1` and `mean_per_class`, fractions between 0 and 1; `top1_low` and `top1_high`, the 95%
      interval of `top1`; `strength`, the chosen one; and the
      numbers of training shapes (`train`), of those held out for the choice (`held_out`), of test
      shapes (`count`), of test shapes whose class has no training shape (`absent`), and of classes
      with training shapes (`classes`).

    Raises:
      ValueError: array shapes disagree, a feature is non-finite, the training split has fewer than
        two classes, or no test shape has a known class.
    """
    known = None if test_groups is None else test_groups[np.asarray(test_labels) >= 0]
    train, labels = _labelled(features, labels, name="training")
    test, test_labels = _labelled(test_features, test_labels, name="test")
    if train.shape[1] != test.shape[1]:
        raise ValueError(
            f"training features have dim {train.shape[1]} and test features {test.shape[1]}: both "
            "must come from one model"
        )
    held_out = hold_out(labels, seed=seed)
    strength = choose_strength(train, labels=labels, held_out=held_out, strengths=strengths)
    classifier = logistic.fit(train, labels=labels, strength=strength)
    correct = classifier.correct(test, labels=test_labels)
    interval = statistics.accuracy_interval(correct, groups=known)
    return {
        "top1": float(np.mean(correct)),
        "top1_low": interval.low,
        "top1_high": interval.high,
        "mean_per_class": classification.mean_per_class(correct, labels=test_labels),
        "strength": strength,
        "train": len(labels),
        "held_out": int(held_out.sum()),
        "count": len(test_labels),
        "absent": int(np.sum(~np.isin(test_labels, classifier.classes))),
        "classes": len(classifier.classes),
    }


def positions_in_class(labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Shuffles each class and returns the position of every shape in its class, from 0.

    The shapes at positions below k are a random draw of k shapes per class, and a subset of the
    draw of k + 1.

    Args:
      labels: int [count].
      seed: random seed of the shuffle.

    Returns:
      int64 [count].
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(np.asarray(labels)[order], kind="stable")]
    _, sizes = np.unique(labels, return_counts=True)
    positions = np.empty(len(labels), dtype=np.int64)
    positions[order] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return positions


def hold_out(labels: np.ndarray, *, seed: int, fraction: float = HELD_OUT) -> np.ndarray:
    """Draws the part of the training shapes on which the strength is chosen, class by class.

    Each class contributes the rounded fraction of its shapes but at least one; a class of one
    shape contributes none.

    Args:
      labels: int [count].
      seed: random seed of the draw.
      fraction: fraction of each class to hold out, between 0 and 1.

    Returns:
      bool [count], True for a shape that is held out.
    """
    _, members, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    counts = np.where(sizes > 1, np.clip(np.rint(fraction * sizes), 1, sizes - 1), 0)
    return positions_in_class(labels, seed=seed) < counts[members]


def choose_strength(
    features: np.ndarray,
    *,
    labels: np.ndarray,
    held_out: np.ndarray,
    strengths: Sequence[float] = STRENGTHS,
) -> float:
    """Returns the strength with the best accuracy on the held-out part; the strongest of equals.

    If nothing is held out, as for a single shape per class, it is the strongest of all. For
    classes of equal size, that comes close to classifying by class means: in the limit, a shape
    is assigned the class whose mean has the largest inner product with it, both relative to the
    mean of the training shapes.

    Args:
      features: [count, dim]; their length does not matter.
      labels: int [count].
      held_out: bool [count], see `hold_out`.
      strengths: candidates.

    Raises:
      ValueError: `strengths` is empty.
    """
    if not strengths:
        raise ValueError("no strengths to choose from: expected at least one")
    descending = sorted(strengths, reverse=True)
    if not np.any(held_out):
        return descending[0]
    classifier, accuracies = None, []
    for strength in descending:
        # The solutions follow a path, so each fit starts at that of the next stronger penalty.
        classifier = logistic.fit(
            features[~held_out], labels=labels[~held_out], strength=strength, start=classifier
        )
        correct = classifier.correct(features[held_out], labels=labels[held_out])
        accuracies.append(np.mean(correct))
    return descending[int(np.argmax(accuracies))]


def _labelled(
    features: np.ndarray, labels: np.ndarray, *, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the unit features and labels of the shapes whose class is known."""
    features, labels = np.asarray(features), np.asarray(labels)
    if features.ndim != 2 or labels.shape != features.shape[:1]:
        raise ValueError(
            f"{name} features {features.shape} and labels {labels.shape}: expected [count, dim] "
            "and [count]"
        )
    known = np.flatnonzero(labels >= 0)
    if not len(known):
        raise ValueError(f"no {name} shape has a known class: expected labels of 0 or more")
    return classification.normalise(features[known]), labels[known]
