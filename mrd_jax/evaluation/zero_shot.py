# SPDX-License-Identifier: Apache-2.0
"""Zero-shot classification: a shape's class is the class name nearest to its embedding.

The figures depend on the teacher, on the classes and on how their names are embedded. They may be
compared between runs on the same dataset folder, and with its baselines; with published tables
only on Objaverse-LVIS, ModelNet40 or ScanObjectNN as released, class features included; and with
nothing else: not across teachers, not with the folds of another test catalogue.
"""

import dataclasses

import numpy as np

from mrd_jax.evaluation import held_out_split
from mrd_jax.evaluation.metrics import classification


@dataclasses.dataclass(frozen=True)
class Predictions:
    """The best classes of every shape, labelled or not.

    Attributes:
      classes: int64 [count, top], best first.
      scores: float32 [count, top], their cosines.
    """

    classes: np.ndarray
    scores: np.ndarray


def zero_shot(
    embeddings: np.ndarray, held_out: held_out_split.HeldOut, *, chunk: int = 4096
) -> dict[str, float]:
    """Accuracy of naming the class of held-out shapes from their embeddings.

    Shapes whose class is unknown are left out. A shape whose true class ties with another counts
    as wrong.

    Args:
      embeddings: [count, dim], one per shape of held_out and in its order, any length.
      held_out: the shapes.
      chunk: shapes scored at a time, see `class_ranks`.

    Returns:
      top1, top3, top5 and mean_per_class as shares between 0 and 1, and count and classes.

    Raises:
      ValueError: where the embeddings do not fit, or no shape has a class.
    """
    return from_ranks(class_ranks(embeddings, held_out, chunk=chunk), held_out)


def from_ranks(ranks: np.ndarray, held_out: held_out_split.HeldOut) -> dict[str, float]:
    """The measures of `zero_shot` for places of the true classes that were found in another way.

    Args:
      ranks: int [labelled], 1 is the best; see `class_ranks`.
      held_out: the shapes.

    Returns:
      As `zero_shot`.

    Raises:
      ValueError: where no shape has a class.
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
    """Place of the true class of every labelled shape, without the scores of all of them at once.

    Args:
      embeddings: [count, dim], one per shape of held_out and in its order, any length.
      held_out: the shapes.
      chunk: shapes scored at a time; memory is a few times chunk * classes floats, each of them
        19 MB at 1,156 classes.

    Returns:
      int64 [labelled], 1 is the best, ties against the model.

    Raises:
      ValueError: where the embeddings are not [count, dim] of the held-out shapes.
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
    """Cosine of every shape with every class name.

    Args:
      embeddings: [count, dim], one per shape of held_out and in its order, any length.
      held_out: the shapes.

    Returns:
      float32 [count, classes].

    Raises:
      ValueError: where the embeddings are not [count, dim] of the held-out shapes.
    """
    _check(embeddings, held_out)
    return classification.normalise(embeddings) @ held_out.class_features.T


def predictions(scores: np.ndarray, *, top: int = 3) -> Predictions:
    """The best classes of every shape with their scores, for people to look at.

    Args:
      scores: [count, classes], larger is better.
      top: how many to keep; fewer where there are fewer classes.

    Returns:
      The `Predictions`; tied classes come in the order of their index.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
    return Predictions(best, np.take_along_axis(scores, best, axis=1))


def _check(embeddings: np.ndarray, held_out: held_out_split.HeldOut) -> None:
    """Raises where the embeddings are not those of the held-out shapes."""
    expected = (len(held_out.ids), held_out.class_features.shape[1])
    if np.shape(embeddings) != expected:
        raise ValueError(
            f"embeddings have shape {np.shape(embeddings)}: expected {expected}, one row per "
            "held-out shape in the teacher's space"
        )
