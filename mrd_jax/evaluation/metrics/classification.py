# SPDX-License-Identifier: Apache-2.0
"""Accuracy measures on plain arrays: numpy only, no model, no files; `ranking` has those of search.

Two rules hold everywhere. A tie counts against the model, so a model whose scores are all equal
gets nothing instead of luck. A score that is not finite is an error, not a rank.
"""

from collections.abc import Iterator

import numpy as np


def normalise(features: np.ndarray) -> np.ndarray:
    """Scales every row to unit length, in float32; a row of zeros stays zero.

    Args:
      features: [count, dim], any float type.

    Returns:
      float32 [count, dim].

    Raises:
      ValueError: where a feature is not finite.
    """
    features = np.asarray(features, dtype=np.float32)
    _require_finite(features, name="features")
    lengths = np.linalg.norm(features, axis=-1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1)


def label_ranks(scores: np.ndarray, *, labels: np.ndarray) -> np.ndarray:
    """Place of the true class in each row, 1 for the best; tied classes are placed before it.

    Args:
      scores: [count, classes], larger is better.
      labels: int [count], each in 0..classes-1.

    Returns:
      int64 [count].

    Raises:
      ValueError: where the shapes disagree, a label is no column, or a score is not finite.
    """
    scores, labels = _check_labels(scores, labels=labels)
    _require_finite(scores, name="scores")
    true_scores = scores[np.arange(len(labels)), labels]
    # The true class itself is among those that are at least as good, hence rank 1 at the best.
    return np.sum(scores >= true_scores[:, None], axis=1)


def recall_at(ranks: np.ndarray, *, k: int) -> float:
    """Share of ranks that are k or better, between 0 and 1.

    Args:
      ranks: int [count], 1 is the best.
      k: how many places count as found.

    Raises:
      ValueError: where there is no rank at all.
    """
    if len(ranks) == 0:
        raise ValueError("no ranks to average: expected at least one query")
    return float(np.mean(np.asarray(ranks) <= k))


def topk_accuracy(scores: np.ndarray, *, labels: np.ndarray, k: int) -> float:
    """Share of rows whose true class is among the k best, ties against the model.

    Args:
      scores: [count, classes], larger is better.
      labels: int [count], each in 0..classes-1.
      k: 1, 3 and 5 in the tables of this field.
    """
    return recall_at(label_ranks(scores, labels=labels), k=k)


def mean_per_class(correct: np.ndarray, *, labels: np.ndarray) -> float:
    """Mean over classes of the share that is correct, so that frequent classes weigh no more.

    Args:
      correct: [count], bool or a figure per shape.
      labels: int [count]; classes that do not occur are left out.

    Raises:
      ValueError: where the lengths differ or nothing is given.
    """
    correct, labels = np.asarray(correct, dtype=np.float64), np.asarray(labels)
    if correct.shape != labels.shape or correct.ndim != 1 or len(labels) == 0:
        raise ValueError(
            f"correct {correct.shape} and labels {labels.shape}: expected two vectors of one length"
        )
    _, members = np.unique(labels, return_inverse=True)
    return float(np.mean(np.bincount(members, weights=correct) / np.bincount(members)))


def confusion(predicted: np.ndarray, *, labels: np.ndarray, classes: int) -> np.ndarray:
    """Counts how often each true class (row) was taken for each class (column).

    Args:
      predicted: int [count], each in 0..classes-1.
      labels: int [count], each in 0..classes-1.
      classes: how many there are.

    Returns:
      int64 [classes, classes].

    Raises:
      ValueError: where the lengths differ or a value is out of range.
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
    """Slices that cut rows into pieces of a size; the last one may be shorter.

    Args:
      count: of rows.
      size: rows in a piece, at least 1.

    Yields:
      Slices of 0..count, with both ends inside it.

    Raises:
      ValueError: where size is below 1.
    """
    if size < 1:
        raise ValueError(f"chunk is {size}: expected at least 1 row at a time")
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))


def _check_labels(scores: np.ndarray, *, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns both as arrays, after checking that every label names a column of its row."""
    scores, labels = np.asarray(scores), np.asarray(labels)
    if scores.ndim != 2 or labels.shape != scores.shape[:1]:
        raise ValueError(
            f"scores {scores.shape} and labels {labels.shape}: expected [count, classes] and "
            "[count]"
        )
    if len(labels) and not (0 <= labels.min() and labels.max() < scores.shape[1]):
        raise ValueError(
            f"labels run from {labels.min()} to {labels.max()}: expected 0 to "
            f"{scores.shape[1] - 1}; leave out shapes of unknown class first"
        )
    return scores, labels


def _require_finite(values: np.ndarray, *, name: str) -> None:
    """Raises where a value is NaN or infinite, naming the first row."""
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{name} are not finite in {len(bad)} of {len(values)} rows, first is row {bad[0]}: "
            "the model or its input is broken"
        )
