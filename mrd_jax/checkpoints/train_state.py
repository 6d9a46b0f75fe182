# SPDX-License-Identifier: Apache-2.0
"""The train state: everything that an update reads and writes, and that a checkpoint holds."""

from collections.abc import Mapping
from typing import Any

import flax
import jax
import optax


class TrainState(flax.struct.PyTreeNode):
    """Train state of a run.

    Attributes:
      step: int32 scalar, number of updates so far; also the position in the data stream.
      params: {"student": ..., "loss": ...}. "loss" holds the logarithm of the contrastive scale,
        the mixing weights and, if it is learned, the student temperature.
      batch_stats: running batch-norm statistics of the student.
      opt_state: optax state over `params`.
      ema: exponential moving average of params["student"]; None if `optimizer.ema_decay` is 0.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Any

    def variables(self) -> dict[str, Any]:
        """Returns the student variables that are evaluated: the moving average if there is one."""
        student = self.params["student"] if self.ema is None else self.ema
        return {"params": student, "batch_stats": self.batch_stats}


def student_paths(stored: Mapping[str, Any]) -> dict[str, tuple[str, ...]]:
    """Returns where a stored train state keeps what `TrainState.variables` returns.

    Args:
      stored: tree of a stored state, keyed by field name; the values of its leaves are not read.

    Returns:
      Keys that lead to the student's `params` and `batch_stats`.
    """
    params = ("params", "student") if stored["ema"] is None else ("ema",)
    return {"params": params, "batch_stats": ("batch_stats",)}
