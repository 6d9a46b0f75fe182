# SPDX-License-Identifier: Apache-2.0
"""Clusters the shapes of an index by their embeddings."""

import collections
import dataclasses
import re
import warnings
from collections.abc import Sequence

import numpy as np
from scipy.cluster import vq

from mrd_jax.search import live_shapes, shape_index

# Shapes that centres are fitted to, and shapes that the silhouette is measured on.
_FITTED, _MEASURED = 20_000, 4_000
# Numbers of clusters to choose from.
CHOICES = (2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32, 40, 48, 64)
_ROWS, _RESTARTS, _ITERATIONS = 8_192, 3, 50
_WORD = re.compile(r"[^\W\d_]{3,}")


@dataclasses.dataclass(frozen=True)
class Clusters:
    """Clusters of the shapes of an index, the largest first.

    Attributes:
      centres: float32 [clusters, dim], unit norm.
      of: int64 [shapes], cluster of each shape.
      similarity: float32 [shapes], cosine similarity of each shape with the centre of its cluster.
      silhouettes: mean silhouette by the number of clusters that was tried.
    """

    centres: np.ndarray
    of: np.ndarray
    similarity: np.ndarray
    silhouettes: dict[int, float]

    def members(self, cluster: int) -> np.ndarray:
        """Returns the rows of the shapes of a cluster, the nearest to its centre first."""
        rows = np.flatnonzero(self.of == cluster)
        return rows[np.argsort(-self.similarity[rows], kind="stable")]


def find(index: shape_index.ShapeIndex, *, k: int = 0, seed: int = 0) -> Clusters:
    """Clusters shapes by k-means of their embeddings.

    Centres are fitted to a random sample of at most 20,000 shapes, and all shapes are assigned in
    blocks, so memory is flat.

    Args:
      index: an open index.
      k: number of clusters; 0 for that of `CHOICES` with the largest mean silhouette. There are
        fewer if fewer embeddings differ.
      seed: seed of the sample and of the starting centres.

    Raises:
      ValueError: the index has fewer than `k` shapes, or fewer than 3.
    """
    if len(index) < max(k, 3):
        raise ValueError(
            f"the index has {len(index)} shapes; expected at least {max(k, 3)} for "
            f"{k or 'two or more'} clusters"
        )
    rng = np.random.default_rng(seed)
    sample = np.arange(len(index))
    if len(index) > _FITTED:
        sample = np.sort(rng.choice(len(index), _FITTED, replace=False))
    rows = _unit(np.asarray(index.rows[sample], np.float32))
    silhouettes: dict[int, float] = {}
    best: np.ndarray | None = None
    for count in [k] if k else [count for count in CHOICES if count < len(rows)]:
        centres = _fit(rows, count, rng)
        silhouettes[count] = silhouette(rows[:: -(-len(rows) // _MEASURED)], centres)
        if best is None or silhouettes[count] >= max(silhouettes.values()):
            best = centres
    assert best is not None
    of, similarity = _assign(index.rows, best)
    order = np.argsort(-np.bincount(of, minlength=len(best)), kind="stable")
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return Clusters(best[order], rank[of], similarity, silhouettes)


def silhouette(rows: np.ndarray, centres: np.ndarray) -> float:
    """Returns the mean silhouette with respect to the centres: (b - a) / max(a, b).

    Args:
      rows: [shapes, dim], unit norm.
      centres: [clusters, dim], unit norm, two or more.

    Returns:
      Mean over the shapes, where a and b are the cosine distances to the nearest centre and to the
      second; 0 to 1. 0 for a single centre.
    """
    if len(centres) < 2:
        return 0.0
    distances = np.sort(1 - rows @ centres.T, axis=1)[:, :2]
    return float(np.mean(1 - distances[:, 0] / np.maximum(distances[:, 1], 1e-12)))


def name_by_shapes(
    index: shape_index.ShapeIndex, clusters: Clusters, *, count: int
) -> list[list[str]]:
    """Names clusters by the words of the names of their shapes that are more frequent in them.

    Args:
      index: an open index.
      clusters: clusters of its shapes.
      count: number of words per cluster.

    Returns:
      Words of each cluster, best first; fewer where shapes have no names.
    """
    by_cluster: list[collections.Counter[str]] = [collections.Counter() for _ in clusters.centres]
    total: collections.Counter[str] = collections.Counter()
    for item, cluster in zip(index.items, clusters.of, strict=True):
        words = {word.lower() for word in _WORD.findall(item.name)}
        by_cluster[cluster].update(words)
        total.update(words)
    sizes = np.bincount(clusters.of, minlength=len(clusters.centres))
    return [
        sorted(words, key=lambda w: (-words[w] / size * words[w] / total[w], w))[:count]
        for words, size in zip(by_cluster, sizes, strict=True)
    ]


def unique_names(names: Sequence[str]) -> list[str]:
    """Numbers names that occur more than once: "chair", "chair 2"."""
    seen: collections.Counter[str] = collections.Counter()
    unique = []
    for name in names:
        seen[name] += 1
        unique.append(f"{name} {seen[name]}" if seen[name] > 1 else name)
    return unique


def _fit(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns the centres of the best of several starts of k-means."""
    best, error = rows[:count], np.inf
    for _ in range(_RESTARTS):
        with warnings.catch_warnings():
            # An empty cluster keeps its centre, and is dropped below if it stays empty.
            warnings.filterwarnings("ignore", message=".*clusters is empty")
            starts = _starts(rows, count, rng)
            centres, of = vq.kmeans2(rows, starts, iter=_ITERATIONS, minit="matrix")
        centres = _unit(centres[np.unique(of)])
        found = float(np.mean(1 - (rows @ centres.T).max(axis=1)))
        if found < error:
            best, error = centres, found
    return best


def _starts(rows: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Returns starting centres by k-means++; scipy's fails if fewer rows than `count` differ."""
    chosen = [int(rng.integers(len(rows)))]
    nearest = np.full(len(rows), np.inf)
    while len(chosen) < count:
        nearest = np.minimum(nearest, np.maximum(1 - rows @ rows[chosen[-1]], 0))
        total = nearest.sum()
        chosen.append(int(rng.choice(len(rows), p=nearest / total if total else None)))
    return rows[chosen]


def _assign(
    rows: np.ndarray | live_shapes.Column, centres: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Returns the nearest centre of each row, and the similarity with it."""
    of, similarity = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    for start in range(0, len(rows), _ROWS):
        scores = _unit(np.asarray(rows[start : start + _ROWS], np.float32)) @ centres.T
        of[start : start + _ROWS] = scores.argmax(axis=1)
        similarity[start : start + _ROWS] = scores.max(axis=1)
    return of, similarity


def _unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
