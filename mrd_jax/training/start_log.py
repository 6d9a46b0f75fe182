# SPDX-License-Identifier: Apache-2.0
"""Logs, on one screen, what a run is about to do."""

import logging
from typing import Any

import jax

from mrd_jax import storage
from mrd_jax.checkpoints import model_card, train_state
from mrd_jax.data import batch_spec
from mrd_jax.distributed import backends, compilation_cache
from mrd_jax.training import run as run_lib

LOGGER = logging.getLogger(__name__)

# Parameter arrays that are listed; the largest ones.
LARGEST = 6


def log_start(
    run: run_lib.Run,
    data: run_lib.TrainingData,
    state: train_state.TrainState,
    *,
    workdir: storage.PathLike,
) -> None:
    """Logs devices, model, batch, schedule and the shardings of parameters and batch.

    Args:
      run: what the config builds.
      data: training split.
      state: train state that training begins with.
      workdir: folder of the run.
    """
    for line in lines(run, data, state, workdir=workdir):
        LOGGER.info("%s", line)


def lines(
    run: run_lib.Run,
    data: run_lib.TrainingData,
    state: train_state.TrainState,
    *,
    workdir: storage.PathLike,
) -> list[str]:
    """Returns the lines that `log_start` logs; arguments as there."""
    config, devices = run.config, run.backend.devices
    step, left = int(state.step), config.total_steps - int(state.step)
    fresh = config.batch_size - config.data.hard_negatives
    parameters = model_card.count_parameters({"params": state.params["student"]})
    return [
        f"workdir: {workdir}",
        f"devices: {len(devices)} x {devices[0].device_kind}, "
        f"{jax.process_count()} process(es) with {jax.local_device_count()} local device(s)",
        f"backend: {config.spmd}" + (", FSDP" if config.shard_state else ", replicated state"),
        f"compilation cache: {compilation_cache.directory() or 'off'}",
        f"student: {config.model.name}, {parameters:,} parameters, activations in "
        f"{config.model.dtype}",
        f"batch: {config.batch_size} samples, {config.batch_size // len(devices)} per device",
        f"steps: {step} to {config.total_steps}, {left * fresh / len(data.records):.1f} epochs of "
        f"{len(data.records):,} records",
        "parameters (largest):",
        *_parameter_lines(state.params["student"]),
        "batch arrays:",
        *(
            f"  {name} {spec.dtype} {list(spec.shape)} sharded over {backends.AXIS!r}"
            for name, spec in batch_spec.batch_spec(config).items()
        ),
    ]


def _parameter_lines(params: Any) -> list[str]:
    """Describes the largest parameter arrays: path, type, shape and sharding."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    largest = sorted(leaves, key=lambda item: -item[1].size)[:LARGEST]
    return [
        f"  {jax.tree_util.keystr(path, simple=True, separator='/')} {leaf.dtype} "
        f"{list(leaf.shape)} {_sharding(leaf)}"
        for path, leaf in largest
    ]


def _sharding(leaf: jax.Array) -> str:
    """Describes how an array is laid out over the devices."""
    if not isinstance(leaf.sharding, jax.sharding.NamedSharding) or leaf.is_fully_replicated:
        return "replicated"
    return f"sharded {tuple(leaf.sharding.spec)}"
