# SPDX-License-Identifier: Apache-2.0
"""Training runs in parallel processes; finished runs are not repeated, unfinished ones continue."""

import concurrent.futures
import dataclasses
import json
import os
import pathlib
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

from mrd_jax.evaluation import results


@dataclasses.dataclass(frozen=True)
class Job:
    """One run of `mrd_jax.main`.

    Attributes:
      name: name of the variant that the run belongs to.
      config: config file.
      workdir: folder of the run; a finished run is not repeated, an unfinished one continues.
      overrides: values of config fields by dotted name.
    """

    name: str
    config: str
    workdir: pathlib.Path
    overrides: Mapping[str, Any]
    # File in the workdir that a finished job leaves, JSON.
    RESULT: ClassVar[str] = "results.json"

    def command(self) -> list[str]:
        """Returns the command line of the run."""
        fields = [f"--config.{name}={value}" for name, value in self.overrides.items()]
        return [sys.executable, "-m", "mrd_jax.main", "--config", self.config]  + [
            "--workdir", str(self.workdir), *fields,
        ]  # fmt: skip


def run_jobs(jobs: Sequence[Job], *, parallel: int) -> list[dict[str, Any]]:
    """Runs unfinished jobs and returns the results of every job, in the order of `jobs`.

    Args:
      jobs: jobs with distinct workdirs.
      parallel: number of processes at a time.

    Raises:
      RuntimeError: a run failed; the message names its log.
    """
    finished = []
    for outcome in attempt_jobs(jobs, parallel=parallel):
        if isinstance(outcome, RuntimeError):
            raise outcome
        finished.append(outcome)
    return finished


def attempt_jobs(
    jobs: Sequence[Job],
    *,
    parallel: int,
    on_end: Callable[[Job], Any] = lambda job: None,
) -> list[dict[str, Any] | RuntimeError]:
    """Runs unfinished jobs; a job that fails does not stop the others.

    Each process is pinned to its own subset of the cores: on a CPU, several small runs in parallel
    are faster than one after another on all cores. On a GPU they share its memory in equal parts,
    unless XLA_CLIENT_MEM_FRACTION is set.

    Args:
      jobs: jobs with distinct workdirs.
      parallel: number of processes at a time.
      on_end: called with every job that has ended, from any thread.

    Returns:
      In the order of `jobs`, the content of its `Job.RESULT`, or the error, which names the log.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    environment = {"XLA_CLIENT_MEM_FRACTION": f"{0.9 / parallel:.2f}", **os.environ}
    free_cores: queue.Queue = queue.Queue()
    for worker in range(parallel):
        free_cores.put(cores[worker::parallel] or cores)

    def run(job: Job) -> dict[str, Any] | RuntimeError:
        own_cores = free_cores.get()
        try:
            return _run(job, cores=own_cores, environment=environment)
        except RuntimeError as error:
            return error
        finally:
            free_cores.put(own_cores)
            on_end(job)

    with concurrent.futures.ThreadPoolExecutor(parallel) as pool:
        return list(pool.map(run, jobs))


def _run(job: Job, *, cores: Sequence[int], environment: Mapping[str, str]) -> dict[str, Any]:
    """Runs a job unless it is finished, and returns its results."""
    path = job.workdir / job.RESULT
    if not path.exists():
        job.workdir.mkdir(parents=True, exist_ok=True)
        log = job.workdir / "log.txt"
        started = time.perf_counter()
        with log.open("a") as file:
            process = subprocess.Popen(
                job.command(), stdout=file, stderr=subprocess.STDOUT, env=environment
            )
            if cores:
                # Set before the process starts threads, which inherit the affinity.
                os.sched_setaffinity(process.pid, cores)
            status = process.wait()
        if status or not path.exists():
            raise RuntimeError(f"{' '.join(job.command())} failed with status {status}; see {log}")
        seconds = time.perf_counter() - started
        print(f"{job.workdir}: {seconds:.0f} s", file=sys.stderr, flush=True)
    return json.loads(path.read_text())


def row_of(content: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Returns the row of one method, such as "student", from the content of a `results.json`."""
    return next(row for row in content["results"] if results.current_name(row["name"]) == name)
