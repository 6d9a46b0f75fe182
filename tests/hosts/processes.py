# SPDX-License-Identifier: Apache-2.0
"""Starts the real command as several processes of this machine, and waits for what they do."""

import dataclasses
import json
import os
import pathlib
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "hosts" / "hosts_run.py"
# Seconds that anything may take, however busy the machine.
PATIENCE = 300


@dataclasses.dataclass
class Group:
    """The processes of one run.

    Attributes:
      workdir: that they share.
      logs: file of what each has printed.
      processes: in their order.
    """

    workdir: pathlib.Path
    logs: list[pathlib.Path]
    processes: list[subprocess.Popen]

    def wait(self) -> list[int]:
        """The exit status of each."""
        return [process.wait(timeout=PATIENCE) for process in self.processes]

    def finish(self) -> None:
        """Waits for a good end."""
        statuses = self.wait()
        assert statuses == [0] * len(statuses), f"{statuses}:\n{self.log()}"

    def reach(self, step: int) -> None:
        """Waits until the metrics of a step are written."""
        ends = time.monotonic() + PATIENCE
        while not any(row["step"] >= step for row in rows(self.workdir, "train/loss")):
            assert all(process.poll() is None for process in self.processes), self.log()
            assert time.monotonic() < ends, self.log()
            time.sleep(0.02)

    def log(self, process: int | None = None) -> str:
        """The end of what one or all of them have printed."""
        logs = self.logs if process is None else [self.logs[process]]
        return "\n".join(path.read_text(errors="replace")[-5000:] for path in logs)


def start(
    workdir: pathlib.Path,
    data: pathlib.Path,
    *flags: str,
    processes: int = 2,
    devices: int = 4,
    own_flags: Sequence[Sequence[str]] = (),
) -> Group:
    """Starts the command.

    Args:
      workdir: of the run.
      data: folder of the data set.
      flags: further ones, of every process.
      processes: how many; a single one joins nobody.
      devices: that each sees.
      own_flags: further ones of each process.
    """
    workdir.parent.mkdir(parents=True, exist_ok=True)
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
    # As in a terminal: background jobs, and what they start, ignore SIGINT.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    for process in range(processes):
        command = [sys.executable, "-m", "mrd_jax.main", f"--config={CONFIG}"]
        command += [f"--workdir={workdir}", f"--config.data.directory={data}", *flags]
        if processes > 1:
            command += [f"--coordinator={coordinator}", f"--processes={processes}"]
            command += [f"--process={process}"]
        command += own_flags[process] if own_flags else []
        logs.append(workdir.parent / f"{workdir.name}.{process}.log")
        with logs[-1].open("ab") as log:
            started.append(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=environment,
                    stdout=log,
                    stderr=log,
                )
            )
    signal.signal(signal.SIGINT, before)
    return Group(workdir, logs, started)


def rows(workdir: pathlib.Path, name: str) -> list[dict]:
    """Lines of the metrics that hold this one."""
    path = workdir / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    # The last one may be half written.
    found = [json.loads(line) for line in lines if line.endswith("}")]
    return [row for row in found if name in row]
