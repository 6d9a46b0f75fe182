# SPDX-License-Identifier: Apache-2.0
"""Multinomial logistic regression by L-BFGS in numpy and scipy, a chunk of shapes at a time."""

import dataclasses
import logging

import numpy as np
from scipy import optimize, special

from mrd_jax.evaluation.metrics import classification

LOGGER = logging.getLogger(__name__)

# Limit of CLIP's linear probes (Radford et al. 2021, appendix A.3).
MAX_ITERATIONS = 1_000
# A fit has converged when no entry of the gradient is larger.
TOLERANCE = 1e-6


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A fitted logistic regression.

    Attributes:
      weights: float64 [dim, classes].
      biases: float64 [classes]; the penalty does not apply to them.
      classes: int [classes], label of each column, in ascending order.
    """

    weights: np.ndarray
    biases: np.ndarray
    classes: np.ndarray

    def correct(self, features: np.ndarray, *, labels: np.ndarray, chunk: int = 4096) -> np.ndarray:
        """Returns whether each shape is classified correctly; a tie counts as wrong.

        Args:
          features: [count, dim]; their length does not matter.
          labels: int [count]; a shape of a class without training shapes counts as wrong.
          chunk: number of shapes scored at a time.

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

    A fit that has not converged after `MAX_ITERATIONS` is logged and returned.

    Args:
      features: [count, dim], scaled to unit norm by this function.
      labels: int [count]; the classes are the labels that occur.
      strength: strength of the penalty, > 0, see `objective`.
      start: classifier of the same classes to start from; zeros by default.
      tolerance: convergence threshold, see `TOLERANCE`.
      chunk: number of shapes per chunk, see `objective`.

    Raises:
      ValueError: strength is not positive, or fewer than two classes occur.
    """
    if not strength > 0:
        raise ValueError(f"strength is {strength}: expected a positive penalty")
    features = classification.normalise(features)
    classes, targets = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise ValueError(f"the shapes have the classes {classes.tolist()}: expected two or more")
    shape = (features.shape[1] + 1, len(classes))
    initial = np.zeros(shape) if start is None else np.vstack([start.weights, start.biases])
    solution = optimize.minimize(
        objective,
        initial.ravel(),
        args=(features, targets, strength, chunk),
        jac=True,
        method="L-BFGS-B",
        # Only the gradient decides: a test on the loss would end fits early, when it changes in
        # its last digits only.
        options={
            "maxiter": MAX_ITERATIONS,
            "maxfun": 2 * MAX_ITERATIONS,
            "gtol": tolerance,
            "ftol": np.finfo(float).eps,
        },
    )
    if not solution.success:
        LOGGER.warning(
            "probe of %d shapes, strength %g: %s after %d iterations, gradient %.1e",
            len(features), strength, solution.message, solution.nit, np.abs(solution.jac).max(),
        )  # fmt: skip
    parameters = solution.x.reshape(shape)
    return Classifier(parameters[:-1], parameters[-1], classes)


def objective(
    parameters: np.ndarray,
    features: np.ndarray,
    targets: np.ndarray,
    strength: float,
    chunk: int = 4096,
) -> tuple[float, np.ndarray]:
    """Computes mean cross entropy + strength / 2 * ||weights||^2, and its gradient.

    The computation is in float64: near the optimum, the line search compares losses that differ in
    the eighth digit.

    Args:
      parameters: float64 [(dim + 1) * classes], the weights row by row, then the biases.
      features: [count, dim].
      targets: int [count], column of each shape's class.
      strength: strength of the penalty, which does not apply to the biases.
      chunk: number of shapes per chunk; memory is a few arrays of [chunk, dim + classes].

    Returns:
      The value, and its gradient, float64 [(dim + 1) * classes].
    """
    count, dim = features.shape
    parameters = parameters.reshape(dim + 1, -1)
    weights, biases = parameters[:-1], parameters[-1]
    value = strength / 2 * np.sum(weights**2)
    gradient = np.vstack([strength * weights, np.zeros_like(biases)])
    for rows in classification.chunks(count, size=chunk):
        batch = features[rows].astype(np.float64)
        true_class = np.arange(len(batch)), targets[rows]
        log_probabilities = special.log_softmax(batch @ weights + biases, axis=1)
        value -= np.sum(log_probabilities[true_class]) / count
        residual = np.exp(log_probabilities)
        residual[true_class] -= 1
        gradient[:-1] += batch.T @ residual / count
        gradient[-1] += residual.sum(axis=0) / count
    return float(value), gradient.ravel()
