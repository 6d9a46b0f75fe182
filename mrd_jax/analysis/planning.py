# SPDX-License-Identifier: Apache-2.0
"""Time, data and cost of a run, from the time of a step."""

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mrd_jax.analysis import chips

# Bytes of a coloured point as stored: three float16 and three uint8.
POINT_BYTES = 9
# Bytes per parameter in a checkpoint: the value and the two moments of AdamW, in float32.
CHECKPOINT_BYTES = 12
# Views and captions of a record of OpenShape's release, with which its size is estimated.
VIEWS, CAPTIONS = 13, 5
# What the figures do not contain.
LEFT_OUT = (
    "compilation and start-up",
    "waiting for data",
    "communication between chips that does not overlap with computation",
    "evaluation and reports",
    "saving checkpoints that outlasts the next steps",
    "steps repeated after preemptions",
    "storage and network traffic of the bucket",
    "preparation of the data",
)


def plan(
    config: ConfigDict,
    *,
    topology: str,
    parameters: int,
    step_seconds: float,
    records: int,
    record_bytes: int | None = None,
    price: float | None = None,
) -> dict[str, Any]:
    """Computes what a run takes.

    Args:
      config: config of the run; reads batch_size, total_steps, checkpoint_every, data.points and
        teacher.dim.
      topology: slice or nodes, such as "v5e:8x8" or "h100:8".
      parameters: number of parameters of the student.
      step_seconds: time of a step.
      records: number of records of the training split.
      record_bytes: stored bytes of a record; None for `estimate_record_bytes`.
      price: price of a chip for an hour, in any currency; None leaves the cost out.

    Returns:
      JSON-serialisable figures: `topology`, `chips`, `hosts`, `steps`, `epochs`, `step_ms`,
      `records_per_s` of all hosts
      and `records_per_s_and_host`, `data_gb` (10^9 bytes), `data_gb_per_s_and_host`, `hours`,
      `chip_hours`, `cost`, `checkpoints` and `checkpoint_gb` of each, and `left_out`.
    """
    count = chips.count_chips(topology)
    hosts = chips.count_hosts(topology)
    rate = config.batch_size / step_seconds
    size = estimate_record_bytes(config) if record_bytes is None else record_bytes
    hours = config.total_steps * step_seconds / 3600
    return {
        "topology": topology,
        "chips": count,
        "hosts": hosts,
        "batch_size": config.batch_size,
        "steps": config.total_steps,
        "epochs": round(config.total_steps * config.batch_size / records, 1),
        "step_ms": round(1000 * step_seconds, 1),
        "records": records,
        "records_per_s": round(rate),
        "records_per_s_and_host": round(rate / hosts),
        "data_gb": round(records * size / 1e9, 1),
        "data_gb_per_s_and_host": round(rate / hosts * size / 1e9, 3),
        "hours": round(hours, 1),
        "chip_hours": round(hours * count, 1),
        "cost": None if price is None else round(hours * count * price),
        "checkpoints": config.total_steps // config.checkpoint_every,
        "checkpoint_gb": round(parameters * CHECKPOINT_BYTES / 1e9, 2),
        "left_out": list(LEFT_OUT),
    }


def estimate_record_bytes(config: ConfigDict) -> int:
    """Returns the bytes of a record with VIEWS pictures and CAPTIONS captions, uncompressed."""
    features = (VIEWS + CAPTIONS) * config.teacher.dim * 2  # float16
    return config.data.points * POINT_BYTES + features


def format_text(figures: Mapping[str, Any]) -> str:
    """Formats the result of `plan` as lines of a name and a value.

    Args:
      figures: result of `plan`, with `estimated`, whether the step time is the compiler's, and
        `lower_bound`, whether it is only a lower bound.
    """
    origin = "estimate of the compiler" if figures["estimated"] else "given"
    if figures["lower_bound"]:
        origin = "LOWER BOUND: the GPU compiler has no schedule; measure it and pass --step_ms"
    lines = {
        "slice": f"{figures['topology']}: {figures['chips']} chips, {figures['hosts']} hosts",
        "step": f"{figures['step_ms']} ms ({origin}), batch {figures['batch_size']:,}",
        "steps": f"{figures['steps']:,}, {figures['epochs']} epochs of {figures['records']:,}",
        "records": f"{figures['records_per_s']:,}/s, "
        f"{figures['records_per_s_and_host']:,}/s per host",
        "data": f"{figures['data_gb']:,} GB, {figures['data_gb_per_s_and_host']} GB/s per host",
        "time": f"{figures['hours']:,} hours, {figures['chip_hours']:,} chip-hours",
        "cost": "pass --price" if figures["cost"] is None else f"{figures['cost']:,}",
        "checkpoints": f"{figures['checkpoints']} of {figures['checkpoint_gb']} GB",
        "left out": "; ".join(figures["left_out"]),
    }
    return "\n".join(f"{name:<12}{value}" for name, value in lines.items())
