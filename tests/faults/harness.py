# SPDX-License-Identifier: Apache-2.0
"""Starts the training command, kills it, and reads what it left behind."""

import dataclasses
import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import bucket

from mrd_jax import storage
from mrd_jax.checkpoints import paths, restore

ROOT = pathlib.Path(__file__).parents[2]
CONFIG = ROOT / "tests" / "faults" / "small_run.py"
TIMINGS = ("train/samples_per_second", "train/data_wait_fraction")
# Seconds that one start of the command may take, however busy the machine.
PATIENCE = 300


@dataclasses.dataclass
class Runs:
    """Repeated starts of the same command in one workdir.

    Attributes:
      workdir: folder of the run, local or in a bucket.
      data: folder of its data set.
      cache: compilation cache, so that a start takes seconds.
      steps: number of steps of the run.
      flags: additional flags of the command.
      logs: local folder of the log; beside the workdir by default.
    """

    workdir: storage.PathLike
    data: storage.PathLike
    cache: storage.PathLike
    steps: int
    flags: Sequence[str] = ()
    logs: pathlib.Path | None = None

    def __post_init__(self):
        self.workdir = storage.path(self.workdir)
        self.log_file = pathlib.Path(self.logs or self.workdir.parent) / f"{self.workdir.name}.log"

    def start(self, *, file_limit: int | None = None) -> subprocess.Popen:
        """Starts the command.

        Args:
          file_limit: largest file size in bytes; larger writes fail, as on a full disk.
        """
        storage.make_folder(self.workdir)
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": "1",
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COMPILATION_CACHE_DIR": str(self.cache),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }

        command = [sys.executable, "-m", "mrd_jax.main", f"--config={CONFIG}"]
        command += [f"--workdir={self.workdir}", f"--config.data.directory={self.data}"]
        command += [f"--config.total_steps={self.steps}", *self.flags]
        if file_limit:
            # By a shell: a function that runs in the child would fork beside JAX's threads.
            command = ["bash", "-c", f'ulimit -f {file_limit // 1024}; exec "$@"', "-", *command]
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=log,
            )

    def log(self) -> str:
        """Returns the output of all starts."""
        return self.log_file.read_text(errors="replace")

    def finish(self) -> None:
        """Runs the command to its end."""
        status = self.start().wait(timeout=PATIENCE)
        assert status == 0, f"exit status {status}:\n{self.log()[-3000:]}"

    def step(self) -> int:
        """Returns the last step in the metrics; 0 without metrics."""
        path = self.workdir / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        # The last line may be half written.
        return max([json.loads(line)["step"] for line in lines if line.endswith("}")], default=0)

    def saving(self) -> set[str]:
        """Returns the names of checkpoints that are being written."""
        folder = self.workdir / paths.FOLDER
        if storage.is_remote(folder):
            return bucket.interrupted_saves(self.workdir)
        names = [path.name for path in folder.iterdir()] if folder.exists() else []
        return {name for name in names if "tmp" in name}

    def checksums(self) -> dict[str, str]:
        """Returns the checksums of the newest checkpoint by array."""
        manifest = restore.read_manifest(paths.newest(self.workdir))
        return {path: leaf["checksum"] for path, leaf in manifest["leaves"].items()}

    def curve(self) -> list[dict[str, float]]:
        """Returns every line of the metrics, without timings."""
        lines = map(json.loads, (self.workdir / "metrics.jsonl").read_text().splitlines())
        return [{name: x for name, x in line.items() if name not in TIMINGS} for line in lines]


def kill_in_a_save(runs: Runs, rng: random.Random, *, ahead: int) -> bool:
    """Starts the command and kills it while it writes a checkpoint.

    Args:
      runs: to disturb.
      rng: chooses which save, and where in it.
      ahead: steps that it may come forward at most.

    Returns:
      whether it was killed so; False where it ended before.
    """
    process = runs.start()
    left = runs.saving()  # by earlier kills
    saves, seen = rng.randint(1, max(1, ahead // 2)), set()
    while process.poll() is None:
        seen |= runs.saving() - left
        if len(seen) >= saves:
            time.sleep(rng.uniform(0, 0.01))
            return _kill(process) and bool(runs.saving() - left)
        time.sleep(0.0005)
    return False


def kill_anywhere(runs: Runs, rng: random.Random, *, ahead: int) -> bool:
    """Starts the command and kills it at a step, or on its way to the first one.

    Args:
      runs: to disturb.
      rng: chooses when.
      ahead: steps that it may come forward at most.

    Returns:
      whether it was killed; False where it ended before.
    """
    process, begun = runs.start(), time.monotonic()
    target = runs.step() + rng.randint(0, max(0, ahead))
    early = rng.random() < 0.2
    patience = rng.uniform(0, 8) if early else PATIENCE
    while process.poll() is None and time.monotonic() - begun < patience:
        if not early and runs.step() > target:
            break
        time.sleep(0.002)
    time.sleep(rng.uniform(0, 0.02))
    return _kill(process)


def _kill(process: subprocess.Popen) -> bool:
    process.send_signal(signal.SIGKILL)
    return process.wait() == -signal.SIGKILL
