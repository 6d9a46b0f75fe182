# SPDX-License-Identifier: Apache-2.0
"""Executors of one machine."""

import collections
import os
from collections.abc import Iterator, Sequence

from data_prep import shards
from data_prep.executors import process_pool, scheduler, worker
from data_prep.executors.interface import Finished, Job
from data_prep.shards import Outcome, Shard


class Local:
    """Prepares shards in worker processes.

    Args:
      workers: number of processes; None for one per core.
    """

    def __init__(self, workers: int | None = None):
        self._workers = workers or available_cores()

    def run(self, job: Job, shards: Sequence[Shard]) -> Iterator[Finished]:
        """Implements `interface.Executor`."""
        with process_pool.ProcessPool(job, self._workers) as pool:
            for prepared in scheduler.run(shards, pool):
                yield finish(job, prepared)


class InProcess:
    """Prepares shards in this process, without limits; exceptions of sources are not wrapped."""

    def run(self, job: Job, shards: Sequence[Shard]) -> Iterator[Finished]:
        """Implements `interface.Executor`."""
        for shard in shards:
            outcomes = dict(enumerate(worker.prepare(job, item) for item in shard.items))
            yield finish(job, scheduler.Prepared(shard, outcomes))


class Complete:
    """Refuses to prepare anything: for inputs whose shards all exist."""

    def run(self, job: Job, shards: Sequence[Shard]) -> Iterator[Finished]:
        """Implements `interface.Executor`. ValueError if there is a shard to prepare."""
        raise ValueError(
            f"{len(shards)} shards, such as number {shards[0].number}, are missing or were "
            "prepared with other options or from other files; pass the folders of all parts, and "
            "the same flags as for them"
        )


def finish(job: Job, prepared: scheduler.Prepared) -> Finished:
    """Writes the file of a shard.

    Args:
      job: job of the shard.
      prepared: outcomes of all items.
    """
    outcomes = prepared.in_order()
    header = shards.save(prepared.shard, outcomes, settings=job.header)
    return Finished(prepared.shard, header, _sum_seconds(outcomes), prepared.retried)


def available_cores() -> int:
    """Returns the number of cores that this process may use, as `taskset` or SLURM limit it."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _sum_seconds(outcomes: Sequence[Outcome]) -> collections.Counter:
    total: collections.Counter = collections.Counter()
    for outcome in outcomes:
        total.update(outcome.cpu_seconds)
    return total
