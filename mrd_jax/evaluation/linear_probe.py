# SPDX-License-Identifier: Apache-2.0
"""Linear probe: logistic regression from frozen embeddings to the classes of a data set.

As CLIP's protocol (Radford et al. 2021, appendix A.3): L-BFGS, at most 1,000 iterations, an L2
penalty whose strength is swept and chosen by accuracy on a held-out part of the training split.
Features are scaled to unit length and not standardised: the student is trained and searched by
cosine, so the length of an embedding means nothing, and deviations per dimension, estimated from
the few shapes of a few-shot probe, would blow up dimensions that hardly vary. The sweep makes up
for the common scale that is left.
"""

from collections.abc import Sequence

import numpy as np

from mrd_jax.evaluation.metrics import classification, logistic

# Of the penalty, strongest first: the factor on half the squared weights, beside the mean cross
# entropy over unit features. The first leaves hardly more than class sizes and class means, the
# last hardly any penalty.
STRENGTHS = (1.0, 1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)
# Share of a class that is held out to choose the strength.
HELD_OUT = 0.2


def linear_probe(
    features: np.ndarray,
    *,
    labels: np.ndarray,
    test_features: np.ndarray,
    test_labels: np.ndarray,
    seed: int = 0,
    strengths: Sequence[float] = STRENGTHS,
) -> dict[str, float]:
    """Accuracy of a linear classifier on frozen embeddings.

    Shapes of unknown class are left out of both splits. A test shape of a class that no training
    shape has counts as wrong, so that the figures are over the same shapes as zero-shot ones.

    Args:
      features: [train, dim], embeddings of the training split, any length.
      labels: int [train], -1 where unknown.
      test_features: [test, dim].
      test_labels: int [test], -1 where unknown.
      seed: draws the part that the strength is chosen on.
      strengths: of the penalty, to choose from, see `STRENGTHS`.

    Returns:
      top1 and mean_per_class as shares between 0 and 1; the chosen strength; and the numbers of
      training shapes (train), of those held out for the choice (held_out), of test shapes (count),
      of test shapes whose class has no training shape (absent), and of trained classes (classes).

    Raises:
      ValueError: where shapes disagree, a feature is not finite, there are fewer than two classes
        to learn, or no test shape has a class.
    """
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
    return {
        "top1": float(np.mean(correct)),
        "mean_per_class": classification.mean_per_class(correct, labels=test_labels),
        "strength": strength,
        "train": len(labels),
        "held_out": int(held_out.sum()),
        "count": len(test_labels),
        "absent": int(np.sum(~np.isin(test_labels, classifier.classes))),
        "classes": len(classifier.classes),
    }


def places_in_class(labels: np.ndarray, *, seed: int) -> np.ndarray:
    """Place of every shape in a shuffled order of its own class, from 0.

    The first k places are a random draw of k shapes per class, and of k + 1 places they are a part.

    Args:
      labels: int [count].
      seed: of the order.

    Returns:
      int64 [count].
    """
    order = np.random.default_rng(seed).permutation(len(labels))
    order = order[np.argsort(np.asarray(labels)[order], kind="stable")]
    _, sizes = np.unique(labels, return_counts=True)
    places = np.empty(len(labels), dtype=np.int64)
    places[order] = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    return places


def hold_out(labels: np.ndarray, *, seed: int, share: float = HELD_OUT) -> np.ndarray:
    """Draws the part of the training shapes that the strength is chosen on, class by class.

    Every class gives its share, rounded, but at least one shape; a class of one keeps it.

    Args:
      labels: int [count].
      seed: of the draw.
      share: of each class, between 0 and 1.

    Returns:
      bool [count], whether a shape is held out.
    """
    _, members, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    given = np.where(sizes > 1, np.clip(np.rint(share * sizes), 1, sizes - 1), 0)
    return places_in_class(labels, seed=seed) < given[members]


def choose_strength(
    features: np.ndarray,
    *,
    labels: np.ndarray,
    held_out: np.ndarray,
    strengths: Sequence[float] = STRENGTHS,
) -> float:
    """The strength with the best accuracy on the held-out part; of equals, the strongest.

    With nothing held out, as for a single shape per class, it is the strongest of all, which for
    classes of equal size comes near the class means: in the limit a shape is given the class whose
    mean has the largest product with it, both counted from the mean of the training shapes.

    Args:
      features: [count, dim], any length.
      labels: int [count].
      held_out: bool [count], see `hold_out`.
      strengths: to choose from.

    Returns:
      One of the strengths.

    Raises:
      ValueError: where there is no strength to choose from.
    """
    if not strengths:
        raise ValueError("no strengths to choose from: expected at least one")
    falling = sorted(strengths, reverse=True)
    if not np.any(held_out):
        return falling[0]
    classifier, accuracies = None, []
    for strength in falling:
        # From the stronger one's solution the next is near: the fits follow a path.
        classifier = logistic.fit(
            features[~held_out], labels=labels[~held_out], strength=strength, start=classifier
        )
        right = classifier.correct(features[held_out], labels=labels[held_out])
        accuracies.append(np.mean(right))
    return falling[int(np.argmax(accuracies))]


def _labelled(
    features: np.ndarray, labels: np.ndarray, *, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """The shapes whose class is known, after checking that both sides fit."""
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
