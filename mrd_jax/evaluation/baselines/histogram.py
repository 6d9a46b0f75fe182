# SPDX-License-Identifier: Apache-2.0
"""Hand-crafted baseline: kernel ridge regression from histograms, without a learned 3D encoder.

The regression maps histograms of a point cloud to the teacher's text feature of its name. A student
that is not more accurate has learned no more than what these histograms contain.

It is a strong baseline, for three reasons. On small data sets, the class is often a matter of
proportions and colours, which the histograms hold exactly. Test shapes have near-duplicates in
training, which a kernel looks up. And the regression has a closed form and few hyperparameters,
which cross-validation chooses, whereas an encoder is trained by gradient descent from random
weights. It does not scale: its time is cubic in the number of training shapes, and it ignores the
pictures.
"""

import dataclasses
import itertools

import numpy as np
from scipy import linalg
from scipy.spatial import distance

from mrd_jax.evaluation.metrics import classification

# Grid that `fit` searches; neighbouring values differ by a factor of about two to four.
WIDTHS = (0.5, 1.0, 2.0, 4.0)
COLOUR_WEIGHTS = (0.0, 0.25, 1.0)
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)
FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Settings:
    """Hyperparameters of the regression.

    Attributes:
      width: factor on the squared distance inside the kernel, in units of the median one.
      colour_weight: weight of the colour histograms against the shape histograms.
      ridge: value added to the diagonal of the kernel matrix.
    """

    width: float
    colour_weight: float
    ridge: float


@dataclasses.dataclass(frozen=True)
class Fit:
    """Result of `fit`.

    Attributes:
      embeddings: float32 [queries, dim], predicted text features of the query shapes.
      settings: hyperparameters that cross-validation chose.
      reciprocal_rank: mean reciprocal rank of the true class in cross-validation with them.
    """

    embeddings: np.ndarray
    settings: Settings
    reciprocal_rank: float


@dataclasses.dataclass(frozen=True)
class Histograms:
    """Histograms of point clouds.

    Attributes:
      shape: float32 [count, shape_bins], histograms of positions.
      colour: float32 [count, colour_bins], histograms of colours, overall and by height.
    """

    shape: np.ndarray
    colour: np.ndarray


def describe(xyz: np.ndarray, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Computes the histograms of one point cloud.

    A histogram holds square roots of fractions of points, so that the Euclidean distance between
    two is their Hellinger distance up to a factor: all histograms have the same weight, and rare
    bins count too.

    Args:
      xyz: [points, 3], z up, inside the unit sphere, in random order.
      rgb: uint8 [points, 3].

    Returns:
      Shape histograms, float32 [shape_bins], and colour histograms, float32 [colour_bins].
    """
    xyz = np.asarray(xyz, dtype=np.float32)
    low, high = xyz.min(axis=0), xyz.max(axis=0)
    extents = high - low
    # A cube around the bounding box keeps proportions; stretched to the box, they are lost.
    cube = (xyz - (low + high) / 2) / max(extents.max(), 1e-6) + 0.5
    stretched = (xyz - low) / np.maximum(extents, 1e-3)
    colours = np.asarray(rgb, dtype=np.float32) / 255
    radius = np.linalg.norm(xyz[:, :2], axis=1, keepdims=True)
    half = len(xyz) // 2
    pairs = np.linalg.norm(xyz[:half] - xyz[half : 2 * half], axis=1, keepdims=True)
    shape = [
        _histogram(cube, bins=(8, 8, 8)),
        _histogram(stretched, bins=(5, 5, 5)),
        # One histogram per axis; the three together have the weight of one.
        *(_histogram(cube[:, [axis]], bins=(16,)) / np.sqrt(3) for axis in range(3)),
        _histogram(np.hstack([radius, (xyz[:, 2:] + 1) / 2]), bins=(12, 24)),
        _histogram(pairs / 2, bins=(32,)),
        extents / max(np.linalg.norm(extents), 1e-6),
    ]
    colour = [
        _histogram(colours, bins=(4, 4, 4)),
        _histogram(np.hstack([cube[:, 2:], colours]), bins=(4, 3, 3, 3)),
    ]
    return np.concatenate(shape), np.concatenate(colour)


def fit(
    train: Histograms,
    *,
    targets: np.ndarray,
    labels: np.ndarray,
    class_features: np.ndarray,
    queries: Histograms,
    seed: int = 0,
) -> Fit:
    """Fits the regression to the training shapes and predicts the query shapes.

    The settings are chosen by the mean reciprocal rank of the true class in cross-validation over
    the training shapes; the query shapes have no influence on them.

    Args:
      train: histograms of the training shapes.
      targets: [train, dim], the teacher's text features of their names.
      labels: int [train], -1 for an unknown class.
      class_features: [classes, dim].
      queries: histograms of the shapes to predict.
      seed: random seed of the split into folds.

    Raises:
      ValueError: the training split is too small or has no labelled shape, see `can_fit`.
    """
    if not can_fit(labels):
        raise ValueError(
            f"{len(labels)} training shapes, {int(np.sum(labels >= 0))} with a class: the "
            f"hand-crafted baseline needs at least {FOLDS} named shapes, one of them with a class"
        )
    targets = classification.normalise(targets).astype(np.float64)
    # Class ranks do not depend on the length of a prediction, and the regression is linear in its
    # targets: predicting class scores gives the same ranks, with far fewer columns than dim.
    class_scores = targets @ classification.normalise(class_features).T
    folds = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
    candidates = []
    for colour_weight in COLOUR_WEIGHTS:
        distances = _distances(train, train, colour_weight=colour_weight)
        distances /= np.median(distances)
        for width, ridge in itertools.product(WIDTHS, RIDGES):
            predicted = _cross_predict(
                np.exp(-width * distances), class_scores, ridge=ridge, folds=folds
            )
            score = _reciprocal_rank(predicted, labels)
            candidates.append((score, Settings(width, colour_weight, ridge)))
    score, best = max(candidates, key=lambda candidate: candidate[0])
    return Fit(_predict(train, targets, queries, settings=best), best, score)


def can_fit(labels: np.ndarray) -> bool:
    """Returns whether named training shapes with these labels, int [train], suffice for `fit`."""
    return len(labels) >= FOLDS and bool(np.any(labels >= 0))


def _histogram(values: np.ndarray, *, bins: tuple[int, ...]) -> np.ndarray:
    """Returns square roots of the fractions of values [points, axes] in 0..1 in a grid of bins."""
    cells = np.clip((values * bins).astype(np.int64), 0, np.array(bins) - 1)
    flat = np.ravel_multi_index(tuple(cells.T), bins)
    fractions = np.bincount(flat, minlength=np.prod(bins)) / max(len(values), 1)
    return np.sqrt(fractions).astype(np.float32)


def _distances(rows: Histograms, columns: Histograms, *, colour_weight: float) -> np.ndarray:
    """Returns squared distances of shape plus weighted ones of colour, [rows, columns]."""
    shape = distance.cdist(rows.shape, columns.shape, "sqeuclidean")
    return shape + colour_weight * distance.cdist(rows.colour, columns.colour, "sqeuclidean")


def _predict(
    train: Histograms, targets: np.ndarray, queries: Histograms, *, settings: Settings
) -> np.ndarray:
    """Predicts features of the queries from all training shapes, float32 [queries, dim]."""
    train_distances = _distances(train, train, colour_weight=settings.colour_weight)
    query_distances = _distances(queries, train, colour_weight=settings.colour_weight)
    factor = settings.width / np.median(train_distances)
    predicted = _ridge(
        np.exp(-factor * train_distances),
        targets,
        np.exp(-factor * query_distances),
        ridge=settings.ridge,
    )
    return predicted.astype(np.float32)


def _ridge(
    kernel: np.ndarray, targets: np.ndarray, queries: np.ndarray, *, ridge: float
) -> np.ndarray:
    """Predicts queries by kernel ridge regression around the mean target, [queries, dim].

    Args:
      kernel: [train, train], kernel of training shapes with one another.
      targets: [train, dim].
      queries: [queries, train], kernel of queries with training shapes.
      ridge: value added to the diagonal of the kernel.
    """
    mean = targets.mean(axis=0)
    factor = linalg.cho_factor(kernel + ridge * np.eye(len(kernel)), check_finite=False)
    return queries @ linalg.cho_solve(factor, targets - mean, check_finite=False) + mean


def _cross_predict(
    kernel: np.ndarray, targets: np.ndarray, *, ridge: float, folds: np.ndarray
) -> np.ndarray:
    """Predicts every training shape from the other folds, [train, dim]."""
    predicted = np.empty_like(targets)
    for fold in range(FOLDS):
        inside, outside = np.flatnonzero(folds == fold), np.flatnonzero(folds != fold)
        predicted[inside] = _ridge(
            kernel[np.ix_(outside, outside)],
            targets[outside],
            kernel[np.ix_(inside, outside)],
            ridge=ridge,
        )
    return predicted


def _reciprocal_rank(scores: np.ndarray, labels: np.ndarray) -> float:
    """Returns the mean of 1 / rank of the true class over the labelled shapes."""
    known = labels >= 0
    return float(np.mean(1 / classification.label_ranks(scores[known], labels=labels[known])))
