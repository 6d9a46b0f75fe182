# SPDX-License-Identifier: Apache-2.0
"""The embeddings of a split on a plane: which shapes the student puts together."""

import dataclasses

import numpy as np

from mrd_jax.evaluation import held_out_split
from mrd_jax.report import cards, figures

# Grey, for classes that have no colour of their own and for shapes without a class.
_OTHERS = "#8a939c"
_PICTURE_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Dot:
    """A shape on the map.

    Attributes:
      left: place from the left, in per cent.
      top: place from the top, in per cent.
      colour: of its class.
      words: its name and class.
      picture: data URI, "" without a picture.
    """

    left: float
    top: float
    colour: str
    words: str
    picture: str


@dataclasses.dataclass(frozen=True)
class Map:
    """All dots, and what the colours mean.

    Attributes:
      dots: in the order of the split.
      colours: (colour, class) of the most frequent classes.
      share: of the variance of the embeddings that the plane holds, in 0..1.
      others: colour of all other shapes.
    """

    dots: list[Dot]
    colours: list[tuple[str, str]]
    share: float
    others: str = _OTHERS


def make_map(embeddings: np.ndarray, *, held_out: held_out_split.HeldOut, limit: int) -> Map:
    """Projects embeddings on their first two principal components.

    Args:
      embeddings: [count, dim], one per shape of held_out and in its order.
      held_out: the shapes.
      limit: most dots to make; more shapes are thinned out evenly, the plane stays that of all.

    Returns:
      The map.
    """
    places, share = project(embeddings)
    span = places.max(axis=0) - places.min(axis=0)
    percent = 3 + 94 * (places - places.min(axis=0)) / np.where(span > 0, span, 1.0)
    labels, counts = np.unique(held_out.labels[held_out.labelled], return_counts=True)
    frequent = labels[np.argsort(-counts, kind="stable")]
    colour_of = dict(zip(frequent.tolist(), figures.COLOURS, strict=False))
    count = len(held_out.ids)
    dots = []
    for i in np.linspace(0, count - 1, min(limit, count)).round().astype(int):
        label = int(held_out.labels[i])
        class_name = held_out.class_names[label] if label >= 0 else "class unknown"
        dots.append(
            Dot(
                left=round(float(percent[i, 0]), 2),
                top=round(float(100 - percent[i, 1]), 2),
                colour=colour_of.get(label, _OTHERS),
                words=f"{held_out.names[i] or held_out.ids[i]}, {class_name}",
                picture=cards.picture_uri(held_out.pictures[i], size=_PICTURE_SIZE),
            )
        )
    legend = [(colour, held_out.class_names[label]) for label, colour in colour_of.items()]
    return Map(dots, legend, share)


def project(rows: np.ndarray) -> tuple[np.ndarray, float]:
    """First two principal components, each turned so that its largest entry is positive.

    Args:
      rows: [count, dim].

    Returns:
      float64 [count, 2], and the share of the variance that they hold.
    """
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    # Of the covariance, which stays small however many shapes there are; largest variance last.
    variances, directions = np.linalg.eigh(centred.T @ centred)
    places = centred @ directions[:, :-3:-1]
    largest = np.abs(places).argmax(axis=0)
    places *= np.where(places[largest, [0, 1]] < 0, -1.0, 1.0)
    return places, float(variances[-2:].sum() / max(variances.sum(), 1e-300))
