# SPDX-License-Identifier: Apache-2.0
"""Both backends against one device, and the bandwidth of collectives."""

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from ml_collections import ConfigDict

from mrd_jax.data import batch_spec
from mrd_jax.distributed import backends
from mrd_jax.selfcheck import timing, tiny
from mrd_jax.selfcheck.results import (
    SKIPPED,
    STEP_TOLERANCE,
    UPDATE_TOLERANCE,
    Context,
    Result,
    compare,
)
from mrd_jax.training import optimizer
from mrd_jax.training import run as run_lib

# Steps that are compared: the second one uses the parameters that the first has updated.
STEPS = 2
# Gradient descent with momentum in place of AdamW, which divides gradients by their magnitude and
# so amplifies rounding wherever they are nearly zero.
OPTIMIZER = optax.chain(optimizer.clip(1.0), optax.sgd(0.1, momentum=0.9))
# The backend "shard_map" with `config.shard_state`.
FSDP = ("shard_map", True)
# Size of each device's array in the timed collectives.
MEGABYTES = 256


def check_backends(context: Context) -> Iterator[Result]:
    """Compares two steps on all devices with those of one: metrics, changes of parameters."""
    config = tiny.shrink(context.config)
    devices = context.devices
    count = len(devices)
    cases = [("pmap", False)]
    if count > 1:
        cases += [("shard_map", False)] if context.quick else [("shard_map", False), FSDP]
    with jax.default_matmul_precision("highest"):
        expected = _train(config, "shard_map", False, devices[:1])
        for spmd, shard_state in cases:
            name = f"backends/{spmd}{'/fsdp' if shard_state else ''}/{count}"
            if tiny.BATCH % count:
                yield Result(name, SKIPPED, f"{tiny.BATCH} samples do not divide over the devices")
                continue
            found = _train(config, spmd, shard_state, devices)
            yield compare(name, found[0], expected[0], tolerance=STEP_TOLERANCE)
            changes = found[1], expected[1]
            yield compare(f"{name}/parameters", *changes, tolerance=UPDATE_TOLERANCE)
    if count == 1:
        yield Result("backends/several devices", SKIPPED, "one device")


def _train(
    config: ConfigDict, spmd: str, shard_state: bool, devices: Sequence[jax.Device]
) -> tuple[Any, Any]:
    """Returns metrics of the first steps on a random batch, and how they changed the parameters."""
    config = ConfigDict(config)
    config.spmd, config.shard_state = spmd, shard_state
    run = run_lib.build_run(config, devices=devices)
    run = dataclasses.replace(run, optimizer=OPTIMIZER)
    state, step = run.initial_state(), run.train_step()
    initial = jax.device_get(state.params)
    batch = run.backend.place_batch(batch_spec.fake_batch(config))
    metrics = []
    for _ in range(STEPS):
        state, values = step(state, batch)
        metrics.append(jax.device_get(values))
    return metrics, jax.tree.map(np.subtract, jax.device_get(state.params), initial)


def check_collectives(context: Context) -> Iterator[Result]:
    """Checks the values of a sum and a gather over the devices, and measures their bandwidth.

    The bandwidth is that of each device's links, with a ring's number of transfers.
    """
    devices = context.devices
    count = len(devices)
    if count == 1:
        yield Result("collectives", SKIPPED, "one device")
        return
    size = 2**10 if context.quick else MEGABYTES * 2**20 // 4
    mesh = Mesh(np.array(devices), (backends.AXIS,))
    split = NamedSharding(mesh, PartitionSpec(backends.AXIS))
    rows = jax.jit(
        lambda: jnp.broadcast_to(jnp.arange(1.0, count + 1)[:, None], (count, size)),
        out_shardings=split,
    )()

    def run(collective: Any) -> Any:
        return jax.jit(
            jax.shard_map(
                collective,
                mesh=mesh,
                in_specs=PartitionSpec(backends.AXIS),
                out_specs=PartitionSpec(backends.AXIS),
                check_vma=False,
            )
        )

    total = count * (count + 1) / 2
    collectives = {
        "all_reduce": (lambda x: jax.lax.psum(x, backends.AXIS), np.full(count, total), 2),
        "all_gather": (
            # Whole, so that the compiler cannot leave a part of it out.
            lambda x: jax.lax.all_gather(x, backends.AXIS, tiled=True),
            np.tile(np.arange(1.0, count + 1), count),
            count,
        ),
    }
    for name, (collective, expected, transfers) in collectives.items():
        function = run(collective)
        found = np.asarray(function(rows)[:, 0])
        result = compare(f"collectives/{name}", found, expected, tolerance=0)
        duration = timing.seconds(function, rows)
        moved = transfers * (count - 1) / count * size * 4
        result.values.update(ms=1e3 * duration, gb_per_s=moved / duration / 1e9, bytes=size * 4)
        yield result
