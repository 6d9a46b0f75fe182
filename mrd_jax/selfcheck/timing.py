# SPDX-License-Identifier: Apache-2.0
"""Time of a compiled function on the device."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import jax


def seconds(function: Callable[..., Any], *arguments: Any, repeats: int = 10) -> float:
    """Returns the median time of a call, after one that compiles.

    Args:
      function: compiled function; waits for its result.
      *arguments: its arguments, on the device.
      repeats: number of timed calls.
    """
    jax.block_until_ready(function(*arguments))
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        jax.block_until_ready(function(*arguments))
        times.append(time.perf_counter() - started)
    return statistics.median(times)
