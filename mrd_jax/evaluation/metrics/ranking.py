# SPDX-License-Identifier: Apache-2.0
"""Retrieval metrics in a gallery by cosine similarity, in numpy, a chunk of queries at a time.

The rules of `classification` hold: ties count against the model, and non-finite features are an
error. Galleries may be large, because only the cosines of one chunk of queries exist at a time.
"""

import numpy as np

from mrd_jax.evaluation.metrics import classification

# Cosines that differ by less count as tied. Float32 rounding changes a cosine of unit rows by about
# 1e-7, and by different amounts in different BLAS kernels; without this margin, a model that gives
# every shape the same embedding would be ranked by rounding errors.
COSINE_TIE = 1e-6


def retrieval_ranks(
    queries: np.ndarray,
    gallery: np.ndarray,
    *,
    query_groups: np.ndarray,
    gallery_groups: np.ndarray,
    chunk: int = 512,
) -> np.ndarray:
    """Returns the rank of the best relevant item for each query, by cosine similarity.

    An item is relevant if its group is that of the query, so a query may have several relevant
    items. Irrelevant items that tie with the best relevant one (`COSINE_TIE`) rank before it.

    Args:
      queries: [count, dim]; their length does not matter.
      gallery: [items, dim]; their length does not matter.
      query_groups: int [count].
      gallery_groups: int [items].
      chunk: number of queries scored at a time. Memory is a few arrays of [chunk, items], each
        96 MB at 46,832 items and the default. Results are the same up to float32 rounding of a
        cosine.

    Returns:
      int64 [count], 1 is the best.

    Raises:
      ValueError: array shapes disagree, a feature is non-finite, chunk is below 1, or a query has
        no relevant item.
    """
    queries, gallery = classification.normalise(queries), classification.normalise(gallery)
    query_groups, gallery_groups = np.asarray(query_groups), np.asarray(gallery_groups)
    _check_retrieval(queries, gallery, query_groups=query_groups, gallery_groups=gallery_groups)
    ranks = np.empty(len(queries), dtype=np.int64)
    for rows in classification.chunks(len(queries), size=chunk):
        cosines = queries[rows] @ gallery.T
        relevant = query_groups[rows, None] == gallery_groups[None, :]
        best = np.max(cosines, axis=1, initial=-np.inf, where=relevant)
        ahead = ~relevant & (cosines >= best[:, None] - COSINE_TIE)
        ranks[rows] = 1 + np.sum(ahead, axis=1)
    return ranks


def average_precisions(
    queries: np.ndarray,
    gallery: np.ndarray,
    *,
    query_groups: np.ndarray,
    gallery_groups: np.ndarray,
    own: np.ndarray | None = None,
    chunk: int = 512,
) -> np.ndarray:
    """Returns the average precision of each query, by cosine similarity.

    It is the mean, over the relevant items of a query, of the precision at their ranks. As in
    `retrieval_ranks`, irrelevant items that tie with a relevant one rank before it.

    Args:
      queries: [count, dim]; their length does not matter.
      gallery: [items, dim]; their length does not matter.
      query_groups: int [count].
      gallery_groups: int [items]; an item is relevant if its group is that of the query.
      own: int [count], index of the item that is the query itself, which is excluded; None if the
        queries are not in the gallery.
      chunk: number of queries scored at a time, see `retrieval_ranks`.

    Returns:
      float64 [count], between 0 and 1.

    Raises:
      ValueError: array shapes disagree, a feature is non-finite, chunk is below 1, or a query has
        no relevant item.
    """
    queries, gallery = classification.normalise(queries), classification.normalise(gallery)
    query_groups, gallery_groups = np.asarray(query_groups), np.asarray(gallery_groups)
    _check_retrieval(
        queries, gallery, query_groups=query_groups, gallery_groups=gallery_groups, own=own
    )
    precisions = np.empty(len(queries))
    for rows in classification.chunks(len(queries), size=chunk):
        cosines = queries[rows] @ gallery.T
        relevant = query_groups[rows, None] == gallery_groups[None, :]
        if own is not None:
            itself = np.arange(len(cosines)), own[rows]
            cosines[itself], relevant[itself] = -np.inf, False
        # Cosines of irrelevant items in ascending order; -inf for all other items.
        irrelevant = np.where(relevant, -np.inf, cosines)
        irrelevant.sort(axis=1)
        for i, (row, mask) in enumerate(zip(cosines, relevant, strict=True), start=rows.start):
            hits = np.sort(row[mask])[::-1]
            ahead = len(row) - np.searchsorted(irrelevant[i - rows.start], hits - COSINE_TIE)
            hit_count = np.arange(1, len(hits) + 1)
            precisions[i] = np.mean(hit_count / (hit_count + ahead))
    return precisions


def relevant_counts(
    query_groups: np.ndarray, *, gallery_groups: np.ndarray, own: np.ndarray | None = None
) -> np.ndarray:
    """Counts the items of the gallery that are relevant to each query.

    Args:
      query_groups: int [count].
      gallery_groups: int [items].
      own: int [count], index of the item that is the query itself, which does not count; None if
        the queries are not in the gallery.

    Returns:
      int64 [count].
    """
    groups, counts = np.unique(gallery_groups, return_counts=True)
    known = np.isin(query_groups, groups)
    relevant = np.zeros(len(query_groups), dtype=np.int64)
    relevant[known] = counts[np.searchsorted(groups, query_groups[known])]
    return relevant if own is None else relevant - (gallery_groups[own] == query_groups)


def _check_retrieval(
    queries: np.ndarray,
    gallery: np.ndarray,
    *,
    query_groups: np.ndarray,
    gallery_groups: np.ndarray,
    own: np.ndarray | None = None,
) -> None:
    """Raises ValueError if array shapes disagree or a query has no relevant item."""
    if queries.ndim != 2 or gallery.ndim != 2 or queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"queries {queries.shape} and gallery {gallery.shape}: expected one common dim"
        )
    if query_groups.shape != queries.shape[:1] or gallery_groups.shape != gallery.shape[:1]:
        raise ValueError(
            f"groups {query_groups.shape} and {gallery_groups.shape} for {len(queries)} queries "
            f"and {len(gallery)} items: expected one group each"
        )
    if own is not None and np.shape(own) != queries.shape[:1]:
        raise ValueError(
            f"own has shape {np.shape(own)} for {len(queries)} queries: expected one item each"
        )
    counts = relevant_counts(query_groups, gallery_groups=gallery_groups, own=own)
    lonely = np.flatnonzero(counts == 0)
    if len(lonely):
        raise ValueError(
            f"{len(lonely)} queries have no relevant item in the gallery, first is row {lonely[0]} "
            f"of group {query_groups[lonely[0]]}: exclude them or add items of their groups"
        )
