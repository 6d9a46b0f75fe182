# SPDX-License-Identifier: Apache-2.0
"""What a shape's points tell without any deep encoder: histograms and kernel ridge regression.

The regression maps hand-made histograms of a cloud to the teacher's feature of its name. A 3D
student that does not beat it has learnt nothing that counting points would not give.
"""

import dataclasses
import itertools

import numpy as np
from scipy import linalg
from scipy.spatial import distance

from mrd_jax.evaluation.metrics import classification

# The grid that `fit` chooses from: a factor of two or three between neighbours, and wide enough
# that on the furniture folds the choice falls inside it.
WIDTHS = (0.5, 1.0, 2.0, 4.0)
COLOUR_WEIGHTS = (0.0, 0.25, 1.0)
RIDGES = (0.01, 0.03, 0.1, 0.3, 1.0)
FOLDS = 5


@dataclasses.dataclass(frozen=True)
class Settings:
    """How the regression is tuned.

    Attributes:
      width: factor on the distance inside the kernel, where 1 is the median distance.
      colour_weight: weight of the colour blocks against the shape blocks.
      ridge: added to the diagonal of the kernel matrix.
    """

    width: float
    colour_weight: float
    ridge: float


@dataclasses.dataclass(frozen=True)
class Fit:
    """Outcome of `fit`.

    Attributes:
      embeddings: float32 [queries, dim], predicted features of the query shapes.
      settings: those that cross-validation chose.
      reciprocal_rank: of the true class in cross-validation, the mean that they were chosen by.
    """

    embeddings: np.ndarray
    settings: Settings
    reciprocal_rank: float


@dataclasses.dataclass(frozen=True)
class Histograms:
    """Descriptions of several clouds.

    Attributes:
      shape: float32 [count, shape_bins], where the points are.
      colour: float32 [count, colour_bins], how they are coloured, alone and by height.
    """

    shape: np.ndarray
    colour: np.ndarray


def describe(xyz: np.ndarray, rgb: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hand-made histograms of one cloud.

    Each histogram is the square root of shares, so that the Euclidean distance of two is their
    Hellinger distance up to a factor: every histogram weighs the same, and rare bins count too.

    Args:
      xyz: [points, 3], z up, inside the unit sphere, in random order.
      rgb: uint8 [points, 3].

    Returns:
      float32 [shape_bins] and float32 [colour_bins].
    """
    xyz = np.asarray(xyz, dtype=np.float32)
    low, high = xyz.min(axis=0), xyz.max(axis=0)
    extents = high - low
    # In a cube around the box, proportions stay; stretched to the box, only the inside counts.
    cube = (xyz - (low + high) / 2) / max(extents.max(), 1e-6) + 0.5
    stretched = (xyz - low) / np.maximum(extents, 1e-3)
    colours = np.asarray(rgb, dtype=np.float32) / 255
    radius = np.linalg.norm(xyz[:, :2], axis=1, keepdims=True)
    half = len(xyz) // 2
    pairs = np.linalg.norm(xyz[:half] - xyz[half : 2 * half], axis=1, keepdims=True)
    shape = [
        _histogram(cube, bins=(8, 8, 8)),
        _histogram(stretched, bins=(5, 5, 5)),
        # One histogram per axis, which together weigh as much as one.
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
    """Regresses the teacher's name features on histograms, settings chosen on the training split.

    The settings are those with the largest mean reciprocal rank of the true class in
    cross-validation over the training shapes; the query shapes take no part in the choice.

    Args:
      train: of the training shapes.
      targets: [train, dim], the teacher's features of their names.
      labels: int [train], -1 where the class is unknown.
      class_features: [classes, dim].
      queries: of the shapes to predict.
      seed: of the split into folds.

    Returns:
      The `Fit`.

    Raises:
      ValueError: where the training split is too small or has no labelled shape.
    """
    if not can_fit(labels):
        raise ValueError(
            f"{len(labels)} training shapes, {int(np.sum(labels >= 0))} with a class: the floor "
            f"needs at least {FOLDS} shapes and a labelled one to choose its settings"
        )
    targets = classification.normalise(targets).astype(np.float64)
    # Ranks of classes do not depend on the length of a prediction, and regression is linear in
    # its targets: predicting class scores gives the same ranks, with far fewer columns than dim.
    class_scores = targets @ classification.normalise(class_features).T
    folds = np.random.default_rng(seed).permutation(len(labels)) % FOLDS
    scored = []
    for colour_weight in COLOUR_WEIGHTS:
        distances = _distances(train, train, colour_weight=colour_weight)
        distances /= np.median(distances)
        for width, ridge in itertools.product(WIDTHS, RIDGES):
            predicted = _cross_predict(
                np.exp(-width * distances), class_scores, ridge=ridge, folds=folds
            )
            score = _reciprocal_rank(predicted, labels)
            scored.append((score, Settings(width, colour_weight, ridge)))
    score, best = max(scored, key=lambda entry: entry[0])
    return Fit(_predict(train, targets, queries, settings=best), best, score)


def can_fit(labels: np.ndarray) -> bool:
    """Whether named training shapes with these labels, int [train], are enough for `fit`."""
    return len(labels) >= FOLDS and bool(np.any(labels >= 0))


def _histogram(values: np.ndarray, *, bins: tuple[int, ...]) -> np.ndarray:
    """Square root of the shares of values [points, axes], each 0..1, in a grid of bins."""
    cells = np.clip((values * bins).astype(np.int64), 0, np.array(bins) - 1)
    flat = np.ravel_multi_index(tuple(cells.T), bins)
    shares = np.bincount(flat, minlength=np.prod(bins)) / max(len(values), 1)
    return np.sqrt(shares).astype(np.float32)


def _distances(rows: Histograms, columns: Histograms, *, colour_weight: float) -> np.ndarray:
    """Squared distances of shape, and of colour with a weight: [rows, columns]."""
    shape = distance.cdist(rows.shape, columns.shape, "sqeuclidean")
    return shape + colour_weight * distance.cdist(rows.colour, columns.colour, "sqeuclidean")


def _predict(
    train: Histograms, targets: np.ndarray, queries: Histograms, *, settings: Settings
) -> np.ndarray:
    """Features of the queries, float32 [queries, dim], from all training shapes."""
    inside = _distances(train, train, colour_weight=settings.colour_weight)
    across = _distances(queries, train, colour_weight=settings.colour_weight)
    factor = settings.width / np.median(inside)
    predicted = _ridge(
        np.exp(-factor * inside), targets, np.exp(-factor * across), ridge=settings.ridge
    )
    return predicted.astype(np.float32)


def _ridge(
    kernel: np.ndarray, targets: np.ndarray, queries: np.ndarray, *, ridge: float
) -> np.ndarray:
    """Kernel ridge regression around the mean target: [queries, dim].

    Args:
      kernel: [train, train].
      targets: [train, dim].
      queries: [queries, train], kernel of queries with training shapes.
      ridge: added to the diagonal.
    """
    mean = targets.mean(axis=0)
    factor = linalg.cho_factor(kernel + ridge * np.eye(len(kernel)), check_finite=False)
    return queries @ linalg.cho_solve(factor, targets - mean, check_finite=False) + mean


def _cross_predict(
    kernel: np.ndarray, targets: np.ndarray, *, ridge: float, folds: np.ndarray
) -> np.ndarray:
    """Prediction of every training shape from the other folds, [train, dim]."""
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
    """Mean of 1 / rank of the true class over the labelled shapes, scores [train, classes]."""
    known = labels >= 0
    return float(np.mean(1 / classification.label_ranks(scores[known], labels=labels[known])))
