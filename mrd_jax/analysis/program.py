# SPDX-License-Identifier: Apache-2.0
"""Figures of a compiled program: memory, memory traffic, communication, and what the platform adds.

The TPU compiler adds a schedule in cycles, from which follows an estimate. The GPU compiler has
none: the number of kernels, and times at full bandwidth and at the peak, are all there is.
"""

import re
from typing import Any

import jax

from mrd_jax.analysis import chips, hlo, schedule

# Estimated time of a Pallas kernel relative to its operations at the peak. The TPU compiler's
# static schedule of the attention kernels gives 1.33 (forward) and 1.2 to 1.3 (backward, see
# docs/tpu_step.md); as for large matrix products, the estimate is conservative.
KERNEL_MARGIN = 1.4


def describe(compiled: jax.stages.Compiled, chip: chips.Chip) -> dict[str, Any]:
    """Returns memory, memory traffic and communication of a compiled program, per chip.

    Args:
      compiled: program that was compiled for the chip.
      chip: its kind.

    Returns:
      A JSON object. "bytes_s" is the time of the memory traffic at full bandwidth, and "bytes_of"
      the traffic by part of the step. A TPU adds "estimate_s", "kernels_s", "share" of the parts
      and "kernels_not_estimated"; a GPU "launches" of kernels, by part in "launches_of",
      "library_calls" and "sorts".
    """
    memory = compiled.memory_analysis()
    text = compiled.as_text()
    summary = schedule.summarize(hlo.parse(text))
    moved = sum(summary.bytes.values())
    report = {
        "fits": True,
        "argument_bytes": memory.argument_size_in_bytes,
        "temporary_bytes": memory.temp_size_in_bytes,
        "allocated_bytes": (
            memory.argument_size_in_bytes
            + memory.temp_size_in_bytes
            + memory.output_size_in_bytes
            - memory.alias_size_in_bytes
            + memory.generated_code_size_in_bytes
        ),
        "peak_bytes": memory.peak_memory_in_bytes,
        "bytes": moved,
        "bytes_s": moved / chip.bandwidth,
        "bytes_of": {part: size for part, size in summary.bytes.items() if size},
        "collectives": {
            kind: {"count": sent.count, "bytes": sent.bytes}
            for kind, sent in summary.collectives.items()
        },
        "loops_of_unknown_length": summary.unknown_loops,
    }
    return report | (
        _count_kernels(summary, text) if chip.platform == "gpu" else _estimate(summary, chip)
    )


def _estimate(summary: schedule.Schedule, chip: chips.Chip) -> dict[str, Any]:
    """Returns the estimate of the time on a TPU, from the compiler's cycles."""
    seconds = {
        part: summary.cycles.get(part, 0) / chip.clock
        + KERNEL_MARGIN * summary.kernel_operations.get(part, 0) / chip.peak
        for part in schedule.NAMES
    }
    estimate = sum(seconds.values())
    return {
        "estimate_s": estimate,
        "kernels_s": KERNEL_MARGIN * sum(summary.kernel_operations.values()) / chip.peak,
        "share": {part: round(part_s / max(estimate, 1e-9), 4) for part, part_s in seconds.items()},
        "kernels_not_estimated": summary.kernels,
    }


def _count_kernels(summary: schedule.Schedule, text: str) -> dict[str, Any]:
    """Returns the kernels that a step launches on a GPU."""
    return {
        "launches": sum(summary.launches.values()),
        "launches_of": {part: count for part, count in summary.launches.items() if count},
        "library_calls": dict(summary.library_calls),
        # A sort is a loop of comparisons, or a call of CUB's radix sort.
        "sorts": len(re.findall(r" sort\(|custom_call_target=\"__cub\$", text)),
    }
