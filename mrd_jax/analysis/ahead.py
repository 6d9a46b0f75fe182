# SPDX-License-Identifier: Apache-2.0
"""Compiles the training step of a config ahead of time for TPUs or GPUs, and reports on it."""

import dataclasses
import math
import re
import time
from collections.abc import Sequence
from importlib import metadata
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mrd_jax import models
from mrd_jax.analysis import (
    chips,
    flops,
    gpu_targets,
    hlo,
    minimal_traffic,
    program,
    schedule,
)
from mrd_jax.checkpoints import model_card
from mrd_jax.data import batch_spec, dataset_metadata
from mrd_jax.training import calibration, initial_state, validation
from mrd_jax.training import run as run_lib

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# Side of the matrices in `calibrate`, large enough to fill every matrix unit.
_SIDE = 8192


def build(config: ConfigDict, devices: Sequence[jax.Device]) -> run_lib.Run:
    """Builds the run of a config under `shard_map`, since pmap cannot target absent devices.

    Raises:
      ValueError: see `run_lib.build_run`.
    """
    config = ConfigDict(config).copy_and_resolve_references()
    config.spmd = "shard_map"
    if config.loss.neighbours_within or config.loss.neighbours_across:
        # A temperature per target, as after calibration; the program does not depend on its value.
        targets = calibration.targets(config.loss)
        given = dict.fromkeys(targets, config.loss.teacher_temperature)
        config.loss = calibration.with_temperatures(
            config.loss, calibration.Calibration(given, softness={}, samples=0)
        )
    config = dataset_metadata.with_points(config, assumed=batch_spec.DEFAULT_POINTS)
    return run_lib.build_run(config, devices=devices)


def validate(config: ConfigDict, *, topology: str) -> None:
    """Checks a config, and that the chips of a topology have what it asks for; compiles nothing.

    Chips that are not in `chips.CHIPS` are not checked.

    Raises:
      mrd_jax.training.validation.ConfigError: lists every invalid field of the config.
    """
    validation.validate(config)
    chip = chips.CHIPS.get(topology.partition(":")[0])
    if chip is not None:
        platform = "cuda" if chip.platform == "gpu" else chip.platform
        validation.validate_platform(config, platform=platform)


def shapes(run: run_lib.Run) -> tuple[Any, Any]:
    """Returns shapes, types and shardings of the train state and the global batch of a run."""
    state = jax.eval_shape(
        lambda: initial_state.create_state(run.config, model=run.model, optimizer=run.optimizer)
    )
    return run.backend.placed_shapes(state, batch_spec.batch_spec(run.config))


def trace(run: run_lib.Run) -> jax.stages.Traced:
    """Traces the training step from the shapes of its state and batch."""
    return run.train_step().trace(*shapes(run))


def count_parameters(config: ConfigDict) -> int:
    """Returns the number of parameters of the student of a config."""
    model = models.build_model(config.model)
    variables = model_card.abstract_variables(model, points=config.model.points)
    return model_card.count_parameters(variables)


def measure(config: ConfigDict, *, topology: str, calibrated: bool = True) -> dict[str, Any]:
    """Compiles the training step of a config and returns the compiler's figures.

    Args:
      config: experiment config; `config.batch_size` is the global batch size.
      topology: TPU slice or GPUs, such as "v5e:16x16" or "h100:2x8".
      calibrated: for a TPU, also compile one large matrix product and one large sum, see
        `calibrate`.

    Returns:
      A JSON object. Bytes and operations are per chip. "allocated_bytes" is the memory that the
      program reserves, "peak_bytes" the peak memory in use, and "memory_bytes" the published memory
      of a TPU chip; of a GPU, the share of its memory that JAX will allocate, and "fits" tells
      whether the program does in that. If the step does not fit on a TPU, "allocated_bytes" is the
      memory it would need, "memory_bytes" the memory available to a program, and the other figures
      of the compiler are absent. `program.describe` adds the figures of the compiled program.

    Raises:
      ValueError: the topology does not exist, the config is invalid, or its batch size does not
        divide over the chips.
      chips.MissingCompilerError: the compiler is not installed.
      RuntimeError: the compiler failed for another reason than a lack of memory.
    """
    chip, _ = chips.parse_topology(topology)
    validate(config, topology=topology)
    devices = chips.make_devices(topology)
    run = build(config, devices)
    started = time.perf_counter()
    traced = trace(run)
    lowered = traced.lower()
    traced_at = time.perf_counter()
    report = _describe_config(config, run, traced, topology=topology)
    report["lower_s"] = round(traced_at - started, 1)
    try:
        compiled = compile_for(chip, lowered)
    except jax.errors.JaxRuntimeError as error:
        report |= parse_out_of_memory(str(error))
        return report | {"compile_s": round(time.perf_counter() - traced_at, 1)}
    report["compile_s"] = round(time.perf_counter() - traced_at, 1)
    report |= program.describe(compiled, chip)
    if chip.platform == "gpu":
        report["fits"] = report["allocated_bytes"] <= report["memory_bytes"]
        report["argument_bytes_of"] = _argument_bytes(run)
        report["minimal_bytes_of"] = minimal_traffic.count_step(
            run.model,
            run.config,
            local_batch=report["batch_per_chip"],
            parameters=report["argument_bytes_of"]["params"] // 4,
        )
    elif calibrated:
        report["calibration"] = calibrate(devices[0], chip)
    return report


def compile_for(chip: chips.Chip, lowered: jax.stages.Lowered) -> jax.stages.Compiled:
    """Compiles for devices that are not there."""
    options = gpu_targets.COMPILER_OPTIONS if chip.platform == "gpu" else None
    return lowered.compile(compiler_options=options)


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
        "tool": "compile",
        "topology": topology,
        "platform": chip.platform,
        "chips": count,
        "batch_size": run.config.batch_size,
        "batch_per_chip": local_batch,
        "spmd_of_config": config.spmd,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(state.params["student"])),
        "flops": flops.count_program(traced.jaxpr),
        "model_flops": {**model_flops, "total": sum(model_flops.values())},
        # Lower bound of the step time: matrix products alone, at the peak.
        "floor_s": sum(model_flops.values()) / chip.peak,
        "jax": jax.__version__,
        **_describe_platform(chip),
    }


def _describe_platform(chip: chips.Chip) -> dict[str, Any]:
    if chip.platform == "tpu":
        return {"memory_bytes": chip.memory, "libtpu": metadata.version("libtpu")}
    fraction = gpu_targets.memory_fraction()
    return {
        "memory_bytes": int(fraction * chip.memory),
        "memory_fraction": fraction,
        "cuda_plugin": gpu_targets.find_plugin(),
    }


def _argument_bytes(run: run_lib.Run) -> dict[str, int]:
    """Returns the bytes on one device of the train state, by its fields, and of the batch."""
    state, batch = shapes(run)

    def size(tree: Any) -> int:
        return sum(
            math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
            for leaf in jax.tree.leaves(tree)
            if not jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.extended)
        )

    sizes = {field.name: size(getattr(state, field.name)) for field in dataclasses.fields(state)}
    return {name: count for name, count in (sizes | {"batch": size(batch)}).items() if count}


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
    """Compares the TPU compiler's estimates with the roofline, on operations that nearly reach it.

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
