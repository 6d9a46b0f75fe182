# SPDX-License-Identifier: Apache-2.0
"""Nearest-neighbour baseline: the class of the training shape with the most similar geometry.

Two shapes are compared by the cosine of their occupancy grids and the cosine of their colour
histograms, without any learned feature and without the teacher. It tells how far a test set can be
solved by looking up near-duplicates of its shapes in the training split.
"""

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np

from mrd_jax.evaluation.metrics import classification

# Cells along each side of the cube around the unit sphere, and bins per colour channel.
CELLS, BINS = 16, 4
# Weights of the colours that `choose_weight` compares; the rest is the weight of the geometry.
COLOUR_WEIGHTS = (0.0, 0.1, 0.25, 0.5, 0.75, 0.9)
# Training shapes on which the weight is chosen, at most: its time is quadratic in their number.
MAX_FITTED = 2_000


@dataclasses.dataclass(frozen=True)
class Descriptors:
    """Geometry and colours of point clouds.

    Attributes:
      occupied: bool [count, CELLS ** 3], whether a cell of the grid has a point.
      colours: float32 [count, BINS ** 3], square roots of the fractions of points by colour, so
        that each row has unit norm.
    """

    occupied: np.ndarray
    colours: np.ndarray

    def rows(self, chosen: np.ndarray | slice) -> "Descriptors":
        """Returns the descriptors of some of the shapes."""
        return Descriptors(self.occupied[chosen], self.colours[chosen])

    def vectors(self, *, colour_weight: float) -> np.ndarray:
        """Returns unit vectors whose cosine is the weighted mean of both cosines.

        Args:
          colour_weight: weight of the colours, between 0 and 1.

        Returns:
          float32 [count, CELLS ** 3 + BINS ** 3].
        """
        geometry = classification.normalise(self.occupied.astype(np.float32))
        parts = (np.sqrt(1 - colour_weight) * geometry, np.sqrt(colour_weight) * self.colours)
        return np.concatenate(parts, axis=1).astype(np.float32)


def describe(clouds: Iterable[Mapping[str, np.ndarray]]) -> Descriptors:
    """Computes the descriptors of point clouds.

    Args:
      clouds: records with `xyz` [points, 3] in the unit sphere and `rgb` uint8 [points, 3].
    """
    occupied, colours = [], []
    for cloud in clouds:
        positions = (np.asarray(cloud["xyz"], np.float32) + 1) * (CELLS / 2)
        grid = np.zeros(CELLS**3, bool)
        grid[_flat(positions, CELLS)] = True
        occupied.append(grid)
        counts = np.bincount(
            _flat(np.asarray(cloud["rgb"], np.float32) * (BINS / 256), BINS), minlength=BINS**3
        )
        colours.append(np.sqrt(counts / counts.sum(), dtype=np.float32))
    return Descriptors(np.stack(occupied), np.stack(colours))


def class_scores(
    queries: np.ndarray, train: np.ndarray, *, labels: np.ndarray, classes: int, chunk: int = 512
) -> np.ndarray:
    """Returns the largest cosine of every query with the training shapes of every class.

    Args:
      queries: [queries, dim], unit norm.
      train: [train, dim], unit norm.
      labels: int [train], the classes of the training shapes.
      classes: number of classes.
      chunk: number of queries compared at a time.

    Returns:
      float32 [queries, classes]; -2, below every cosine, for a class without training shapes.
    """
    order = np.argsort(labels, kind="stable")
    present, starts = np.unique(labels[order], return_index=True)
    scores = np.full((len(queries), classes), -2, np.float32)
    for rows in classification.chunks(len(queries), size=chunk):
        cosines = queries[rows] @ train[order].T
        scores[rows, present] = np.maximum.reduceat(cosines, starts, axis=1)
    return scores


def choose_weight(train: Descriptors, *, labels: np.ndarray, groups: np.ndarray | None) -> float:
    """Returns the colour weight with the best accuracy on the training shapes.

    Each shape is classified by the shapes of all other groups, or, without groups, by all others.

    Args:
      train: descriptors of the training shapes; of more than `MAX_FITTED`, a random subset is used.
      labels: int [train], classes.
      groups: int [train]; None if the shapes have no groups.
    """
    groups = np.arange(len(labels)) if groups is None else groups
    if len(labels) > MAX_FITTED:
        used = np.sort(np.random.default_rng(0).choice(len(labels), MAX_FITTED, replace=False))
        train, labels, groups = train.rows(used), labels[used], groups[used]
    is_same = groups[:, None] == groups[None]
    accuracies = []
    for weight in COLOUR_WEIGHTS:
        vectors = train.vectors(colour_weight=weight)
        nearest = np.argmax(np.where(is_same, -2, vectors @ vectors.T), axis=1)
        accuracies.append(np.mean(labels[nearest] == labels))
    return COLOUR_WEIGHTS[int(np.argmax(accuracies))]


def _flat(values: np.ndarray, bins: int) -> np.ndarray:
    """Returns the cells of values [points, 3] in 0 to `bins`, as indices of a flat grid."""
    cells = np.clip(values.astype(np.int64), 0, bins - 1)
    return np.ravel_multi_index(tuple(cells.T), (bins, bins, bins))
