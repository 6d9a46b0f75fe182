# SPDX-License-Identifier: Apache-2.0
"""Many training runs as separate processes, side by side; finished ones are not run again."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import queue
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of `mrd_jax.main`.

    Attributes:
      name: of the variant it belongs to.
      config: file of the experiment.
      workdir: of this run; a finished one is not run again, an unfinished one continues.
      overrides: config fields by dotted name.
    """

    name: str
    config: str
    workdir: pathlib.Path
    overrides: Mapping[str, Any]

    def command(self) -> list[str]:
        """The command line a person would type."""
        fields = [f"--config.{name}={value}" for name, value in self.overrides.items()]
        return [sys.executable, "-m", "mrd_jax.main", "--config", self.config]  + [
            "--workdir", str(self.workdir), *fields,
        ]  # fmt: skip


def run_jobs(jobs: Sequence[Job], *, parallel: int) -> list[dict[str, Any]]:
    """Runs what is not finished and returns every run's `results.json`, in the order of `jobs`.

    Each process keeps to its own share of the cores: on a CPU, several small runs beside each
    other are faster than one spread over all cores.

    Args:
      jobs: with distinct workdirs.
      parallel: processes at a time.

    Raises:
      RuntimeError: a run failed; names its log.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    shares: queue.Queue = queue.Queue()
    for share in range(parallel):
        shares.put(cores[share::parallel] or cores)

    def run(job: Job) -> dict[str, Any]:
        share = shares.get()
        try:
            return _run(job, cores=share)
        finally:
            shares.put(share)

    with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        return list(pool.map(run, jobs))


def _run(job: Job, *, cores: Sequence[int]) -> dict[str, Any]:
    results = job.workdir / "results.json"
    if not results.exists():
        job.workdir.mkdir(parents=True, exist_ok=True)
        log = job.workdir / "log.txt"
        since = time.perf_counter()
        with log.open("a") as file:
            process = subprocess.Popen(job.command(), stdout=file, stderr=subprocess.STDOUT)
            if cores:
                # From outside, and before it starts threads: they inherit it.
                os.sched_setaffinity(process.pid, cores)
            status = process.wait()
        if status:
            raise RuntimeError(f"{' '.join(job.command())} failed with status {status}; see {log}")
        seconds = time.perf_counter() - since
        print(f"{job.workdir}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return json.loads(results.read_text())


def line_of(results: Mapping[str, Any], name: str) -> dict[str, Any]:
    """The line of a results file that belongs to one method, such as "student"."""
    return next(line for line in results["results"] if line["name"] == name)


def mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and sample standard deviation over seeds; the latter is nan for a single one."""
    spread = np.std(values, ddof=1) if len(values) > 1 else np.nan
    return float(np.mean(values)), float(spread)
