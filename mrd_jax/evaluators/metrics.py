# SPDX-License-Identifier: Apache-2.0
"""Accuracy and retrieval measures on plain arrays: numpy only, no model, no files.

Two rules hold everywhere. A tie counts against the model, so a model whose scores are all equal
gets nothing instead of luck. A score that is not finite is an error, not a rank.
"""

import numpy as np

# Cosines closer than this count as equal. Float32 rounding moves a cosine of unit rows by about
# 1e-7, and by different amounts in different BLAS kernels; without the margin, a model that gives
# every shape the same embedding would be ranked by rounding noise.
COSINE_TIE = 1e-6


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
      correct: bool [count].
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


def retrieval_ranks(
    queries: np.ndarray,
    gallery: np.ndarray,
    *,
    query_groups: np.ndarray,
    gallery_groups: np.ndarray,
    chunk: int = 512,
) -> np.ndarray:
    """Place at which each query first meets an item of its own group, by cosine.

    An item is relevant when its group is the query's, so a query may have several right answers;
    the first one found counts. Other items that tie with it (`COSINE_TIE`) are placed before it.

    Args:
      queries: [count, dim], any length.
      gallery: [items, dim], any length.
      query_groups: int [count].
      gallery_groups: int [items].
      chunk: queries scored at a time; memory is chunk * items floats, 96 MB at 46,832 items.

    Returns:
      int64 [count], 1 is the best.

    Raises:
      ValueError: where shapes disagree, chunk is below 1, or a query has no relevant item.
    """
    queries, gallery = normalise(queries), normalise(gallery)
    query_groups, gallery_groups = np.asarray(query_groups), np.asarray(gallery_groups)
    _check_retrieval(queries, gallery, query_groups=query_groups, gallery_groups=gallery_groups)
    if chunk < 1:
        raise ValueError(f"chunk is {chunk}: expected at least 1 query at a time")
    ranks = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), chunk):
        rows = slice(start, start + chunk)
        cosines = queries[rows] @ gallery.T
        relevant = query_groups[rows, None] == gallery_groups[None, :]
        best = np.max(cosines, axis=1, initial=-np.inf, where=relevant)
        ahead = ~relevant & (cosines >= best[:, None] - COSINE_TIE)
        ranks[rows] = 1 + np.sum(ahead, axis=1)
    return ranks


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


def _check_retrieval(
    queries: np.ndarray,
    gallery: np.ndarray,
    *,
    query_groups: np.ndarray,
    gallery_groups: np.ndarray,
) -> None:
    """Raises where the sizes disagree or a query has no right answer in the gallery."""
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"queries {queries.shape} and gallery {gallery.shape}: expected one common dim"
        )
    if query_groups.shape != queries.shape[:1] or gallery_groups.shape != gallery.shape[:1]:
        raise ValueError(
            f"groups {query_groups.shape} and {gallery_groups.shape} for {len(queries)} queries "
            f"and {len(gallery)} items: expected one group each"
        )
    lonely = np.flatnonzero(~np.isin(query_groups, gallery_groups))
    if len(lonely):
        raise ValueError(
            f"{len(lonely)} queries have no relevant item in the gallery, first is row {lonely[0]} "
            f"of group {query_groups[lonely[0]]}: leave them out or add their items"
        )


def _require_finite(values: np.ndarray, *, name: str) -> None:
    """Raises where a value is NaN or infinite, naming the first row."""
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{name} are not finite in {len(bad)} of {len(values)} rows, first is row {bad[0]}: "
            "the model or its input is broken"
        )
