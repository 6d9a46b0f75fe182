# SPDX-License-Identifier: Apache-2.0
"""Compiles the training step of a config for a TPU slice that is not there, and reports on it."""

import re
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mrd_jax.analysis import chips, flops, hlo, schedule
from mrd_jax.data import batch_spec
from mrd_jax.training import initial_state
from mrd_jax.training import run as run_lib

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Time of a hand-written kernel over its operations at the chip's peak. The compiler's own static
# schedule of the attention kernels gives 1.33 (forward) and 1.2 to 1.3 (see docs/tpu_step.md); as
# for large products, the estimate errs towards slow.
KERNEL_MARGIN = 1.4
# Side of the matrices that `calibrate` multiplies: large enough to fill every matrix unit.
_SIDE = 8192


def build(config: ConfigDict, devices: Sequence[jax.Device]) -> run_lib.Run:
    """The run of a config, under `shard_map`: pmap cannot be lowered for absent devices.

    Raises:
      ValueError: as `run_lib.build_run`.
    """
    config = ConfigDict(config)
    config.spmd = "shard_map"
    return run_lib.build_run(config, devices=devices)


def trace(run: run_lib.Run) -> jax.stages.Traced:
    """Traces the function that training calls, from the shapes of its state and batch alone."""
    state = jax.eval_shape(
        lambda: initial_state.create_state(run.config, model=run.model, optimizer=run.optimizer)
    )
    batch = batch_spec.batch_spec(run.config)
    return run.train_step().trace(*run.backend.placed_shapes(state, batch))


def measure(config: ConfigDict, *, topology: str, calibrated: bool = True) -> dict[str, Any]:
    """Compiles the step of a config and says what the compiler says.

    Args:
      config: of the run; its batch_size is over all chips.
      topology: such as "v5e:16x16".
      calibrated: also compile one large product and one large sum, see `calibrate`.

    Returns:
      A JSON object; bytes and operations are of one chip. "memory_bytes" is what is published.
      "allocated_bytes" is what the program reserves, "peak_bytes" the most of it that is in use at
      one time. Where the step does not fit, "fits" is False, "allocated_bytes" what it would need
      and "memory_bytes" what the compiler can give; the rest of what it tells is missing.

    Raises:
      ValueError: no such slice, or the config has no meaning, or does not divide over its chips.
      chips.MissingCompilerError: libtpu is not installed.
    """
    chip, _ = chips.find(topology)
    devices = chips.devices(topology)
    run = build(config, devices)
    started = time.perf_counter()
    traced = trace(run)
    lowered = traced.lower()
    traced_at = time.perf_counter()
    report = _of_config(config, run, traced, topology=topology)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        report |= refusal(str(error)) | {"lower_s": round(traced_at - started, 1)}
        return report | {"compile_s": round(time.perf_counter() - traced_at, 1)}
    compiled_at = time.perf_counter()
    report |= of_compiled(compiled, chip)
    if calibrated:
        report["calibration"] = calibrate(devices[0], chip)
    return report | {
        "lower_s": round(traced_at - started, 1),
        "compile_s": round(compiled_at - traced_at, 1),
    }


def _of_config(
    config: ConfigDict, run: run_lib.Run, traced: jax.stages.Traced, *, topology: str
) -> dict[str, Any]:
    """What needs no compiler."""
    chip, _ = chips.find(topology)
    count = len(run.backend.devices)
    local_batch = run.config.batch_size // count
    needed = flops.step(run.model, run.config, local_batch=local_batch, chips=count)
    state = traced.in_avals[0][0]
    return {
        "tool": "compile_tpu",
        "topology": topology,
        "chips": count,
        "batch_size": run.config.batch_size,
        "batch_per_chip": local_batch,
        "spmd_of_config": config.spmd,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params["student"])),
        "flops": flops.of_program(traced.jaxpr),
        "model_flops": {**needed, "total": sum(needed.values())},
        "floor_s": sum(needed.values()) / chip.peak,
        "memory_bytes": chip.memory,
        "jax": jax.__version__,
        "libtpu": metadata.version("libtpu"),
    }


def of_compiled(compiled: jax.stages.Compiled, chip: chips.Chip) -> dict[str, Any]:
    """Memory, schedule and communication of a program that fits."""
    memory = compiled.memory_analysis()
    found = schedule.read(hlo.parse(compiled.as_text()))
    seconds = {
        name: found.cycles.get(name, 0) / chip.clock
        + KERNEL_MARGIN * found.kernel_operations.get(name, 0) / chip.peak
        for name in schedule.NAMES
    }
    estimate = sum(seconds.values())
    moved = sum(found.bytes.values())
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
        "kernels_s": KERNEL_MARGIN * sum(found.kernel_operations.values()) / chip.peak,
        "share": {name: round(part / max(estimate, 1e-9), 4) for name, part in seconds.items()},
        "collectives": {
            kind: {"count": sent.count, "bytes": sent.bytes}
            for kind, sent in found.collectives.items()
        },
        "kernels_not_estimated": found.kernels,
        "loops_of_unknown_length": found.unknown_loops,
    }


def refusal(message: str) -> dict[str, Any]:
    """What the compiler says where a program does not fit.

    Args:
      message: of its error.

    Returns:
      "fits", "allocated_bytes" that it would need, and "memory_bytes" that there are.

    Raises:
      RuntimeError: the error is about something else.
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
    """How the compiler's estimate stands to the published figures, where those are known to hold.

    Returns:
      "product": estimate over time at peak, of one large bfloat16 matrix product; "sum": estimate
      over time at full bandwidth, of one large float32 sum.
    """

    def estimate(function: Any, dtype: Any) -> float:
        shape = jax.ShapeDtypeStruct(
            (_SIDE, _SIDE), dtype, sharding=jax.sharding.SingleDeviceSharding(device)
        )
        text = jax.jit(function).lower(shape, shape).compile().as_text()
        return sum(schedule.read(hlo.parse(text)).cycles.values()) / chip.clock

    at_peak = flops.product(_SIDE, _SIDE, _SIDE) / chip.peak
    at_bandwidth = 3 * 4 * _SIDE**2 / chip.bandwidth
    return {
        "product": round(estimate(jnp.matmul, jnp.bfloat16) / at_peak, 2),
        "sum": round(estimate(jnp.add, jnp.float32) / at_bandwidth, 2),
    }
