# SPDX-License-Identifier: Apache-2.0
"""Starts the real command as several processes on this machine, and waits for them."""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence

from mrd_jax import storage

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "distributed" / "multi_process_config.py"
# Seconds that any wait may take; generous, because test machines are busy.
TIMEOUT = 300


@dataclasses.dataclass
class ProcessGroup:
    """The processes of one run.

    Attributes:
      workdir: folder of the run, local or in a bucket.
      logs: log file of each process.
      processes: processes by index.
    """

    workdir: storage.Path | pathlib.Path
    logs: list[pathlib.Path]
    processes: list[subprocess.Popen]

    def wait(self) -> list[int]:
        """Waits for all processes; returns their exit statuses."""
        return [process.wait(timeout=TIMEOUT) for process in self.processes]

    def wait_for_success(self) -> None:
        """Waits for all processes; fails unless each exits with status 0."""
        statuses = self.wait()
        assert statuses == [0] * len(statuses), f"{statuses}:\n{self.log()}"

    def wait_for_step(self, step: int) -> None:
        """Waits until the metrics of a step are written."""
        deadline = time.monotonic() + TIMEOUT
        while not any(row["step"] >= step for row in metric_rows(self.workdir, "train/loss")):
            assert all(process.poll() is None for process in self.processes), self.log()
            assert time.monotonic() < deadline, self.log()
            time.sleep(0.02)

    def log(self, process: int | None = None) -> str:
        """Returns the end of the log of one process, or of all."""
        logs = self.logs if process is None else [self.logs[process]]
        return "\n".join(path.read_text(errors="replace")[-20_000:] for path in logs)


def start(
    workdir: storage.Path | pathlib.Path,
    data: pathlib.Path,
    *flags: str,
    processes: int = 2,
    devices: int = 4,
    own_flags: Sequence[Sequence[str]] = (),
    own_environment: Sequence[Mapping[str, str]] = (),
    log_folder: pathlib.Path | None = None,
) -> ProcessGroup:
    """Starts the training command as one run of several processes.

    Args:
      workdir: folder of the run.
      data: folder of the data set.
      *flags: additional flags of every process.
      processes: number of processes; a single one joins no cluster.
      devices: number of devices of each process.
      own_flags: additional flags of each process, by its index.
      own_environment: additional variables of each process, by its index.
      log_folder: local folder of the logs; the parent of the workdir by default.
    """
    log_folder = log_folder or workdir.parent
    log_folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        coordinator = f"localhost:{free.getsockname()[1]}"
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "JAX_NUM_CPU_DEVICES": str(devices),
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(data.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    logs, started = [], []
    # Processes started by a background job ignore SIGINT; here they must not.
    old_handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    for process in range(processes):
        command = [sys.executable, "-m", "mrd_jax.main", f"--config={CONFIG}"]
        command += [f"--workdir={workdir}", f"--config.data.directory={data}", *flags]
        if processes > 1:
            command += [f"--coordinator={coordinator}", f"--processes={processes}"]
            command += [f"--process={process}"]
        command += own_flags[process] if own_flags else []
        logs.append(log_folder / f"{workdir.name}.{process}.log")
        with logs[-1].open("ab") as log:
            started.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=environment | (own_environment[process] if own_environment else {}),
                    stdout=log,
                    stderr=log,
                )
            )
    signal.signal(signal.SIGINT, old_handler)
    return ProcessGroup(workdir, logs, started)


def metric_rows(workdir: storage.Path | pathlib.Path, name: str) -> list[dict]:
    """Returns the rows of `metrics.jsonl` that hold a metric."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    # The last line may be incomplete.
    rows = [json.loads(line) for line in lines if line.endswith("}")]
    return [row for row in rows if name in row]
