# SPDX-License-Identifier: Apache-2.0
"""Retrieval among shapes, and between shapes and the teacher's texts and images.

Recall and precision depend on the gallery. Compare them only between encoders on the same data set:
not between folds, not with another test set, and not with published tables. If several shapes share
a name, a query by that name has several correct answers, and the best-ranked one counts.
"""

import dataclasses

import numpy as np

from mrd_jax.evaluation import held_out_split
from mrd_jax.evaluation.metrics import bootstrap, classification, ranking, statistics

# Values of k in the retrieval tables of this field.
RECALL_AT = (1, 5, 10)


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
      class; if the data set has groups and the queries are shapes or their pictures, `map_low` and
      `map_high`, its 95% bootstrap interval over groups; `map_per_class`, averaged over classes
      instead of queries; `map_queries` and
      `map_gallery`; and `map_lonely`, the number of queries that are excluded because the gallery
      has no other item of their class.

    Raises:
      ValueError: the number of embeddings is not the number of held-out shapes, or an embedding is
        non-finite.
    """
    if len(embeddings) != len(held_out.ids):
        raise ValueError(
            f"{len(embeddings)} embeddings for {len(held_out.ids)} held-out shapes: expected one "
            "each, in their order"
        )
    embeddings = np.asarray(embeddings)
    directions = _directions(embeddings, held_out)
    metrics: dict[str, float] = {}
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
        metrics |= _recalls(direction, ranks=ranks, gallery=len(gallery.features))
        if np.any(queries.unseen):
            metrics |= _recalls(
                f"unseen/{direction}", ranks=ranks[queries.unseen], gallery=len(gallery.features)
            )
    if not by_class:
        return metrics
    directions |= _class_directions(embeddings, held_out)
    for direction, (queries, gallery) in directions.items():
        metrics |= _mean_average_precisions(direction, queries, gallery=gallery, chunk=chunk)
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
    points = _Items(
        vectors, np.arange(len(vectors)), held_out.unseen, held_out.labels, held_out.clusters
    )
    return _mean_average_precisions("points_to_points", points, gallery=points, chunk=chunk)


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


@dataclasses.dataclass(frozen=True)
class _Items:
    """The queries or the gallery of a search.

    Attributes:
      features: [count, dim].
      groups: int [count]; a query and an item of one group are a correct pair.
      unseen: bool [count], True for an exact name that never occurs in training.
      labels: int [count], class, -1 for an unknown class.
      clusters: int [count], group of the shape in the data set, see `HeldOut.clusters`; None if
        the data set has no groups or the items are no shapes.
    """

    features: np.ndarray
    groups: np.ndarray
    unseen: np.ndarray
    labels: np.ndarray
    clusters: np.ndarray | None = None


def _directions(
    embeddings: np.ndarray, held_out: held_out_split.HeldOut
) -> dict[str, tuple[_Items, _Items]]:
    """Returns queries and gallery by the name of the direction."""
    named = np.flatnonzero(held_out.name_index >= 0)
    pictured = np.flatnonzero(np.any(held_out.image_features != 0, axis=1))

    def shapes(features: np.ndarray, groups: np.ndarray, rows: np.ndarray) -> _Items:
        clusters = None if held_out.clusters is None else held_out.clusters[rows]
        return _Items(
            features[rows], groups[rows], held_out.unseen[rows], held_out.labels[rows], clusters
        )

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


def _texts(held_out: held_out_split.HeldOut, *, named: np.ndarray) -> _Items:
    """Returns the distinct names; a name has a class if all shapes of that name share it."""
    count = len(held_out.text_names)
    names, labels = held_out.name_index[named], held_out.labels[named]
    lowest, highest = np.full(count, np.iinfo(np.int32).max), np.full(count, -1)
    np.minimum.at(lowest, names, labels)
    np.maximum.at(highest, names, labels)
    unseen = np.zeros(count, dtype=bool)
    unseen[names[held_out.unseen[named]]] = True
    return _Items(
        held_out.text_features,
        np.arange(count),
        unseen,
        np.where(lowest == highest, highest, -1),
    )


def _class_directions(
    embeddings: np.ndarray, held_out: held_out_split.HeldOut
) -> dict[str, tuple[_Items, _Items]]:
    """Returns the directions whose correct answers are defined by class only."""
    points = _Items(
        embeddings,
        np.arange(len(embeddings)),
        held_out.unseen,
        held_out.labels,
        held_out.clusters,
    )
    count = len(held_out.class_names)
    names = _Items(
        held_out.class_features, np.arange(count), np.zeros(count, dtype=bool), np.arange(count)
    )
    return {"points_to_points": (points, points), "class_to_points": (names, points)}


def _mean_average_precisions(
    direction: str, queries: _Items, *, gallery: _Items, chunk: int
) -> dict[str, float]:
    """Computes the metrics by class of one direction; empty if no query has a correct answer."""
    items = np.flatnonzero(gallery.labels >= 0)
    labelled = np.flatnonzero(queries.labels >= 0)
    groups = gallery.labels[items]
    # Queries that are the gallery come in its order, so query i is item i.
    own = np.arange(len(items)) if queries is gallery else None
    counts = ranking.relevant_counts(queries.labels[labelled], gallery_groups=groups, own=own)
    answerable = counts > 0
    if not np.any(answerable):
        return {}
    kept = labelled[answerable]
    precisions = ranking.average_precisions(
        queries.features[kept],
        gallery.features[items],
        query_groups=queries.labels[kept],
        gallery_groups=groups,
        own=None if own is None else own[answerable],
        chunk=chunk,
    )
    ends = {}
    if queries.clusters is not None:
        groups = queries.clusters[kept]
        if len(np.unique(groups)) >= statistics.MIN_GROUPS:
            interval = bootstrap.mean_interval([precisions], groups=[groups])
            ends = {f"{direction}/map_low": interval.low, f"{direction}/map_high": interval.high}
    return ends | {
        f"{direction}/map": float(np.mean(precisions)),
        f"{direction}/map_per_class": classification.mean_per_class(
            precisions, labels=queries.labels[kept]
        ),
        f"{direction}/map_queries": len(kept),
        f"{direction}/map_gallery": len(items),
        f"{direction}/map_lonely": len(labelled) - len(kept),
    }


def _recalls(prefix: str, *, ranks: np.ndarray, gallery: int) -> dict[str, float]:
    """Computes the recalls and the median rank of one direction, with the prefix in each key."""
    metrics = {f"{prefix}/recall@{k}": classification.recall_at(ranks, k=k) for k in RECALL_AT}
    metrics[f"{prefix}/median_rank"] = float(np.median(ranks))
    metrics[f"{prefix}/queries"] = len(ranks)
    metrics[f"{prefix}/gallery"] = gallery
    return metrics
