# SPDX-License-Identifier: Apache-2.0
"""Voting: embeddings of randomly scaled copies of each shape, whose logits are averaged."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from mrd_jax.data import source, subset
from mrd_jax.evaluation import evaluator


class Scaled(subset.Subset):
    """Records of a split whose coordinates are multiplied by a factor each.

    Args:
      records: the split.
      factors: float [count].
    """

    def __init__(self, records: source.RecordSource, factors: np.ndarray):
        super().__init__(records, np.arange(len(records)))
        self._factors = factors

    def read(self, index: int, fields: Sequence[str]) -> dict[str, Any]:
        """Reads some fields of a record, see `RecordSource.read`."""
        record = super().read(index, fields)
        if "xyz" not in record:
            return record
        xyz = np.asarray(record["xyz"])
        return {**record, "xyz": (xyz * self._factors[index]).astype(xyz.dtype)}


def vote(
    tested: evaluator.Evaluator,
    variables: dict[str, Any],
    *,
    count: int,
    scale: tuple[float, float],
    seed: int,
) -> np.ndarray:
    """Returns the mean of the embeddings of scaled copies of each shape of the test split.

    A class head is linear, so that its logits for the mean are the mean of its logits.

    Args:
      tested: evaluator of the split.
      variables: `params` and `batch_stats` of the encoder, on the devices.
      count: number of copies; the first is the shape itself.
      scale: range of the factors, which are drawn uniformly.
      seed: seed of the factors.

    Returns:
      float32 [shapes, dim], whose norm is 1 or less.
    """
    total = tested.embed(variables, tested.records)
    rng = np.random.default_rng(seed)
    for _ in range(count - 1):
        factors = rng.uniform(*scale, len(tested.records))
        total = total + tested.embed(variables, Scaled(tested.records, factors))
    return total / count
