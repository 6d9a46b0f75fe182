# SPDX-License-Identifier: Apache-2.0
"""Classification metrics on plain arrays, in numpy; `ranking` has the metrics of retrieval.

Two rules hold for all metrics. A tie counts against the model, so a model that gives all classes
the same score gets an accuracy of 0. A non-finite score is an error and has no rank.
"""

from collections.abc import Iterator

import numpy as np


def normalise(features: np.ndarray) -> np.ndarray:
    """Scales every row to unit norm; a row of zeros stays zero.

    Args:
      features: [count, dim], any float dtype.

    Returns:
      float32 [count, dim].

    Raises:
      ValueError: a feature is non-finite.
    """
    features = np.asarray(features, dtype=np.float32)
    _require_finite(features, name="features")
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1)


def label_ranks(scores: np.ndarray, *, labels: np.ndarray) -> np.ndarray:
    """Returns the rank of the true class in each row, 1 for the best.

    Classes that tie with the true class rank before it.

    Args:
      scores: [count, classes], larger is better.
      labels: int [count], each in 0..classes-1.

    Returns:
      int64 [count].

    Raises:
      ValueError: the array shapes disagree, a label is out of range, or a score is non-finite.
    """
    scores, labels = _check_labels(scores, labels=labels)
    _require_finite(scores, name="scores")
    true_scores = scores[np.arange(len(labels)), labels]
    # The true class counts itself, so the best rank is 1.
    return np.sum(scores >= true_scores[:, None], axis=1)


def recall_at(ranks: np.ndarray, *, k: int) -> float:
    """Returns the fraction of ranks that are k or better.

    Args:
      ranks: int [count], 1 is the best.
      k: number of top ranks that count as correct.

    Raises:
      ValueError: there are no ranks.
    """
    if len(ranks) == 0:
        raise ValueError("no ranks to average: expected at least one query")
    return float(np.mean(np.asarray(ranks) <= k))


def topk_accuracy(scores: np.ndarray, *, labels: np.ndarray, k: int) -> float:
    """Returns the fraction of rows whose true class ranks k or better, see `label_ranks`.

    Args:
      scores: [count, classes], larger is better.
      labels: int [count], each in 0..classes-1.
      k: 1, 3 or 5 in the tables of this field.
    """
    return recall_at(label_ranks(scores, labels=labels), k=k)


def mean_per_class(correct: np.ndarray, *, labels: np.ndarray) -> float:
    """Returns the mean over classes of the mean over each class's shapes.

    Every class has the same weight, however frequent it is.

    Args:
      correct: [count], bool or a value per shape.
      labels: int [count]; classes that do not occur are excluded.

    Raises:
      ValueError: the lengths differ or are 0.
    """
    correct, labels = np.asarray(correct, dtype=np.float64), np.asarray(labels)
    if correct.shape != labels.shape or correct.ndim != 1 or len(labels) == 0:
        raise ValueError(
            f"correct {correct.shape} and labels {labels.shape}: expected two vectors of one length"
        )
    _, members = np.unique(labels, return_inverse=True)
    return float(np.mean(np.bincount(members, weights=correct) / np.bincount(members)))


def confusion(predicted: np.ndarray, *, labels: np.ndarray, classes: int) -> np.ndarray:
    """Returns the confusion matrix, with true classes in rows and predicted classes in columns.

    Args:
      predicted: int [count], each in 0..classes-1.
      labels: int [count], each in 0..classes-1.
      classes: number of classes.

    Returns:
      int64 [classes, classes], numbers of shapes.

    Raises:
      ValueError: the lengths differ or a value is out of range.
    """
    predicted, labels = np.asarray(predicted), np.asarray(labels)
    if predicted.shape != labels.shape:
        raise ValueError(f"{predicted.shape} predictions for {labels.shape} labels")
    for name, values in (("predicted", predicted), ("labels", labels)):
        if len(values) and not (0 <= values.min() and values.max() < classes):
            raise ValueError(
                f"{name} has values from {values.min()} to {values.max()}: "
                f"expected 0 to {classes - 1}"
            )
    table = np.zeros((classes, classes), dtype=np.int64)
    np.add.at(table, (labels, predicted), 1)
    return table


def chunks(count: int, *, size: int) -> Iterator[slice]:
    """Yields slices that divide rows into chunks; the last chunk may be smaller.

    Args:
      count: number of rows.
      size: number of rows per chunk, at least 1.

    Raises:
      ValueError: size is below 1.
    """
    if size < 1:
        raise ValueError(f"chunk is {size}: expected at least 1 row at a time")
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _check_labels(scores: np.ndarray, *, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as arrays; raises ValueError unless every label is the index of a column."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"scores {scores.shape} and labels {labels.shape}: expected [count, classes] and "
            "[count]"
        )
    if len(labels) and not (0 <= labels.min() and labels.max() < scores.shape[1]):
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}: expected 0 to "
            f"{scores.shape[1] - 1}; exclude shapes of unknown class first"
        )
    return scores, labels


def _require_finite(values: np.ndarray, *, name: str) -> None:
    """Raises ValueError if a value is NaN or infinite, naming the first row."""
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{name} are non-finite in {len(bad)} of {len(values)} rows, first is row {bad[0]}: "
            "check the model and its input"
        )
