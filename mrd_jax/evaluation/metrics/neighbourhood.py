# SPDX-License-Identifier: Apache-2.0
"""How soft relations are, in numpy: effective neighbours of a row, and mass of the diagonal.

A row of a relation, R_ij = softmax_j(x_i . y_j / tau), is a distribution over the samples of a
batch. Its perplexity exp(H(R_i)) is the number of samples that it effectively spreads over, as in
t-SNE (van der Maaten and Hinton 2008): 1 for a one-hot row, the size of the batch for a flat one.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

# Relative precision of a solved temperature, and steps of the bisection that suffice for it.
_PRECISION, _STEPS = 1e-6, 60
# Similarities of unit vectors that differ by less are equal up to the rounding of float64.
_ROUNDING = 1e-12


class Softness(NamedTuple):
    """Softness of relations, averaged over rows.

    Attributes:
      neighbours: mean perplexity.
      diagonal: mean share of a row that falls on the sample itself; 0 where the diagonal is
        excluded.
    """

    neighbours: float
    diagonal: float


def softness(
    similarities: Sequence[np.ndarray], *, temperature: float, exclude_self: bool = False
) -> Softness:
    """Measures the relations of several batches at a temperature.

    Args:
      similarities: [rows, batch] arrays, the products x_i . y_j of the first rows of a batch with
        all of its samples that have both modalities.
      temperature: > 0.
      exclude_self: exclude the diagonal.

    Raises:
      ValueError: no batch has a row with a valid entry.
    """
    perplexities, diagonals = [], []
    for products in _valid_batches(similarities, exclude_self):
        logits = products / temperature
        logits -= logits.max(axis=1, keepdims=True)
        weights = np.exp(logits)
        total = weights.sum(axis=1)
        # H = log Z - sum_j R_j l_j; an excluded entry contributes 0.
        energy = (weights * np.where(np.isfinite(logits), logits, 0)).sum(axis=1) / total
        perplexities.append(np.exp(np.log(total) - energy))
        diagonals.append(np.diagonal(weights) / total)
    return Softness(
        float(np.concatenate(perplexities).mean()), float(np.concatenate(diagonals).mean())
    )


def solve_temperature(
    similarities: Sequence[np.ndarray], *, neighbours: float, exclude_self: bool = False
) -> float:
    """Solves for the temperature at which rows have a mean perplexity.

    The temperature scales with the similarities, so that the relation does not depend on the range
    that a teacher's similarities have.

    Args:
      similarities: as in `softness`.
      neighbours: wanted mean perplexity.
      exclude_self: exclude the diagonal.

    Raises:
      ValueError: no temperature gives this perplexity: it is not between that of the nearest
        neighbours alone and the number of samples; or all similarities of every row are equal; or
        no sample has both modalities.
    """
    if max(map(_row_spread, _valid_batches(similarities, exclude_self))) < _ROUNDING:
        raise ValueError(
            f"{neighbours:g} effective neighbours: all similarities of a row are equal, so that it "
            "spreads evenly over all samples at every temperature"
        )
    spread = max(float(np.ptp(each)) for each in similarities if each.size)

    def perplexity(log_temperature: float) -> float:
        temperature = spread * math.exp(log_temperature)
        return softness(similarities, temperature=temperature, exclude_self=exclude_self).neighbours

    low, high = math.log(1e-6), math.log(1e6)
    least, most = perplexity(low), perplexity(high)
    if not least < neighbours < most:
        raise ValueError(
            f"{neighbours:g} effective neighbours: expected more than {least:.3g} and fewer than "
            f"{most:.4g}, which is what these features have at the extremes of the temperature"
        )
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if perplexity(middle) < neighbours else (low, middle)
        if high - low < _PRECISION:
            break
    return spread * math.exp((low + high) / 2)


def _valid_batches(similarities: Sequence[np.ndarray], exclude_self: bool) -> list[np.ndarray]:
    """Returns the batches with a valid entry, in float64, -inf on an excluded diagonal.

    Raises:
      ValueError: there is none.
    """
    batches = [np.array(products, dtype=np.float64) for products in similarities]
    if exclude_self:
        for products in batches:
            np.fill_diagonal(products, -np.inf)
    batches = [products for products in batches if np.isfinite(products).any()]
    if not batches:
        raise ValueError("no sample has both modalities of the relation")
    return batches


def _row_spread(products: np.ndarray) -> float:
    """Returns the largest difference between two valid entries of a row."""
    lowest = np.where(np.isfinite(products), products, np.inf).min(axis=1)
    return float((products.max(axis=1) - lowest).max())
