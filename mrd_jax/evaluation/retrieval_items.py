# SPDX-License-Identifier: Apache-2.0
"""Queries and galleries of retrieval: shapes, names, pictures and classes of a held-out split."""

import dataclasses

import numpy as np

from mrd_jax.evaluation import held_out_split


@dataclasses.dataclass(frozen=True)
class Items:
    """The queries or the gallery of a search.

    Attributes:
      features: [count, dim].
      groups: int [count]; a query and an item of one group are a correct pair.
      unseen: bool [count], True for an exact name that never occurs in training.
      labels: int [count], class, -1 for an unknown class.
      shapes: int64 [count], index of the shape that each belongs to; for a name, of the
        first shape that has it; for the name of a class, -1.
    """

    features: np.ndarray
    groups: np.ndarray
    unseen: np.ndarray
    labels: np.ndarray
    shapes: np.ndarray


def directions(
    embeddings: np.ndarray, held_out: held_out_split.HeldOut
) -> dict[str, tuple[Items, Items]]:
    """Returns queries and gallery by the name of the direction, between a shape and its own.

    Args:
      embeddings: [count, dim], one per shape of `held_out`, in its order.
      held_out: held-out split.

    Raises:
      ValueError: the number of embeddings is not the number of held-out shapes.
    """
    if len(embeddings) != len(held_out.ids):
        raise ValueError(
            f"{len(embeddings)} embeddings for {len(held_out.ids)} held-out shapes: expected one "
            "each, in their order"
        )
    embeddings = np.asarray(embeddings)
    named = np.flatnonzero(held_out.name_index >= 0)
    pictured = np.flatnonzero(np.any(held_out.image_features != 0, axis=1))

    def shapes(features: np.ndarray, groups: np.ndarray, rows: np.ndarray) -> Items:
        unseen, labels = held_out.unseen[rows], held_out.labels[rows]
        return Items(features[rows], groups[rows], unseen, labels, rows)

    own = np.arange(len(embeddings))
    named_points = shapes(embeddings, held_out.name_index, named)
    texts = _texts(held_out, named=named)
    pictured_points = shapes(embeddings, own, pictured)
    images = shapes(held_out.image_features, own, pictured)
    return {
        "points_to_text": (named_points, texts),
        "text_to_points": (texts, named_points),
        "points_to_image": (pictured_points, images),
        "image_to_points": (images, pictured_points),
    }


def _texts(held_out: held_out_split.HeldOut, *, named: np.ndarray) -> Items:
    """Returns the distinct names; a name has a class if all shapes of that name share it."""
    count = len(held_out.text_names)
    names, labels = held_out.name_index[named], held_out.labels[named]
    lowest, highest = np.full(count, np.iinfo(np.int32).max), np.full(count, -1)
    np.minimum.at(lowest, names, labels)
    np.maximum.at(highest, names, labels)
    unseen = np.zeros(count, dtype=bool)
    unseen[names[held_out.unseen[named]]] = True
    return Items(
        held_out.text_features,
        np.arange(count),
        unseen,
        np.where(lowest == highest, highest, -1),
        # Every distinct name is that of a shape, so all of them occur here.
        named[np.unique(names, return_index=True)[1]],
    )


def points(embeddings: np.ndarray, held_out: held_out_split.HeldOut) -> Items:
    """Returns all shapes, as queries or as a gallery.

    Args:
      embeddings: [count, dim], one per shape of `held_out`, in its order; in any space.
      held_out: held-out split.
    """
    own = np.arange(len(embeddings))
    return Items(np.asarray(embeddings), own, held_out.unseen, held_out.labels, own)


def class_directions(
    embeddings: np.ndarray, held_out: held_out_split.HeldOut
) -> dict[str, tuple[Items, Items]]:
    """Returns queries and gallery of the directions whose correct answers only a class defines.

    Args:
      embeddings: [count, dim], one per shape of `held_out`, in its order.
      held_out: held-out split.
    """
    shapes = points(embeddings, held_out)
    count = len(held_out.class_names)
    names = Items(
        held_out.class_features,
        np.arange(count),
        np.zeros(count, dtype=bool),
        np.arange(count),
        np.full(count, -1),
    )
    return {"points_to_points": (shapes, shapes), "class_to_points": (names, shapes)}
