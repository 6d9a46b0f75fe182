# SPDX-License-Identifier: Apache-2.0
"""Retrieval among shapes, and between shapes and the teacher's texts and images.

Recall and precision depend on the gallery, so a figure may be compared only with one over the same
dataset folder: not between folds, not with the share of another test set, not with published
tables. A query by name has several right answers where shapes share a name; the best one counts.
"""

import dataclasses

import numpy as np

from mrd_jax.evaluation import held_out_split
from mrd_jax.evaluation.metrics import classification, ranking

# As in the retrieval tables of this field.
RECALL_AT = (1, 5, 10)


def retrieval(
    embeddings: np.ndarray,
    held_out: held_out_split.HeldOut,
    *,
    by_class: bool = True,
    chunk: int = 512,
) -> dict[str, float]:
    """How well shapes find their name, their picture and their kind among all, and the reverse.

    A shape and a text belong together where the text is the shape's name; a shape and an image
    where the image is the shape's own. The figures below `unseen/` ask only with shapes, names
    and pictures whose exact name never occurs in training; the gallery stays whole, so that the
    two figures differ by who asks and not by how hard the gallery is.

    By class, everything of the query's class is a right answer, and what is of unknown class is
    left out: it might be one. A text has the class of the shapes that bear it, where they agree.
    Shapes among shapes do not find themselves; a shape's own picture and name do count as found.

    Args:
      embeddings: [count, dim], one per shape of held_out and in its order, any length.
      held_out: the shapes; those without a name or a picture are left out of its directions.
      by_class: measure the mean average precisions too, which sort the gallery for every query.
      chunk: queries scored at a time, see `ranking.retrieval_ranks`.

    Returns:
      For each direction of points_to_text, text_to_points, points_to_image and image_to_points,
      as `DIRECTION/KEY` and, where some name is unseen, `unseen/DIRECTION/KEY`: recall@1,
      recall@5, recall@10 (shares between 0 and 1), median_rank (1 is the best), and the number
      of queries and the size of the gallery. For those, points_to_points and class_to_points
      (by the feature of the class's name), where classes are known: `DIRECTION/map`, the mean
      average precision by class; `map_per_class`, where every class weighs the same; and
      map_queries, map_gallery and map_lonely, the number of queries that are left out because
      nothing else of their class is in the gallery.

    Raises:
      ValueError: where the embeddings do not fit the held-out shapes.
    """
    if len(embeddings) != len(held_out.ids):
        raise ValueError(
            f"{len(embeddings)} embeddings for {len(held_out.ids)} held-out shapes: expected one "
            "each, in their order"
        )
    embeddings = np.asarray(embeddings)
    directions = _directions(embeddings, held_out)
    found: dict[str, float] = {}
    for direction, (queries, gallery) in directions.items():
        if not len(queries.features):
            continue
        ranks = ranking.retrieval_ranks(
            queries.features,
            gallery.features,
            query_groups=queries.groups,
            gallery_groups=gallery.groups,
            chunk=chunk,
        )
        found |= _summary(direction, ranks=ranks, gallery=len(gallery.features))
        if np.any(queries.unseen):
            found |= _summary(
                f"unseen/{direction}", ranks=ranks[queries.unseen], gallery=len(gallery.features)
            )
    if not by_class:
        return found
    directions |= _class_directions(embeddings, held_out)
    for direction, (queries, gallery) in directions.items():
        found |= _by_class(direction, queries, gallery=gallery, chunk=chunk)
    return found


def nearest_neighbours(
    embeddings: np.ndarray,
    gallery: np.ndarray,
    *,
    count: int,
    skip_self: bool = False,
    chunk: int = 512,
) -> tuple[np.ndarray, np.ndarray]:
    """The items of a gallery that are most like each query, by cosine.

    Args:
      embeddings: [count, dim], the queries.
      gallery: [items, dim].
      count: how many to return; fewer where the gallery is smaller.
      skip_self: for a gallery that is the queries: leaves item i out for query i.
      chunk: queries scored at a time, see `ranking.retrieval_ranks`.

    Returns:
      int64 [count, neighbours] indices, the nearest first, and their float32 cosines.
    """
    queries, gallery = classification.normalise(embeddings), classification.normalise(gallery)
    kept = min(count, len(gallery) - skip_self)
    nearest = np.empty((len(queries), kept), dtype=np.int64)
    found = np.empty((len(queries), kept), dtype=np.float32)
    for rows in classification.chunks(len(queries), size=chunk):
        cosines = queries[rows] @ gallery.T
        if skip_self:
            cosines[np.arange(len(cosines)), np.arange(rows.start, rows.stop)] = -np.inf
        nearest[rows] = np.argsort(-cosines, axis=1, kind="stable")[:, :kept]
        found[rows] = np.take_along_axis(cosines, nearest[rows], axis=1)
    return nearest, found


@dataclasses.dataclass(frozen=True)
class _Side:
    """One side of a search.

    Attributes:
      features: [count, dim].
      groups: int [count], equal where two sides belong together.
      unseen: bool [count], whether the exact name never occurs in training.
      labels: int [count], the class, -1 where unknown.
    """

    features: np.ndarray
    groups: np.ndarray
    unseen: np.ndarray
    labels: np.ndarray


def _directions(
    embeddings: np.ndarray, held_out: held_out_split.HeldOut
) -> dict[str, tuple[_Side, _Side]]:
    """Pairs of (queries, gallery) by the name of the direction."""
    named = np.flatnonzero(held_out.name_index >= 0)
    pictured = np.flatnonzero(np.any(held_out.image_features != 0, axis=1))

    def shapes(features: np.ndarray, groups: np.ndarray, rows: np.ndarray) -> _Side:
        return _Side(features[rows], groups[rows], held_out.unseen[rows], held_out.labels[rows])

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


def _texts(held_out: held_out_split.HeldOut, *, named: np.ndarray) -> _Side:
    """The distinct names; a name has a class where all shapes that bear it have that one."""
    count = len(held_out.text_names)
    names, labels = held_out.name_index[named], held_out.labels[named]
    lowest, highest = np.full(count, np.iinfo(np.int32).max), np.full(count, -1)
    np.minimum.at(lowest, names, labels)
    np.maximum.at(highest, names, labels)
    unseen = np.zeros(count, dtype=bool)
    unseen[names[held_out.unseen[named]]] = True
    return _Side(
        held_out.text_features,
        np.arange(count),
        unseen,
        np.where(lowest == highest, highest, -1),
    )


def _class_directions(
    embeddings: np.ndarray, held_out: held_out_split.HeldOut
) -> dict[str, tuple[_Side, _Side]]:
    """Searches that have a right answer by class only."""
    points = _Side(embeddings, np.arange(len(embeddings)), held_out.unseen, held_out.labels)
    count = len(held_out.class_names)
    names = _Side(
        held_out.class_features, np.arange(count), np.zeros(count, dtype=bool), np.arange(count)
    )
    return {"points_to_points": (points, points), "class_to_points": (names, points)}


def _by_class(direction: str, queries: _Side, *, gallery: _Side, chunk: int) -> dict[str, float]:
    """Mean average precision by class of one direction; empty where no query has an answer."""
    items, asking = np.flatnonzero(gallery.labels >= 0), np.flatnonzero(queries.labels >= 0)
    groups = gallery.labels[items]
    # Queries that are the gallery come in its order, so query i is item i.
    own = np.arange(len(items)) if queries is gallery else None
    counts = ranking.relevant_counts(queries.labels[asking], gallery_groups=groups, own=own)
    answerable = counts > 0
    if not np.any(answerable):
        return {}
    kept = asking[answerable]
    precisions = ranking.average_precisions(
        queries.features[kept],
        gallery.features[items],
        query_groups=queries.labels[kept],
        gallery_groups=groups,
        own=None if own is None else own[answerable],
        chunk=chunk,
    )
    return {
        f"{direction}/map": float(np.mean(precisions)),
        f"{direction}/map_per_class": classification.mean_per_class(
            precisions, labels=queries.labels[kept]
        ),
        f"{direction}/map_queries": len(kept),
        f"{direction}/map_gallery": len(items),
        f"{direction}/map_lonely": len(asking) - len(kept),
    }


def _summary(prefix: str, *, ranks: np.ndarray, gallery: int) -> dict[str, float]:
    """The figures of one direction, each key below the prefix."""
    figures = {f"{prefix}/recall@{k}": classification.recall_at(ranks, k=k) for k in RECALL_AT}
    figures[f"{prefix}/median_rank"] = float(np.median(ranks))
    figures[f"{prefix}/queries"] = len(ranks)
    figures[f"{prefix}/gallery"] = gallery
    return figures
