# SPDX-License-Identifier: Apache-2.0
"""Shape cards of the report: a picture of each shape, its best classes and nearest neighbours."""

import dataclasses

import numpy as np

from mrd_jax.evaluation import held_out_split, retrieval, zero_shot
from mrd_jax.report import figures

# Longest sides of the pictures in pixels. A card has several neighbours; at this size, a page of
# 175 shapes stays near 3 MB.
_PICTURE_SIZE = 128
_NEIGHBOUR_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One of the best-scoring classes of a shape.

    Attributes:
      class_name: name of the class.
      score: cosine similarity of the class name and the shape.
      correct: whether it is the true class.
    """

    class_name: str
    score: float
    correct: bool


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """One of the nearest shapes of a shape.

    Attributes:
      name: name of the neighbour, or its id.
      class_name: name of its class, "" for an unknown class.
      credit: creator and licence.
      score: cosine similarity to the shape.
      picture: data URI, "" without a picture.
    """

    name: str
    class_name: str
    credit: str
    score: float
    picture: str


@dataclasses.dataclass(frozen=True)
class ShapeCard:
    """Card of one shape.

    Attributes:
      name: name of the shape, or its id.
      class_name: name of its class, "" for an unknown class.
      verdict: "right" or "wrong" zero-shot classification, "" for an unknown class.
      creator: creator of the shape.
      licence: licence of the shape.
      picture: data URI, "" without a picture.
      predictions: best-scoring classes, the best first.
      neighbours: nearest shapes, the nearest first.
    """

    name: str
    class_name: str
    verdict: str
    creator: str
    licence: str
    picture: str
    predictions: tuple[Prediction, ...]
    neighbours: tuple[Neighbour, ...]


def make_cards(
    embeddings: np.ndarray,
    *,
    held_out: held_out_split.HeldOut,
    gallery: held_out_split.HeldOut,
    gallery_embeddings: np.ndarray,
    limit: int,
    top: int = 3,
    neighbours: int = 3,
) -> list[ShapeCard]:
    """Makes cards of the held-out shapes with their best classes and nearest neighbours.

    Args:
      embeddings: [count, dim], one per shape of `held_out`, in its order.
      held_out: held-out split.
      gallery: shapes among which neighbours are looked up; if its ids are those of `held_out`, no
        shape is its own neighbour.
      gallery_embeddings: [items, dim], one per shape of `gallery`.
      limit: maximum number of cards; of more shapes, an evenly spaced subset is shown.
      top: number of classes per shape.
      neighbours: number of neighbours per shape.

    Returns:
      The cards, in the order of the split.
    """
    best = zero_shot.predictions(zero_shot.class_scores(embeddings, held_out), top=top)
    nearest, cosines = retrieval.nearest_neighbours(
        embeddings, gallery_embeddings, count=neighbours, skip_self=gallery.ids == held_out.ids
    )
    return [
        _make_card(
            i,
            held_out=held_out,
            predictions=_predictions(i, best=best, held_out=held_out),
            neighbours=tuple(
                _make_neighbour(j, score=score, gallery=gallery)
                for j, score in zip(nearest[i], cosines[i], strict=True)
            ),
        )
        for i in figures.evenly_spaced(len(held_out.ids), limit=limit)
    ]


def _make_card(
    i: int,
    *,
    held_out: held_out_split.HeldOut,
    predictions: tuple[Prediction, ...],
    neighbours: tuple[Neighbour, ...],
) -> ShapeCard:
    """Makes the card of shape i."""
    class_name = _class_name(i, held_out)
    verdict = ""
    if class_name:
        verdict = "right" if predictions[0].correct else "wrong"
    return ShapeCard(
        name=held_out.names[i] or held_out.ids[i],
        class_name=class_name,
        verdict=verdict,
        creator=held_out.creators[i],
        licence=held_out.licences[i],
        picture=figures.picture_uri(held_out.pictures[i], size=_PICTURE_SIZE),
        predictions=predictions,
        neighbours=neighbours,
    )


def _predictions(
    i: int, *, best: zero_shot.Predictions, held_out: held_out_split.HeldOut
) -> tuple[Prediction, ...]:
    """Returns the best-scoring classes of shape i."""
    return tuple(
        Prediction(held_out.class_names[c], float(score), bool(c == held_out.labels[i]))
        for c, score in zip(best.classes[i], best.scores[i], strict=True)
    )


def _make_neighbour(j: int, *, score: float, gallery: held_out_split.HeldOut) -> Neighbour:
    """Describes item j of the gallery as a neighbour."""
    return Neighbour(
        name=gallery.names[j] or gallery.ids[j],
        class_name=_class_name(j, gallery),
        credit=f"{gallery.creators[j]}, {gallery.licences[j]}",
        score=float(score),
        picture=figures.picture_uri(gallery.pictures[j], size=_NEIGHBOUR_SIZE),
    )


def _class_name(i: int, held_out: held_out_split.HeldOut) -> str:
    """Returns the class name of shape i, "" for an unknown class."""
    return held_out.class_names[held_out.labels[i]] if held_out.labels[i] >= 0 else ""
