# SPDX-License-Identifier: Apache-2.0
"""Map of the embeddings of a split: their first two principal components, coloured by class."""

import dataclasses

import numpy as np

from mrd_jax.evaluation import held_out_split
from mrd_jax.report import figures

# Grey, for all classes without a colour of their own and for shapes of unknown class.
_OTHERS = "#8a939c"
# Longest side of a picture in pixels.
_PICTURE_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Dot:
    """A shape on the map.

    Attributes:
      left: distance from the left edge of the map, in per cent of its width.
      top: distance from the top edge of the map, in per cent of its height.
      colour: colour of its class.
      label: its name and class.
      picture: data URI, "" without a picture.
    """

    left: float
    top: float
    colour: str
    label: str
    picture: str


@dataclasses.dataclass(frozen=True)
class Map:
    """Dots of the map, and its legend.

    Attributes:
      dots: one per shape, in the order of the split.
      colours: (colour, class name) of the most frequent classes.
      explained_variance: fraction of the variance of the embeddings that the two components
        explain, between 0 and 1.
      others: colour of all other shapes.
    """

    dots: list[Dot]
    colours: list[tuple[str, str]]
    explained_variance: float
    others: str = _OTHERS


def make_map(embeddings: np.ndarray, *, held_out: held_out_split.HeldOut, limit: int) -> Map:
    """Projects embeddings onto their first two principal components.

    Args:
      embeddings: [count, dim], one per shape of `held_out`, in its order.
      held_out: held-out split.
      limit: maximum number of dots; of more shapes, an evenly spaced subset is shown, projected
        onto the components of all.
    """
    positions, explained_variance = project(embeddings)
    span = positions.max(axis=0) - positions.min(axis=0)
    percent = 3 + 94 * (positions - positions.min(axis=0)) / np.where(span > 0, span, 1.0)
    labels, counts = np.unique(held_out.labels[held_out.labelled], return_counts=True)
    frequent = labels[np.argsort(-counts, kind="stable")]
    colour_of = dict(zip(frequent.tolist(), figures.COLOURS, strict=False))
    dots = []
    for i in figures.evenly_spaced(len(held_out.ids), limit=limit):
        label = int(held_out.labels[i])
        class_name = held_out.class_names[label] if label >= 0 else "class unknown"
        dots.append(
            Dot(
                left=round(float(percent[i, 0]), 2),
                top=round(float(100 - percent[i, 1]), 2),
                colour=colour_of.get(label, _OTHERS),
                label=f"{held_out.names[i] or held_out.ids[i]}, {class_name}",
                picture=figures.picture_uri(held_out.pictures[i], size=_PICTURE_SIZE),
            )
        )
    legend = [(colour, held_out.class_names[label]) for label, colour in colour_of.items()]
    return Map(dots, legend, explained_variance)


def project(rows: np.ndarray) -> tuple[np.ndarray, float]:
    """Computes the first two principal components, signed so that the largest entry is positive.

    Args:
      rows: [count, dim].

    Returns:
      Coordinates, float64 [count, 2], and the fraction of the variance that they explain.
    """
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    # Eigenvectors of the covariance, whose size does not depend on the number of shapes; those of
    # the largest variance come last.
    variances, directions = np.linalg.eigh(centred.T @ centred)
    positions = centred @ directions[:, :-3:-1]
    largest = np.abs(positions).argmax(axis=0)
    positions *= np.where(positions[largest, [0, 1]] < 0, -1.0, 1.0)
    return positions, float(variances[-2:].sum() / max(variances.sum(), 1e-300))
