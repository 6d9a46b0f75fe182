# SPDX-License-Identifier: Apache-2.0
"""Measures how long training waits for a checkpoint, and when the checkpoint is complete.

python -m benchmarks.saving --config configs/uni3d.py --folder /mnt/disk
python -m benchmarks.saving --config configs/uni3d_g.py --folder /mnt/disk --processes 2 --warm_up

Prints one JSON line: the size of the state; the seconds of `warm_up`, which compiles the checksums,
and of the checksums alone, which the devices compute; and, for the first save and the median of the
next ones, `wait_s`, after which the loop continues, and `complete_s`, after which the checkpoint
can be restored. Without `--warm_up`, the first save compiles. A notice of preemption leaves as many
seconds as the machine's provider says.

With several processes, which this command starts, the state is sharded over them as
`config.shard_state` shards it, and each writes its shards. `writes_mb_per_s` is the rate of plain
writes to the same folder, which bounds `complete_s`.
"""

import argparse
import contextlib
import json
import os
import pathlib
import resource
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from importlib import util
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mrd_jax import models
from mrd_jax.checkpoints import manager
from mrd_jax.cli import command
from mrd_jax.distributed import backends, processes
from mrd_jax.training import initial_state, optimizer

# Bytes of the plain write that `writes_mb_per_s` times.
PROBE = 2**30


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.saving")
    add = parser.add_argument
    add("--config", type=pathlib.Path, default=pathlib.Path("configs/uni3d.py"), help="experiment")
    add("--folder", type=pathlib.Path, help="where the checkpoints are written; default: temporary")
    add("--saves", type=int, default=4, help="number of saves, at least 2")
    add("--warm_up", action="store_true", help="compile before the first save, as a run does")
    add("--processes", type=int, default=1, help="processes that hold the state together")
    add("--depth", type=int, help="transformer blocks, where the memory forbids the config's")
    add("--coordinator", help=argparse.SUPPRESS)
    add("--process", type=int, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


def load_config(path: pathlib.Path, *, depth: int | None) -> ConfigDict:
    """Returns the config of an experiment, which keeps one checkpoint."""
    spec = util.spec_from_file_location("experiment", path)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.checkpoints_kept = 1
    config.model.depth = depth or config.model.depth
    return config


def make_state(config: ConfigDict) -> Any:
    """Returns a train state of ones, on the devices that hold it in a run."""
    model = models.build_model(config.model)
    chain = optimizer.build_optimizer(config.optimizer, total_steps=config.total_steps)
    shapes = jax.eval_shape(
        lambda: initial_state.create_state(config, model=model, optimizer=chain)
    )
    backend = backends.make_backend(
        "shard_map", devices=tuple(jax.devices()), shard_state=config.shard_state
    )
    return jax.jit(
        lambda: jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes),
        out_shardings=backend.state_shardings(shapes),
    )()


def write_rate(folder: pathlib.Path) -> int:
    """Returns the rate in MB/s at which one file is written to a disk."""
    block = os.urandom(2**24)
    started = time.perf_counter()
    with (folder / "probe").open("wb") as file:
        for _ in range(PROBE // len(block)):
            file.write(block)
        file.flush()
        os.fsync(file.fileno())
    seconds = time.perf_counter() - started
    (folder / "probe").unlink()
    return round(PROBE / seconds / 1e6)


def _seconds(function: Callable, *arguments: Any) -> float:
    """Returns the seconds that a call takes."""
    started = time.perf_counter()
    function(*arguments)
    return round(time.perf_counter() - started, 2)


def measure(options: argparse.Namespace, folder: pathlib.Path) -> dict:
    """Saves a state several times and returns the printed fields."""
    config = load_config(options.config, depth=options.depth)
    rate = write_rate(folder) if jax.process_index() == 0 else None
    state = make_state(config)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    waits, totals, warm_up, checksums = [], [], None, None
    checkpoints = manager.CheckpointManager(
        str(folder / "run"), config=config, fingerprint="benchmark"
    )
    with contextlib.closing(checkpoints):
        if options.warm_up:
            warm_up, checksums = (_seconds(checkpoints.warm_up, state) for _ in range(2))
        for step in range(1, options.saves + 1):
            started = time.perf_counter()
            checkpoints.save(state, step=step)
            waits.append(time.perf_counter() - started)
            checkpoints.wait()
            totals.append(time.perf_counter() - started)
    return {
        "benchmark": "saving",
        "config": str(options.config),
        "processes": options.processes,
        "depth": config.model.depth,
        "state_gb": round(size / 1e9, 2),
        "arrays": len(jax.tree.leaves(state)),
        "warm_up_s": warm_up,
        "checksums_s": checksums,
        "first": {"wait_s": round(waits[0], 2), "complete_s": round(totals[0], 2)},
        "next": {
            "wait_s": round(statistics.median(waits[1:]), 2),
            "complete_s": round(statistics.median(totals[1:]), 2),
        },
        "writes_mb_per_s": rate,
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "device": jax.devices()[0].device_kind,
    }


def start_processes(options: argparse.Namespace, folder: pathlib.Path) -> int:
    """Starts this command once per process, and returns the highest exit status."""
    with socket.create_server(("localhost", 0)) as server:
        port = server.getsockname()[1]
    again = [sys.executable, "-m", "benchmarks.saving", "--config", str(options.config)]
    again += ["--folder", str(folder), "--saves", str(options.saves)]
    again += ["--warm_up"] if options.warm_up else []
    again += ["--depth", str(options.depth)] if options.depth else []
    again += ["--processes", str(options.processes), "--coordinator", f"localhost:{port}"]
    started = [
        subprocess.Popen([*again, "--process", str(index)]) for index in range(options.processes)
    ]
    return max(abs(process.wait()) for process in started)


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints one JSON line."""
    options = parse_arguments(arguments)
    if options.coordinator:
        processes.join(options.coordinator, processes=options.processes, process=options.process)
        report = measure(options, options.folder)
        if options.process == 0:
            print(json.dumps(report))
        return 0
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        if options.processes > 1:
            return start_processes(options, pathlib.Path(folder))
        print(json.dumps(measure(options, pathlib.Path(folder))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
