# SPDX-License-Identifier: Apache-2.0
"""Times the training step of a config on one device, on a random batch."""

import statistics
import time
from typing import Any

import jax
from ml_collections import ConfigDict

from mrd_jax.data import batch_spec
from mrd_jax.training import run as run_lib


def measure(config: ConfigDict, *, steps: int, warm_up: int) -> dict[str, Any]:
    """Runs training steps of a config on the first device.

    Args:
      config: experiment; its batch size is that of one device.
      steps: number of steps to time.
      warm_up: steps before them; the first includes the compilation.

    Returns:
      A JSON object: "step_s" (median), "samples_per_s", "peak_gb" (None if the device does not
      report it), "device" and "version".
    """
    device = jax.devices()[0]
    run = run_lib.build_run(config, devices=[device])
    batch = run.backend.place_batch(batch_spec.fake_batch(config))
    step, state = run.train_step(), run.initial_state()
    seconds = []
    for _ in range(warm_up + steps):
        started = time.perf_counter()
        state, *metrics = step(state, batch)
        jax.block_until_ready((state, metrics))
        seconds.append(time.perf_counter() - started)
    median = statistics.median(seconds[warm_up:])
    peak = (device.memory_stats() or {}).get("peak_bytes_in_use")
    return {
        "step_s": median,
        "samples_per_s": config.batch_size / median,
        "peak_gb": None if peak is None else peak / 1e9,
        "device": device.device_kind,
        "version": f"jax {jax.__version__}",
    }
