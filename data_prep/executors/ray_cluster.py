# SPDX-License-Identifier: Apache-2.0
"""Executor of a Ray cluster: one task per shard, on any node that sees the same folders.

A task prepares the items of its shard in a process of their own, as the local executor does, so
that an item that ends, blocks or fills its process costs neither the Ray worker nor its shard. Ray
repeats tasks whose worker or node dies.
"""

import contextlib
import importlib.metadata
import os
import platform
import uuid
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from data_prep.executors import local, process_pool, scheduler
from data_prep.executors.interface import AddressError, Finished, Job
from data_prep.shards import Outcome, Shard
from mrd_jax import atomic_io

PACKAGE = "mrd_jax"
# Value of `address` for a cluster of this machine alone.
LOCAL = "local"
# Times that Ray repeats a shard whose worker or node dies.
RETRIES = 5
# Submitted shards per CPU: no CPU waits, and their items need little memory.
PER_CPU = 4
# File in the shape cache that shows whether a node sees the folder of the driver.
TOKEN = ".ray-driver"
# Seconds after which the number of CPUs is read again, since nodes may join.
REFRESH = 10.0


class Check(NamedTuple):
    """What a node must have in common with the driver.

    Attributes:
      cwd: folder of the driver, which relative paths start from.
      token: content of the file `TOKEN`.
      version: version of this package.
      entries: first names in the input folder, sorted.
    """

    cwd: str
    token: str
    version: str
    entries: list[str]


class Ray:
    """Prepares shards as tasks of a Ray cluster.

    Args:
      address: address of the cluster, or `LOCAL` to start one on this machine; None for the
        cluster that this machine belongs to.

    Raises:
      ImportError: Ray is not installed.
    """

    def __init__(self, address: str | None = None):
        import_ray()
        self._address = address

    def run(self, job: Job, shards: Sequence[Shard]) -> Iterator[Finished]:
        """Implements `interface.Executor`."""
        check = Check(os.getcwd(), uuid.uuid4().hex, _version(), _entries(job.input))
        job.cache_dir.mkdir(parents=True, exist_ok=True)
        atomic_io.write_text(job.cache_dir / TOKEN, check.token)
        try:
            with connected(self._address):
                yield from _run(job, shards, check)
        finally:
            (job.cache_dir / TOKEN).unlink(missing_ok=True)


@contextlib.contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Connects to a cluster for the duration of the block, unless this process is connected.

    Args:
      address: see `Ray`.

    Raises:
      AddressError: the cluster cannot be reached.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray.init(address=address or "auto", logging_level="WARNING")
    except ConnectionError as error:
        raise AddressError(
            f"no Ray cluster at {address or 'this machine'}; start one with `ray start --head`, "
            f"pass its --address, or --address {LOCAL} to start one for this command"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def _run(job: Job, shards: Sequence[Shard], check: Check) -> Iterator[Finished]:
    """Submits shards, a few per CPU at a time, and yields those that are finished."""
    ray = import_ray()
    remote = ray.remote(num_cpus=1, max_retries=RETRIES)(prepare_shard)
    shared = ray.put(job)
    queue = iter(shards)
    pending: dict[Any, Shard] = {}
    while True:
        window = PER_CPU * max(1, int(ray.cluster_resources().get("CPU", 1)))
        while len(pending) < window and (shard := next(queue, None)) is not None:
            pending[remote.remote(shared, shard, check)] = shard
        if not pending:
            return
        ready, _ = ray.wait(list(pending), timeout=REFRESH)
        if ready:  # and the others that are ready as well
            ready, _ = ray.wait(list(pending), num_returns=len(pending), timeout=0)
        for reference in ready:
            yield _result(job, pending.pop(reference), reference)


def _result(job: Job, shard: Shard, reference: Any) -> Finished:
    """Returns the result of a task; gives up all items of a shard that Ray cannot finish."""
    ray = import_ray()
    errors = ray.exceptions
    try:
        return ray.get(reference)
    except errors.RayTaskError as error:
        raise cause_of(error) from None
    except (
        errors.LocalRayletDiedError,
        errors.NodeDiedError,
        errors.ObjectLostError,
        errors.OutOfMemoryError,
        errors.WorkerCrashedError,
    ) as error:
        reason = f"the Ray worker of its shard ended {RETRIES + 1} times: {type(error).__name__}"
        outcomes = {index: Outcome(None, reason, True) for index in range(len(shard.items))}
        return local.finish(job, scheduler.Prepared(shard, outcomes))


# Pool of this Ray worker, by the token of its job: a process starts once, not once per shard.
_pools: dict[str, process_pool.ProcessPool] = {}


def prepare_shard(job: Job, shard: Shard, check: Check) -> Finished:
    """Prepares and writes one shard; the Ray task.

    Args:
      job: job of the shard.
      shard: shard to prepare.
      check: what this node must have in common with the driver.

    Raises:
      AddressError: the node cannot prepare shards of this driver.
      ItemError: an item cannot be read for a reason that the user can remove.
    """
    if check.token not in _pools:
        enter(check.cwd)
        _check_node(job, check)
        for pool in _pools.values():
            pool.close()
        _pools.clear()
        _pools[check.token] = process_pool.ProcessPool(job, workers=1)
    (prepared,) = scheduler.run([shard], _pools[check.token])
    return local.finish(job, prepared)


def _check_node(job: Job, check: Check) -> None:
    """Raises AddressError if this node differs from the driver."""
    node = platform.node()
    if _version() != check.version:
        raise AddressError(
            f"node {node} has {PACKAGE} {_version()}, and the driver {check.version}; install the "
            "same version on all nodes"
        )
    token = job.cache_dir / TOKEN
    if not token.exists() or token.read_text() != check.token:
        raise AddressError(
            f"node {node} does not see the folder {job.cache_dir} of the driver; put --output on a "
            "file system that all nodes share, or prepare with --part"
        )
    if _entries(job.input) != check.entries:
        raise AddressError(
            f"node {node} has other files in --input {job.input} than the driver; put them on a "
            "file system that all nodes share, or copy them to the same path on each node"
        )


def enter(cwd: str) -> None:
    """Changes to the folder of the driver, so that relative paths mean the same on a node.

    Where a node lacks it, the files that relative paths name are missing, which is an error.

    Args:
      cwd: absolute path.
    """
    if os.path.isdir(cwd):
        os.chdir(cwd)


def cause_of(error: Any) -> Exception:
    """Returns the exception that a task raised, from the `RayTaskError` that contains it."""
    return error.cause if isinstance(error.cause, Exception) else error


def _entries(folder: Path) -> list[str]:
    """Returns the first names in a folder; none if it is missing."""
    return sorted(os.listdir(folder))[:100] if Path(folder).is_dir() else []


def _version() -> str:
    return importlib.metadata.version(PACKAGE)


def import_ray() -> Any:
    """Returns the package ray, which is large and therefore optional."""
    try:
        import ray
        import ray.exceptions
    except ModuleNotFoundError as error:
        raise ImportError(
            "--executor ray needs Ray, which is not installed: pip install 'mrd_jax[cluster]'"
        ) from error
    return ray
