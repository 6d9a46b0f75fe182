# SPDX-License-Identifier: Apache-2.0
"""Searches for the largest batch per chip that fits, in few compilations."""

import json
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from mrd_jax.analysis import ahead, chips


class Probe(NamedTuple):
    """Result of one compilation.

    Attributes:
      fits: whether the program fits into memory.
      needed: bytes needed per chip.
      available: bytes available per chip.
    """

    fits: bool
    needed: float
    available: float


def find_largest(probe: Callable[[int], Probe], *, start: int, step: int = 8) -> int:
    """Returns the largest batch per chip that fits, a multiple of `step` unless it is smaller.

    Doubles or halves the batch until the limit lies between two probes, then interpolates linearly
    between their memory. Memory grows nearly linearly with the batch, so that few compilations,
    each of which takes minutes, are needed.

    Args:
      probe: compiles the step with a given batch per chip.
      start: first batch per chip to try.
      step: number of rows in a tile of the chip's memory.

    Returns:
      The largest batch per chip; 0 if a batch of one does not fit.
    """
    probes, low, high = {}, 0, None
    batch = max(start // step, 1) * step
    while high is None or high - low > step:
        probes[batch] = probe(batch)
        if probes[batch].fits:
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
            slope = (probes[high].needed - probes[low].needed) / (high - low)
            limit = low + (probes[high].available - probes[low].needed) / max(slope, 1.0)
            batch = min(max(int(limit) // step * step, low + step), high - step)
    return low


def with_batch(config: ConfigDict, batch_per_chip: int, *, topology: str) -> ConfigDict:
    """Returns a copy of a config with `batch_size` set to `batch_per_chip` times the chips."""
    config = ConfigDict(config)
    config.batch_size = batch_per_chip * chips.count_chips(topology)
    return config


def measure_largest(config: ConfigDict, *, topology: str) -> dict[str, Any]:
    """Returns the report of the largest batch per chip that fits; prints each trial to stderr.

    Args:
      config: experiment config; the search starts at its batch size.
      topology: TPU slice or GPUs, such as "v5e:16x16" or "h100:8".

    Returns:
      The report of `ahead.measure`, with all trials in "sweep".

    Raises:
      ValueError: a batch of one point cloud per chip does not fit; also see `ahead.measure`.
    """
    reports = {}

    def probe(batch_per_chip: int) -> Probe:
        sized = with_batch(config, batch_per_chip, topology=topology)
        report = ahead.measure(sized, topology=topology, calibrated=False)
        reports[batch_per_chip] = report
        print(json.dumps(_summary(report)), file=sys.stderr, flush=True)
        return Probe(report["fits"], report["allocated_bytes"], report["memory_bytes"])

    chip_count = with_batch(config, 1, topology=topology).batch_size
    batch_per_chip = find_largest(probe, start=max(1, config.batch_size // chip_count))
    if not batch_per_chip:
        raise ValueError(
            f"a batch of 1 per chip does not fit on {topology}: it needs "
            f"{reports[1]['allocated_bytes']:,} of {reports[1]['memory_bytes']:,} bytes; set "
            "config.model.remat, or choose a smaller student or a chip with more memory"
        )
    return reports[batch_per_chip] | {"sweep": [_summary(report) for report in reports.values()]}


def _summary(report: dict[str, Any]) -> dict[str, Any]:
    return {
        name: report[name] for name in ("batch_per_chip", "fits", "allocated_bytes", "compile_s")
    }
