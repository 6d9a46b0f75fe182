# SPDX-License-Identifier: Apache-2.0
"""Zero-shot classification: a shape's class is the class name nearest to its embedding.

Accuracy depends on the teacher, on the classes and on how their names are embedded. Compare it only
between runs on the same data set and with the baselines of that data set; with published tables,
only on Objaverse-LVIS, ModelNet40 or ScanObjectNN as released, class features included. It does not
compare across teachers or across folds.
"""

import dataclasses

import numpy as np

from mrd_jax.evaluation import held_out_split
from mrd_jax.evaluation.metrics import classification


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The best-scoring classes of every shape, labelled or not.

    Attributes:
      classes: int64 [count, top], the best first.
      scores: [count, top], the scores of these classes, in the dtype of the scores.
    """

    classes: np.ndarray
    scores: np.ndarray


def zero_shot(
    embeddings: np.ndarray, held_out: held_out_split.HeldOut, *, chunk: int = 4096
) -> dict[str, float]:
    """Computes the zero-shot accuracy of embeddings of the held-out shapes.

    Shapes of unknown class are excluded. A tie counts against the model: a shape whose true class
    ties with another counts as wrong.

    Args:
      embeddings: [count, dim], one per shape of `held_out`, in its order; their length does not
        matter.
      held_out: held-out split.
      chunk: number of shapes scored at a time, see `class_ranks`.

    Returns:
      `top1`, `top3`, `top5` and `mean_per_class`, fractions between 0 and 1; and `count` and
      `classes`, the numbers of labelled shapes and of classes.

    Raises:
      ValueError: the embeddings are not [count, dim] or non-finite, or no shape has a known class.
    """
    return from_ranks(class_ranks(embeddings, held_out, chunk=chunk), held_out)


def from_ranks(ranks: np.ndarray, held_out: held_out_split.HeldOut) -> dict[str, float]:
    """Computes the metrics of `zero_shot` from the ranks of the true classes.

    Args:
      ranks: int [labelled], 1 is the best; see `class_ranks`.
      held_out: held-out split.

    Raises:
      ValueError: no shape has a known class.
    """
    if not len(held_out.labelled):
        raise ValueError("no held-out shape has a known class: expected labels of 0 or more")
    labels = held_out.labelled_classes
    return {
        "top1": classification.recall_at(ranks, k=1),
        "top3": classification.recall_at(ranks, k=3),
        "top5": classification.recall_at(ranks, k=5),
        "mean_per_class": classification.mean_per_class(ranks == 1, labels=labels),
        "count": len(labels),
        "classes": len(held_out.class_names),
    }


def class_ranks(
    embeddings: np.ndarray, held_out: held_out_split.HeldOut, *, chunk: int = 4096
) -> np.ndarray:
    """Returns the rank of the true class of every labelled shape, scoring a chunk at a time.

    Args:
      embeddings: [count, dim], one per shape of `held_out`, in its order; their length does not
        matter.
      held_out: held-out split.
      chunk: number of shapes scored at a time. Memory is a few arrays of [chunk, classes], each
        19 MB at 1,156 classes and the default.

    Returns:
      int64 [labelled], 1 is the best; tied classes rank before the true class.

    Raises:
      ValueError: the embeddings are not [count, dim] of the held-out shapes, or non-finite.
    """
    _check(embeddings, held_out)
    queries = classification.normalise(embeddings)[held_out.labelled]
    labels = held_out.labelled_classes
    ranks = np.empty(len(labels), dtype=np.int64)
    for rows in classification.chunks(len(labels), size=chunk):
        scores = queries[rows] @ held_out.class_features.T
        ranks[rows] = classification.label_ranks(scores, labels=labels[rows])
    return ranks


def class_scores(embeddings: np.ndarray, held_out: held_out_split.HeldOut) -> np.ndarray:
    """Returns the cosine similarity of every shape with every class name.

    Args:
      embeddings: [count, dim], one per shape of `held_out`, in its order; their length does not
        matter.
      held_out: held-out split.

    Returns:
      float32 [count, classes].

    Raises:
      ValueError: the embeddings are not [count, dim] of the held-out shapes, or non-finite.
    """
    _check(embeddings, held_out)
    return classification.normalise(embeddings) @ held_out.class_features.T


def predictions(scores: np.ndarray, *, top: int = 3) -> Predictions:
    """Returns the best-scoring classes of every shape; ties are in the order of the classes.

    Args:
      scores: [count, classes], larger is better.
      top: number of classes to keep; at most the number of classes is returned.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return Predictions(best, np.take_along_axis(scores, best, axis=1))


def _check(embeddings: np.ndarray, held_out: held_out_split.HeldOut) -> None:
    """Raises ValueError if the embeddings do not have the shape that the split implies."""
    expected = (len(held_out.ids), held_out.class_features.shape[1])
    if np.shape(embeddings) != expected:
        raise ValueError(
            f"embeddings have shape {np.shape(embeddings)}: expected {expected}, one row per "
            "held-out shape in the teacher's space"
        )
