# SPDX-License-Identifier: Apache-2.0
"""Compiles the training step of a config ahead of time for a TPU slice, and reports on it."""

import re
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mrd_jax import models
from mrd_jax.analysis import chips, flops, hlo, schedule
from mrd_jax.checkpoints import model_card
from mrd_jax.data import batch_spec
from mrd_jax.training import initial_state
from mrd_jax.training import run as run_lib

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Estimated time of a Pallas kernel relative to its operations at the chip's peak. The compiler's
# static schedule of the attention kernels gives 1.33 (forward) and 1.2 to 1.3 (backward, see
# docs/tpu_step.md); as for large matrix products, the estimate is conservative.
KERNEL_MARGIN = 1.4
# Side of the matrices in `calibrate`, large enough to fill every matrix unit.
_SIDE = 8192


def build(config: ConfigDict, devices: Sequence[jax.Device]) -> run_lib.Run:
    """Builds the run of a config under `shard_map`, since pmap cannot target absent devices.

    Raises:
      ValueError: see `run_lib.build_run`.
    """
    config = ConfigDict(config).copy_and_resolve_references()
    config.spmd = "shard_map"
    # The compiled program does not depend on the values of the temperatures.
    config.loss.neighbours_within = config.loss.neighbours_across = 0.0
    return run_lib.build_run(config, devices=devices)


def trace(run: run_lib.Run) -> jax.stages.Traced:
    """Traces the training step from the shapes of its state and batch."""
    state = jax.eval_shape(
        lambda: initial_state.create_state(run.config, model=run.model, optimizer=run.optimizer)
    )
    batch = batch_spec.batch_spec(run.config)
    return run.train_step().trace(*run.backend.placed_shapes(state, batch))


def count_parameters(config: ConfigDict) -> int:
    """Returns the number of parameters of the student of a config."""
    model = models.build_model(config.model)
    variables = model_card.abstract_variables(model, points=config.model.points)
    return model_card.count_parameters(variables)


def measure(config: ConfigDict, *, topology: str, calibrated: bool = True) -> dict[str, Any]:
    """Compiles the training step of a config and returns the compiler's figures.

    Args:
      config: experiment config; `config.batch_size` is the global batch size.
      topology: TPU slice, such as "v5e:16x16".
      calibrated: also compile one large matrix product and one large sum, see `calibrate`.

    Returns:
      A JSON object. Bytes and operations are per chip. "memory_bytes" is the published memory of a
      chip, "allocated_bytes" the memory that the program reserves and "peak_bytes" the peak memory
      in use. If the step does not fit, "fits" is False, "allocated_bytes" is the memory it would
      need, "memory_bytes" the memory available to a program, and the other figures of the compiler
      are absent.

    Raises:
      ValueError: the slice does not exist, the config is invalid, or its batch size does not
        divide over the chips.
      chips.MissingCompilerError: libtpu is not installed.
      RuntimeError: the compiler failed for another reason than a lack of memory.
    """
    chip, _ = chips.parse_topology(topology)
    devices = chips.make_devices(topology)
    run = build(config, devices)
    started = time.perf_counter()
    traced = trace(run)
    lowered = traced.lower()
    traced_at = time.perf_counter()
    report = _describe_config(config, run, traced, topology=topology)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        report |= parse_out_of_memory(str(error)) | {"lower_s": round(traced_at - started, 1)}
        return report | {"compile_s": round(time.perf_counter() - traced_at, 1)}
    compiled_at = time.perf_counter()
    report |= describe_compiled(compiled, chip)
    if calibrated:
        report["calibration"] = calibrate(devices[0], chip)
    return report | {
        "lower_s": round(traced_at - started, 1),
        "compile_s": round(compiled_at - traced_at, 1),
    }


def _describe_config(
    config: ConfigDict, run: run_lib.Run, traced: jax.stages.Traced, *, topology: str
) -> dict[str, Any]:
    """Returns the part of the report that needs no compilation."""
    chip, _ = chips.parse_topology(topology)
    count = len(run.backend.devices)
    local_batch = run.config.batch_size // count
    model_flops = flops.count_step(run.model, run.config, local_batch=local_batch, chips=count)
    state = traced.in_avals[0][0]
    return {
        "tool": "compile_tpu",
        "topology": topology,
        "chips": count,
        "batch_size": run.config.batch_size,
        "batch_per_chip": local_batch,
        "spmd_of_config": config.spmd,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params["student"])),
        "flops": flops.count_program(traced.jaxpr),
        "model_flops": {**model_flops, "total": sum(model_flops.values())},
        # Lower bound of the step time: matrix products alone, at the peak.
        "floor_s": sum(model_flops.values()) / chip.peak,
        "memory_bytes": chip.memory,
        "jax": jax.__version__,
        "libtpu": metadata.version("libtpu"),
    }


def describe_compiled(compiled: jax.stages.Compiled, chip: chips.Chip) -> dict[str, Any]:
    """Returns memory, schedule and communication of a compiled program."""
    memory = compiled.memory_analysis()
    summary = schedule.summarize(hlo.parse(compiled.as_text()))
    seconds = {
        part: summary.cycles.get(part, 0) / chip.clock
        + KERNEL_MARGIN * summary.kernel_operations.get(part, 0) / chip.peak
        for part in schedule.NAMES
    }
    estimate = sum(seconds.values())
    moved = sum(summary.bytes.values())
    return {
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
        "estimate_s": estimate,
        "kernels_s": KERNEL_MARGIN * sum(summary.kernel_operations.values()) / chip.peak,
        "share": {part: round(part_s / max(estimate, 1e-9), 4) for part, part_s in seconds.items()},
        "collectives": {
            kind: {"count": sent.count, "bytes": sent.bytes}
            for kind, sent in summary.collectives.items()
        },
        "kernels_not_estimated": summary.kernels,
        "loops_of_unknown_length": summary.unknown_loops,
    }


def parse_out_of_memory(message: str) -> dict[str, Any]:
    """Parses the compiler's out-of-memory error.

    Args:
      message: message of the exception that the compiler raised.

    Returns:
      "fits" (False), "allocated_bytes" (the memory needed) and "memory_bytes" (the memory
      available).

    Raises:
      RuntimeError: the message is not an out-of-memory error.
    """
    size = r"([\d.]+)([KMGT]?)i?B?\b"
    found = re.search(rf"Used {size} of {size} hbm", message) or re.search(
        rf"\({size}\) exceeds available HBM \({size}\)", message
    )
    if "RESOURCE_EXHAUSTED" not in message or found is None:
        raise RuntimeError(f"the TPU compiler failed: {message}")
    used, used_unit, available, available_unit = found.groups()
    return {
        "fits": False,
        "allocated_bytes": round(float(used) * _UNITS[used_unit]),
        "memory_bytes": round(float(available) * _UNITS[available_unit]),
    }


def calibrate(device: jax.Device, chip: chips.Chip) -> dict[str, float]:
    """Compares the compiler's estimates with the roofline, on operations that nearly reach it.

    Returns:
      "product": estimate divided by the time at peak, for a large bfloat16 matrix product. "sum":
      estimate divided by the time at full bandwidth, for a large float32 sum.
    """

    def estimate(function: Any, dtype: Any) -> float:
        shape = jax.ShapeDtypeStruct(
            (_SIDE, _SIDE), dtype, sharding=jax.sharding.SingleDeviceSharding(device)
        )
        text = jax.jit(function).lower(shape, shape).compile().as_text()
        return sum(schedule.summarize(hlo.parse(text)).cycles.values()) / chip.clock

    at_peak = flops.count_matmul(_SIDE, _SIDE, _SIDE) / chip.peak
    at_bandwidth = 3 * 4 * _SIDE**2 / chip.bandwidth
    return {
        "product": round(estimate(jnp.matmul, jnp.bfloat16) / at_peak, 2),
        "sum": round(estimate(jnp.add, jnp.float32) / at_bandwidth, 2),
    }
