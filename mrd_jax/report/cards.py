# SPDX-License-Identifier: Apache-2.0
"""The gallery of the report: what the student makes of single shapes."""

import base64
import dataclasses
import io
import pathlib

import numpy as np
from PIL import Image

from mrd_jax.evaluation import held_out_split, retrieval, zero_shot

_PICTURE_SIZE = 128
# Neighbours are many; at this size the page of 175 shapes stays near 3 MB.
_NEIGHBOUR_SIZE = 64


@dataclasses.dataclass(frozen=True)
class Prediction:
    """One class that the student proposes for a shape."""

    class_name: str
    score: float
    right: bool


@dataclasses.dataclass(frozen=True)
class Neighbour:
    """A shape that the student finds alike."""

    name: str
    class_name: str
    credit: str
    score: float
    picture: str


@dataclasses.dataclass(frozen=True)
class Card:
    """One shape of the gallery; class_name and verdict are "" where its class is unknown."""

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
) -> list[Card]:
    """Describes shapes with their best classes and nearest neighbours.

    Args:
      embeddings: [count, dim], one per shape of held_out and in its order.
      held_out: the shapes.
      gallery: the shapes that neighbours are looked up among; where its ids are those of held_out,
        no shape is its own neighbour.
      gallery_embeddings: [items, dim], one per shape of gallery.
      limit: most cards to make; more shapes are thinned out evenly.
      top: classes per shape.
      neighbours: neighbours per shape.

    Returns:
      The cards, in the order of the split.
    """
    best = zero_shot.predictions(zero_shot.class_scores(embeddings, held_out), top=top)
    nearest, cosines = retrieval.nearest_neighbours(
        embeddings, gallery_embeddings, count=neighbours, skip_self=gallery.ids == held_out.ids
    )
    count = len(held_out.ids)
    chosen = np.linspace(0, count - 1, min(limit, count)).round().astype(int)
    return [
        _card(
            i,
            held_out=held_out,
            predictions=_predictions(i, best=best, held_out=held_out),
            neighbours=tuple(
                _neighbour(j, score=score, gallery=gallery)
                for j, score in zip(nearest[i], cosines[i], strict=True)
            ),
        )
        for i in chosen
    ]


def picture_uri(path: pathlib.Path, *, size: int) -> str:
    """Reads a picture, shrinks it to a square of at most `size` pixels, and inlines it as JPEG.

    Args:
      path: any file that Pillow reads; transparent parts turn white.
      size: longest side in pixels.

    Returns:
      A data URI, "" where there is no such file: a data set may come without pictures.
    """
    if not path.is_file():
        return ""
    with Image.open(path) as opened:
        image = opened.convert("RGBA")
        image.thumbnail((size, size))
        flat = Image.new("RGB", image.size, "white")
        flat.paste(image, mask=image.getchannel("A"))
    buffer = io.BytesIO()
    flat.save(buffer, format="JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _card(
    i: int,
    *,
    held_out: held_out_split.HeldOut,
    predictions: tuple[Prediction, ...],
    neighbours: tuple[Neighbour, ...],
) -> Card:
    """Describes shape i."""
    class_name = _class_name(i, held_out)
    verdict = ""
    if class_name:
        verdict = "right" if predictions[0].right else "wrong"
    return Card(
        name=held_out.names[i] or held_out.ids[i],
        class_name=class_name,
        verdict=verdict,
        creator=held_out.creators[i],
        licence=held_out.licences[i],
        picture=picture_uri(held_out.pictures[i], size=_PICTURE_SIZE),
        predictions=predictions,
        neighbours=neighbours,
    )


def _predictions(
    i: int, *, best: zero_shot.Predictions, held_out: held_out_split.HeldOut
) -> tuple[Prediction, ...]:
    """The best classes of shape i."""
    return tuple(
        Prediction(held_out.class_names[c], float(score), bool(c == held_out.labels[i]))
        for c, score in zip(best.classes[i], best.scores[i], strict=True)
    )


def _neighbour(j: int, *, score: float, gallery: held_out_split.HeldOut) -> Neighbour:
    """Describes item j of the gallery."""
    return Neighbour(
        name=gallery.names[j] or gallery.ids[j],
        class_name=_class_name(j, gallery),
        credit=f"{gallery.creators[j]}, {gallery.licences[j]}",
        score=float(score),
        picture=picture_uri(gallery.pictures[j], size=_NEIGHBOUR_SIZE),
    )


def _class_name(i: int, held_out: held_out_split.HeldOut) -> str:
    """The class of shape i, "" where it is unknown."""
    return held_out.class_names[held_out.labels[i]] if held_out.labels[i] >= 0 else ""
