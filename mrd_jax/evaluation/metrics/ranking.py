# SPDX-License-Identifier: Apache-2.0
"""Measures of search in a gallery by cosine, a chunk of queries at a time: numpy only.

The rules of `metrics` hold: ties against the model, and what is not finite is an error. A gallery
of any size fits: of the matrix of cosines, only the rows of one chunk exist at a time.
"""

import numpy as np

from mrd_jax.evaluation.metrics import classification

# Cosines closer than this count as equal. Float32 rounding moves a cosine of unit rows by about
# 1e-7, and by different amounts in different BLAS kernels; without the margin, a model that gives
# every shape the same embedding would be ranked by rounding noise.
COSINE_TIE = 1e-6


def retrieval_ranks(
    queries: np.ndarray,
    gallery: np.ndarray,
    *,
    query_groups: np.ndarray,
    gallery_groups: np.ndarray,
    chunk: int = 512,
) -> np.ndarray:
    """Place at which each query first meets an item of its own group, by cosine.

    An item is relevant when its group is the query's, so a query may have several right answers;
    the first one found counts. Other items that tie with it (`COSINE_TIE`) are placed before it.

    Args:
      queries: [count, dim], any length.
      gallery: [items, dim], any length.
      query_groups: int [count].
      gallery_groups: int [items].
      chunk: queries scored at a time; memory is a few times chunk * items floats, each of them
        96 MB at 46,832 items. Results do not depend on it but for float32 rounding of a cosine.

    Returns:
      int64 [count], 1 is the best.

    Raises:
      ValueError: where shapes disagree, chunk is below 1, or a query has no relevant item.
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
    """Mean precision of each query over the places at which its relevant items are met, by cosine.

    As in `retrieval_ranks`, irrelevant items that tie with a relevant one are placed before it.

    Args:
      queries: [count, dim], any length.
      gallery: [items, dim], any length.
      query_groups: int [count].
      gallery_groups: int [items]; an item is relevant when its group is the query's.
      own: int [count], the item that is the query itself and is left out of its search; None
        where the gallery holds other things than the queries.
      chunk: as in `retrieval_ranks`.

    Returns:
      float64 [count], between 0 and 1.

    Raises:
      ValueError: where shapes disagree, chunk is below 1, or a query has no relevant item.
    """
    queries, gallery = classification.normalise(queries), classification.normalise(gallery)
    query_groups, gallery_groups = np.asarray(query_groups), np.asarray(gallery_groups)
    _check_retrieval(
        queries, gallery, query_groups=query_groups, gallery_groups=gallery_groups, own=own
    )
    found = np.empty(len(queries))
    for rows in classification.chunks(len(queries), size=chunk):
        cosines = queries[rows] @ gallery.T
        relevant = query_groups[rows, None] == gallery_groups[None, :]
        if own is not None:
            itself = np.arange(len(cosines)), own[rows]
            cosines[itself], relevant[itself] = -np.inf, False
        # Ascending; places that are not an irrelevant item hold -inf, below every cosine.
        others = np.where(relevant, -np.inf, cosines)
        others.sort(axis=1)
        for i, (row, mask) in enumerate(zip(cosines, relevant, strict=True), start=rows.start):
            right = np.sort(row[mask])[::-1]
            before = len(row) - np.searchsorted(others[i - rows.start], right - COSINE_TIE)
            places = np.arange(1, len(right) + 1)
            found[i] = np.mean(places / (places + before))
    return found


def relevant_counts(
    query_groups: np.ndarray, *, gallery_groups: np.ndarray, own: np.ndarray | None = None
) -> np.ndarray:
    """How many items of the gallery are relevant to each query.

    Args:
      query_groups: int [count].
      gallery_groups: int [items].
      own: int [count], the item that is the query itself and does not count, or None.

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
    """Raises where the sizes disagree or a query has no right answer in the gallery."""
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
        raise ValueError(f"own has shape {np.shape(own)} for {len(queries)} queries: one item each")
    counts = relevant_counts(query_groups, gallery_groups=gallery_groups, own=own)
    lonely = np.flatnonzero(counts == 0)
    if len(lonely):
        raise ValueError(
            f"{len(lonely)} queries have no relevant item in the gallery, first is row {lonely[0]} "
            f"of group {query_groups[lonely[0]]}: leave them out or add their items"
        )
