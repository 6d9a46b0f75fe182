# SPDX-License-Identifier: Apache-2.0
"""The largest batch per chip that fits, in few compilations."""

import json
import math
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mrd_jax.analysis import ahead, chips


class Probe(NamedTuple):
    """One compilation.

    Attributes:
      fits: whether the compiler accepts it.
      needed: bytes of one chip.
      available: bytes of one chip.
    """

    fits: bool
    needed: float
    available: float


def largest(probe: Callable[[int], Probe], *, start: int, step: int = 8) -> int:
    """Finds the largest multiple of `step` that fits; below one step, the largest number.

    Doubles or halves until the limit lies between two probes, then follows the line between what
    those two need: memory grows nearly in proportion, so that few of these minutes are spent.

    Args:
      probe: compiles a batch of so many per chip.
      start: the first one to try.
      step: rows that fill a tile of the chip's memory.

    Returns:
      The number, or 0 where a single one does not fit.
    """
    seen, low, high = {}, 0, None
    batch = max(start // step, 1) * step
    while high is None or high - low > step:
        seen[batch] = probe(batch)
        if seen[batch].fits:
            low = batch
        else:
            high = batch
        if low == 0 and high == step:
            step = 1
        if high is None:
            batch = 2 * low
        elif low == 0:
            batch = max(high // (2 * step), 1) * step
        else:
            slope = (seen[high].needed - seen[low].needed) / (high - low)
            reach = low + (seen[high].available - seen[low].needed) / max(slope, 1.0)
            batch = min(max(int(reach) // step * step, low + step), high - step)
    return low


def with_batch(config: ConfigDict, batch_per_chip: int, *, topology: str) -> ConfigDict:
    """A copy of a config with so many clouds on each chip of a slice."""
    _, dims = chips.find(topology)
    config = ConfigDict(config)
    config.batch_size = batch_per_chip * math.prod(dims)
    return config


def measure_largest(config: ConfigDict, *, topology: str) -> dict[str, Any]:
    """The report of the largest batch per chip that fits; each one tried is told on stderr.

    Args:
      config: of the run; the search starts at its batch_size.
      topology: such as "v5e:16x16".

    Returns:
      As `ahead.measure`, and in "sweep" what was tried.

    Raises:
      ValueError: not a single cloud fits on a chip; else as `ahead.measure`.
    """
    reports = {}

    def probe(batch_per_chip: int) -> Probe:
        sized = with_batch(config, batch_per_chip, topology=topology)
        report = ahead.measure(sized, topology=topology, calibrated=False)
        reports[batch_per_chip] = report
        print(json.dumps(_tried(report)), file=sys.stderr, flush=True)
        return Probe(report["fits"], report["allocated_bytes"], report["memory_bytes"])

    chip_count = with_batch(config, 1, topology=topology).batch_size
    found = largest(probe, start=max(1, config.batch_size // chip_count))
    if not found:
        raise ValueError(
            f"not one cloud fits on a chip of {topology}: it needs "
            f"{reports[1]['allocated_bytes']:,} of {reports[1]['memory_bytes']:,} bytes; set "
            "config.model.remat, or take a smaller student or a larger chip"
        )
    return reports[found] | {"sweep": [_tried(report) for report in reports.values()]}


def _tried(report: dict[str, Any]) -> dict[str, Any]:
    return {
        name: report[name] for name in ("batch_per_chip", "fits", "allocated_bytes", "compile_s")
    }
