# SPDX-License-Identifier: Apache-2.0
"""Result of a check, what the checks share, and the comparison of arrays."""

import dataclasses
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

PASS, FAIL, SKIPPED = "pass", "fail", "skipped"
# Largest error relative to the largest magnitude of an array, with matrix products at the highest
# precision; bfloat16 has 8 bits.
TOLERANCES = {"float32": 1e-5, "bfloat16": 2e-2}
# The same for whole steps, in float32: sums over many layers in another order.
STEP_TOLERANCE = 1e-4
# The same for changes of parameters: gradients through batch norm are sums that nearly cancel
# (1.4e-3 on four CPU devices against one); a device that is left out or counts twice changes more.
UPDATE_TOLERANCE = 1e-2


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of a check.

    Attributes:
      name: name of the check and of the case, such as "attention/float32/xla".
      status: "pass", "fail" or "skipped".
      detail: why it failed or was skipped, or a remark; "" if there is none.
      values: what was measured, JSON-serialisable.
    """

    name: str
    status: str
    detail: str = ""
    values: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Context:
    """What the checks share.

    Attributes:
      config: config of the recipe that is timed.
      config_file: file of the config, for processes that are started.
      folder: empty folder for data and runs.
      quick: small sizes, and no process is killed.
      batches: samples per device of the timed steps; () chooses them by platform.
      seconds: time after which no further batch is timed.
      started: time of the start, by `time.monotonic`.
      device_limit: number of devices to use; None for all of this process.
      samples_per_second: largest rate of the timed steps over all devices; 0 before them.
    """

    config: ConfigDict
    config_file: str
    folder: pathlib.Path
    quick: bool = False
    batches: Sequence[int] = ()
    seconds: float = 150.0
    started: float = dataclasses.field(default_factory=time.monotonic)
    device_limit: int | None = None
    samples_per_second: float = 0.0

    @property
    def devices(self) -> list[jax.Device]:
        """Devices of this process; starts JAX, so that processes started later may find none."""
        return jax.local_devices()[: self.device_limit]

    def is_late(self) -> bool:
        """Returns whether no further batch should be timed."""
        return time.monotonic() - self.started > self.seconds


def largest_error(found: Any, expected: Any) -> float:
    """Returns the largest difference of two trees, relative to the largest value of each leaf.

    Args:
      found: tree of arrays.
      expected: tree of as many arrays, in the same order.

    Returns:
      The largest error over the leaves; infinite for another number of leaves, other shapes, or
      non-finite values.
    """
    pairs = jax.tree.leaves(found), jax.tree.leaves(expected)
    if len(pairs[0]) != len(pairs[1]):
        return float("inf")
    errors = [0.0]
    for left, right in zip(*pairs, strict=True):
        left, right = np.asarray(left, np.float64), np.asarray(right, np.float64)
        if left.shape != right.shape or not np.isfinite(left).all():
            return float("inf")
        if right.size:
            scale = max(np.abs(right).max(), 1e-30)
            errors.append(float(np.abs(left - right).max() / scale))
    return max(errors)


def compare(name: str, found: Any, expected: Any, *, tolerance: float) -> Result:
    """Compares two trees by `largest_error`.

    Args:
      name: name of the result.
      found: tree of arrays.
      expected: tree of the same structure.
      tolerance: largest allowed error; 0 for equality.
    """
    error = largest_error(found, expected)
    passed = error <= tolerance
    detail = "" if passed else f"error {error:.1e}, expected at most {tolerance:.0e}"
    return Result(name, PASS if passed else FAIL, detail, {"error": error, "tolerance": tolerance})
