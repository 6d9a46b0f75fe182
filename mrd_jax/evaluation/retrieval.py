# SPDX-License-Identifier: Apache-2.0
"""Retrieval among shapes, and between shapes and the teacher's texts and images.

Recall and precision depend on the gallery. Compare them only between encoders on the same data set:
not between folds, not with another test set, and not with published tables. If several shapes share
a name, a query by that name has several correct answers, and the best-ranked one counts.
"""

from typing import NamedTuple

import numpy as np

from mrd_jax.evaluation import held_out_split, retrieval_items
from mrd_jax.evaluation.metrics import bootstrap, classification, ranking, statistics

# Values of k in the retrieval tables of this field.
RECALL_AT = (1, 5, 10)


class Ranks(NamedTuple):
    """Ranks of the correct answers of one direction, query by query.

    Attributes:
      ranks: int64 [queries], 1 is the best.
      shapes: int64 [queries], index of the shape that a query belongs to; for a name, of the first
        shape that has it.
      unseen: bool [queries], True for an exact name that never occurs in training.
      gallery: number of items.
    """

    ranks: np.ndarray
    shapes: np.ndarray
    unseen: np.ndarray
    gallery: int


class Precisions(NamedTuple):
    """Average precisions by class of one direction, query by query.

    Attributes:
      precisions: float64 [queries], between 0 and 1.
      shapes: int64 [queries], see `Ranks`; for the name of a class, -1.
      labels: int [queries], class of each query.
      gallery: number of items of known class.
      lonely: number of queries that are excluded because the gallery has no other item of their
        class.
    """

    precisions: np.ndarray
    shapes: np.ndarray
    labels: np.ndarray
    gallery: int
    lonely: int


def retrieval(
    embeddings: np.ndarray,
    held_out: held_out_split.HeldOut,
    *,
    by_class: bool = True,
    chunk: int = 512,
) -> dict[str, float]:
    """Computes recall between shapes, names and pictures, and mean average precision by class.

    For recall, the correct answer to a shape is its own name or its own picture, and the reverse.
    Metrics under `unseen/` use as queries only shapes, names and pictures whose exact name never
    occurs in training. Their gallery is still the whole split, so that the difference between the
    two is due to the queries and not to the size of the gallery.

    For mean average precision, everything of the query's class is a correct answer. Items of
    unknown class are excluded, because they might be correct answers. A name has the class of the
    shapes that have this name, if they agree. A shape is not an answer to itself; its own picture
    and its own name are.

    Args:
      embeddings: [count, dim], one per shape of `held_out`, in its order; their length does not
        matter.
      held_out: held-out split; shapes without a name or a picture are excluded from the directions
        that need it.
      by_class: compute mean average precision too, which sorts the gallery for every query.
      chunk: number of queries scored at a time, see `ranking.retrieval_ranks`.

    Returns:
      For each of the directions `points_to_text`, `text_to_points`, `points_to_image` and
      `image_to_points`, as `DIRECTION/KEY` and, if some name is unseen, `unseen/DIRECTION/KEY`:
      `recall@1`, `recall@5` and `recall@10`, fractions between 0 and 1; `median_rank`, 1 is the
      best; and `queries` and `gallery`, the numbers of queries and of items.

      If classes are known, for the same directions, `points_to_points` and `class_to_points` (a
      query is the text feature of a class name): `DIRECTION/map`, the mean average precision by
      class; if the queries belong to shapes and the data set has groups, `map_low` and `map_high`,
      its 95% bootstrap interval over groups; `map_per_class`, averaged over classes instead of
      queries; `map_queries` and
      `map_gallery`; and `map_lonely`, the number of queries that are excluded because the gallery
      has no other item of their class.

    Raises:
      ValueError: the number of embeddings is not the number of held-out shapes, or an embedding is
        non-finite.
    """
    metrics: dict[str, float] = {}
    for direction, found in own_ranks(embeddings, held_out, chunk=chunk).items():
        metrics |= _recalls(direction, found.ranks, gallery=found.gallery)
        if np.any(found.unseen):
            metrics |= _recalls(
                f"unseen/{direction}", found.ranks[found.unseen], gallery=found.gallery
            )
    if by_class:
        for direction, answered in class_precisions(embeddings, held_out, chunk=chunk).items():
            metrics |= _mean_average_precisions(direction, answered, held_out)
    return metrics


def among_shapes(
    vectors: np.ndarray, held_out: held_out_split.HeldOut, *, chunk: int = 512
) -> dict[str, float]:
    """Computes the direction `points_to_points` of `retrieval` alone.

    Args:
      vectors: [count, dim], one per shape of `held_out`, in its order; in any space.
      held_out: held-out split.
      chunk: number of queries scored at a time.
    """
    answered = shape_precisions(vectors, held_out, chunk=chunk)
    if not len(answered.precisions):
        return {}
    return _mean_average_precisions("points_to_points", answered, held_out)


def shape_precisions(
    vectors: np.ndarray, held_out: held_out_split.HeldOut, *, chunk: int = 512
) -> Precisions:
    """Computes average precisions of shapes among shapes of their class, as `retrieval` describes.

    Args:
      vectors: [count, dim], one per shape of `held_out`, in its order; in any space.
      held_out: held-out split.
      chunk: number of queries scored at a time.
    """
    points = retrieval_items.points(vectors, held_out)
    return _precisions(points, gallery=points, chunk=chunk)


def own_ranks(
    embeddings: np.ndarray, held_out: held_out_split.HeldOut, *, chunk: int = 512
) -> dict[str, Ranks]:
    """Ranks a shape's own name and picture, and the reverse, as `retrieval` describes.

    Args:
      embeddings: [count, dim], one per shape of `held_out`, in its order.
      held_out: held-out split.
      chunk: number of queries scored at a time.

    Returns:
      Ranks by direction; a direction without queries is missing.

    Raises:
      ValueError: as `retrieval`.
    """
    found = {}
    for direction, (queries, gallery) in retrieval_items.directions(embeddings, held_out).items():
        if len(queries.features):
            ranks = ranking.retrieval_ranks(
                queries.features,
                gallery.features,
                query_groups=queries.groups,
                gallery_groups=gallery.groups,
                chunk=chunk,
            )
            found[direction] = Ranks(ranks, queries.shapes, queries.unseen, len(gallery.features))
    return found


def class_precisions(
    embeddings: np.ndarray, held_out: held_out_split.HeldOut, *, chunk: int = 512
) -> dict[str, Precisions]:
    """Computes average precisions by class, as `retrieval` describes.

    Args:
      embeddings: [count, dim], one per shape of `held_out`, in its order.
      held_out: held-out split.
      chunk: number of queries scored at a time.

    Returns:
      Precisions by direction; a direction in which no query has a correct answer is missing.

    Raises:
      ValueError: as `retrieval`.
    """
    directions = retrieval_items.directions(
        embeddings, held_out
    ) | retrieval_items.class_directions(embeddings, held_out)
    found = {}
    for direction, (queries, gallery) in directions.items():
        precisions = _precisions(queries, gallery=gallery, chunk=chunk)
        if len(precisions.precisions):
            found[direction] = precisions
    return found


def nearest_neighbours(
    embeddings: np.ndarray,
    gallery: np.ndarray,
    *,
    count: int,
    skip_self: bool = False,
    chunk: int = 512,
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest items of a gallery to each query, by cosine similarity.

    Args:
      embeddings: [queries, dim]; their length does not matter.
      gallery: [items, dim]; their length does not matter.
      count: number of neighbours per query; at most the number of items is returned.
      skip_self: exclude item i from the neighbours of query i, for a gallery that is the queries.
      chunk: number of queries scored at a time, see `ranking.retrieval_ranks`.

    Returns:
      Indices, int64 [queries, neighbours], the nearest first, and their cosines, float32.
    """
    queries, gallery = classification.normalise(embeddings), classification.normalise(gallery)
    neighbours = min(count, len(gallery) - skip_self)
    nearest = np.empty((len(queries), neighbours), dtype=np.int64)
    nearest_cosines = np.empty((len(queries), neighbours), dtype=np.float32)
    for rows in classification.chunks(len(queries), size=chunk):
        cosines = queries[rows] @ gallery.T
        if skip_self:
            cosines[np.arange(len(cosines)), np.arange(rows.start, rows.stop)] = -np.inf
        nearest[rows] = np.argsort(-cosines, axis=1, kind="stable")[:, :neighbours]
        nearest_cosines[rows] = np.take_along_axis(cosines, nearest[rows], axis=1)
    return nearest, nearest_cosines


def _precisions(
    queries: retrieval_items.Items, *, gallery: retrieval_items.Items, chunk: int
) -> Precisions:
    """Computes the average precisions of one direction, of the queries with a correct answer."""
    items = np.flatnonzero(gallery.labels >= 0)
    labelled = np.flatnonzero(queries.labels >= 0)
    groups = gallery.labels[items]
    # Queries that are the gallery come in its order, so query i is item i.
    own = np.arange(len(items)) if queries is gallery else None
    counts = ranking.relevant_counts(queries.labels[labelled], gallery_groups=groups, own=own)
    answerable = counts > 0
    kept = labelled[answerable]
    precisions = ranking.average_precisions(
        queries.features[kept],
        gallery.features[items],
        query_groups=queries.labels[kept],
        gallery_groups=groups,
        own=None if own is None else own[answerable],
        chunk=chunk,
    )
    return Precisions(
        precisions,
        queries.shapes[kept],
        queries.labels[kept],
        len(items),
        len(labelled) - len(kept),
    )


def _mean_average_precisions(
    direction: str, answered: Precisions, held_out: held_out_split.HeldOut
) -> dict[str, float]:
    """Computes the metrics by class of one direction."""
    metrics = {
        f"{direction}/map": float(np.mean(answered.precisions)),
        f"{direction}/map_per_class": classification.mean_per_class(
            answered.precisions, labels=answered.labels
        ),
        f"{direction}/map_queries": len(answered.precisions),
        f"{direction}/map_gallery": answered.gallery,
        f"{direction}/map_lonely": answered.lonely,
    }
    if held_out.clusters is None or np.any(answered.shapes < 0):
        return metrics
    groups = held_out.clusters[answered.shapes]
    if len(np.unique(groups)) < statistics.MIN_GROUPS:
        return metrics
    interval = bootstrap.mean_interval([answered.precisions], groups=[groups])
    return metrics | {f"{direction}/map_low": interval.low, f"{direction}/map_high": interval.high}


def _recalls(prefix: str, ranks: np.ndarray, *, gallery: int) -> dict[str, float]:
    """Computes the recalls and the median rank of one direction, with the prefix in each key."""
    metrics = {f"{prefix}/recall@{k}": classification.recall_at(ranks, k=k) for k in RECALL_AT}
    metrics[f"{prefix}/median_rank"] = float(np.median(ranks))
    metrics[f"{prefix}/queries"] = len(ranks)
    metrics[f"{prefix}/gallery"] = gallery
    return metrics
