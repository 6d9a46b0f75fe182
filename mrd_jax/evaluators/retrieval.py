# SPDX-License-Identifier: Apache-2.0
"""Retrieval between shapes and the teacher's texts and images, in both directions.

Recall depends on the size of the gallery, so a figure may be compared only with one over the same
dataset folder: not between folds, not with the share of another test set, not with published
tables. A query by name has several right answers where shapes share a name; the best one counts.
"""

import numpy as np

from mrd_jax.evaluators import held_out as held_out_lib
from mrd_jax.evaluators import metrics

# As in the retrieval tables of this field.
RECALL_AT = (1, 5, 10)


def retrieval(embeddings: np.ndarray, held_out: held_out_lib.HeldOut) -> dict[str, float]:
    """How well shapes find their name and picture among all, and the reverse.

    A shape and a text belong together where the text is the shape's name; a shape and an image
    where the image is the shape's own. The figures below `unseen/` ask only with shapes, names
    and pictures whose exact name never occurs in training; the gallery stays whole, so that the
    two figures differ by who asks and not by how hard the gallery is.

    Args:
      embeddings: [count, dim], one per shape of held_out and in its order, any length.
      held_out: the shapes; those without a name or a picture are left out of its directions.

    Returns:
      For each direction of points_to_text, text_to_points, points_to_image and image_to_points,
      as `DIRECTION/KEY` and, where some name is unseen, `unseen/DIRECTION/KEY`: recall@1,
      recall@5, recall@10 (shares between 0 and 1), median_rank (1 is the best), and the number
      of queries and the size of the gallery.

    Raises:
      ValueError: where the embeddings do not fit the held-out shapes.
    """
    if len(embeddings) != len(held_out.ids):
        raise ValueError(
            f"{len(embeddings)} embeddings for {len(held_out.ids)} held-out shapes: expected one "
            "each, in their order"
        )
    found = {}
    for direction, sides in _directions(np.asarray(embeddings), held_out).items():
        (queries, query_groups, unseen), (gallery, gallery_groups, _) = sides
        if not len(queries):
            continue
        ranks = metrics.retrieval_ranks(
            queries, gallery, query_groups=query_groups, gallery_groups=gallery_groups
        )
        found |= _summary(direction, ranks=ranks, gallery=len(gallery))
        if np.any(unseen):
            found |= _summary(f"unseen/{direction}", ranks=ranks[unseen], gallery=len(gallery))
    return found


def nearest_neighbours(
    embeddings: np.ndarray, gallery: np.ndarray, *, count: int, skip_self: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """The items of a gallery that are most like each query, by cosine.

    Args:
      embeddings: [count, dim], the queries.
      gallery: [items, dim].
      count: how many to return; fewer where the gallery is smaller.
      skip_self: for a gallery that is the queries: leaves item i out for query i.

    Returns:
      int64 [count, neighbours] indices, the nearest first, and their float32 cosines.
    """
    cosines = metrics.normalise(embeddings) @ metrics.normalise(gallery).T
    available = cosines.shape[1]
    if skip_self:
        np.fill_diagonal(cosines, -np.inf)
        available -= 1
    nearest = np.argsort(-cosines, axis=1, kind="stable")[:, : min(count, available)]
    return nearest, np.take_along_axis(cosines, nearest, axis=1)


# One side of a search: features [count, dim], groups [count], unseen [count].
_Side = tuple[np.ndarray, np.ndarray, np.ndarray]


def _directions(
    embeddings: np.ndarray, held_out: held_out_lib.HeldOut
) -> dict[str, tuple[_Side, _Side]]:
    """Pairs of (queries, gallery) by the name of the direction."""
    named = held_out.name_index >= 0
    pictured = np.any(held_out.image_features != 0, axis=1)
    own = np.arange(len(embeddings))
    unseen_names = np.zeros(len(held_out.text_names), dtype=bool)
    unseen_names[held_out.name_index[named & held_out.unseen]] = True
    named_points = (embeddings[named], held_out.name_index[named], held_out.unseen[named])
    texts = (held_out.text_features, np.arange(len(held_out.text_names)), unseen_names)
    pictured_points = (embeddings[pictured], own[pictured], held_out.unseen[pictured])
    images = (held_out.image_features[pictured], own[pictured], held_out.unseen[pictured])
    return {
        "points_to_text": (named_points, texts),
        "text_to_points": (texts, named_points),
        "points_to_image": (pictured_points, images),
        "image_to_points": (images, pictured_points),
    }


def _summary(prefix: str, *, ranks: np.ndarray, gallery: int) -> dict[str, float]:
    """The figures of one direction, each key below the prefix."""
    figures = {f"{prefix}/recall@{k}": metrics.recall_at(ranks, k=k) for k in RECALL_AT}
    figures[f"{prefix}/median_rank"] = float(np.median(ranks))
    figures[f"{prefix}/queries"] = len(ranks)
    figures[f"{prefix}/gallery"] = gallery
    return figures
