# SPDX-License-Identifier: Apache-2.0
"""Measures how long training waits for a checkpoint, and when the checkpoint is complete.

python -m benchmarks.saving --config configs/uni3d.py --folder /mnt/disk

Prints one JSON line: the size of the state; the seconds of `warm_up`, which compiles the checksums;
and, for the first save and the median of the next ones, `wait_s`, after which the loop continues,
and `complete_s`, after which the checkpoint can be restored. Without `--warm_up`, the first save
compiles. A notice of preemption leaves as many seconds as the machine's provider says.
"""

import argparse
import contextlib
import json
import pathlib
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib import util

import jax
import jax.numpy as jnp

from mrd_jax import models
from mrd_jax.checkpoints import manager
from mrd_jax.cli import command
from mrd_jax.training import initial_state, optimizer


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.saving")
    add = parser.add_argument
    add("--config", type=pathlib.Path, default=pathlib.Path("configs/uni3d.py"), help="experiment")
    add("--folder", type=pathlib.Path, help="where the checkpoints are written; default: temporary")
    add("--saves", type=int, default=4, help="number of saves")
    add("--warm_up", action="store_true", help="compile before the first save, as a run does")
    return parser.parse_args(arguments)


def measure(options: argparse.Namespace, folder: pathlib.Path) -> dict:
    """Saves a state several times and returns the printed fields."""
    spec = util.spec_from_file_location("experiment", options.config)
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config()
    config.checkpoints_kept = 1
    model = models.build_model(config.model)
    chain = optimizer.build_optimizer(config.optimizer, total_steps=config.total_steps)
    shapes = jax.eval_shape(
        lambda: initial_state.create_state(config, model=model, optimizer=chain)
    )
    state = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), shapes)
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
    waits, totals, warm_up = [], [], None
    checkpoints = manager.CheckpointManager(str(folder), config=config, fingerprint="benchmark")
    with contextlib.closing(checkpoints):
        if options.warm_up:
            started = time.perf_counter()
            checkpoints.warm_up(state)
            warm_up = round(time.perf_counter() - started, 2)
        for step in range(1, options.saves + 1):
            started = time.perf_counter()
            checkpoints.save(state, step=step)
            waits.append(time.perf_counter() - started)
            checkpoints.wait()
            totals.append(time.perf_counter() - started)
    return {
        "benchmark": "saving",
        "config": str(options.config),
        "state_gb": round(size / 1e9, 2),
        "arrays": len(jax.tree.leaves(state)),
        "warm_up_s": warm_up,
        "first": {"wait_s": round(waits[0], 2), "complete_s": round(totals[0], 2)},
        "next": {
            "wait_s": round(statistics.median(waits[1:]), 2),
            "complete_s": round(statistics.median(totals[1:]), 2),
        },
        "peak_rss_gb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2),
        "device": jax.devices()[0].device_kind,
    }


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Measures and prints one JSON line."""
    options = parse_arguments(arguments)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        print(json.dumps(measure(options, pathlib.Path(folder))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
