# SPDX-License-Identifier: Apache-2.0
"""Multinomial logistic regression by L-BFGS, a chunk of shapes at a time: numpy and scipy only."""

import dataclasses
import logging

import numpy as np
from scipy import optimize, special

from mrd_jax.evaluation.metrics import classification

LOGGER = logging.getLogger(__name__)

# As CLIP's linear probes (Radford et al. 2021, appendix A.3).
MAX_ITERATIONS = 1_000
# Largest entry of the gradient at which a fit counts as done.
TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A fitted logistic regression.

    Attributes:
      weights: float64 [dim, classes].
      biases: float64 [classes], without penalty.
      classes: int [classes], the label that each column stands for, ascending.
    """

    weights: np.ndarray
    biases: np.ndarray
    classes: np.ndarray

    def correct(self, features: np.ndarray, *, labels: np.ndarray, chunk: int = 4096) -> np.ndarray:
        """Which shapes are given their own class, ties against the model.

        Args:
          features: [count, dim], any length.
          labels: int [count]; a class that the classifier has not seen cannot be right.
          chunk: shapes scored at a time.

        Returns:
          bool [count].
        """
        features, labels = classification.normalise(features), np.asarray(labels)
        correct = np.zeros(len(labels), dtype=bool)
        known = np.flatnonzero(np.isin(labels, self.classes))
        columns = np.searchsorted(self.classes, labels[known])
        for rows in classification.chunks(len(known), size=chunk):
            scores = features[known[rows]] @ self.weights + self.biases
            correct[known[rows]] = classification.label_ranks(scores, labels=columns[rows]) == 1
        return correct


def fit(
    features: np.ndarray,
    *,
    labels: np.ndarray,
    strength: float,
    start: Classifier | None = None,
    tolerance: float = TOLERANCE,
    chunk: int = 4096,
) -> Classifier:
    """Fits a multinomial logistic regression by L-BFGS.

    Args:
      features: [count, dim], scaled to unit length here.
      labels: int [count]; those that occur are the classes.
      strength: of the penalty, > 0, see `objective`.
      start: a classifier of the same classes to begin with; zeros without.
      tolerance: see `TOLERANCE`.
      chunk: shapes at a time, see `objective`.

    Returns:
      The `Classifier`. Fits that reach `MAX_ITERATIONS` are logged and used as they are.

    Raises:
      ValueError: where strength is not positive or fewer than two classes occur.
    """
    if not strength > 0:
        raise ValueError(f"strength is {strength}: expected a positive penalty")
    features = classification.normalise(features)
    classes, targets = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"the shapes have the classes {classes.tolist()}: expected two or more")
    shape = (features.shape[1] + 1, len(classes))
    begin = np.zeros(shape) if start is None else np.vstack([start.weights, start.biases])
    found = optimize.minimize(
        objective,
        begin.ravel(),
        args=(features, targets, strength, chunk),
        jac=True,
        method="L-BFGS-B",
        # The gradient decides; a loss that moves by the last digits only would end fits early.
        options={
            "maxiter": MAX_ITERATIONS,
            "maxfun": 2 * MAX_ITERATIONS,
            "gtol": tolerance,
            "ftol": np.finfo(float).eps,
        },
    )
    if not found.success:
        LOGGER.warning(
            "probe of %d shapes, strength %g: %s after %d iterations, gradient %.1e",
            len(features), strength, found.message, found.nit, np.abs(found.jac).max(),
        )  # fmt: skip
    parameters = found.x.reshape(shape)
    return Classifier(parameters[:-1], parameters[-1], classes)


def objective(
    parameters: np.ndarray,
    features: np.ndarray,
    targets: np.ndarray,
    strength: float,
    chunk: int = 4096,
) -> tuple[float, np.ndarray]:
    """Mean cross entropy plus strength / 2 times the squared weights, and its gradient.

    In float64: near the optimum the line search compares losses that differ in the eighth digit.

    Args:
      parameters: float64 [(dim + 1) * classes], the weights row by row, then the biases.
      features: [count, dim], used as they are.
      targets: int [count], the column of each shape's class.
      strength: of the penalty, which spares the biases.
      chunk: shapes at a time; memory is a few times chunk * (dim + classes) floats.

    Returns:
      The value, and float64 [(dim + 1) * classes].
    """
    count, dim = features.shape
    parameters = parameters.reshape(dim + 1, -1)
    weights, biases = parameters[:-1], parameters[-1]
    value = strength / 2 * np.sum(weights**2)
    gradient = np.vstack([strength * weights, np.zeros_like(biases)])
    for rows in classification.chunks(count, size=chunk):
        batch = features[rows].astype(np.float64)
        own = np.arange(len(batch)), targets[rows]
        log_shares = special.log_softmax(batch @ weights + biases, axis=1)
        value -= np.sum(log_shares[own]) / count
        residual = np.exp(log_shares)
        residual[own] -= 1
        gradient[:-1] += batch.T @ residual / count
        gradient[-1] += residual.sum(axis=0) / count
    return float(value), gradient.ravel()
