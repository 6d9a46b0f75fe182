# SPDX-License-Identifier: Apache-2.0
"""Several processes, one a host, as one run: how they join, agree, and hear of one another.

All of them run the same command and so the same Python code, in the same order; a function here
that says "every process calls it" stands still until they have. In a run of one process each of
them costs nothing.
"""

import collections
import contextlib
import json
import os
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NoReturn

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mrd_jax.cli import command

# Seconds that a process which has ended well waits for the others: process 0 may have a report to
# write. A process that has died meanwhile is noticed by its heartbeat.
_FAREWELL = 24 * 3600
# Seconds that JAX gets beyond our own limit. Its way of giving up is to abort with a stack of C++.
_GRACE = 60


def join(
    coordinator: str = "",
    *,
    processes: int | None = None,
    process: int | None = None,
    join_timeout: int = 300,
    heartbeat_timeout: int = 100,
) -> None:
    """Joins the other processes; comes before the first computation.

    Without the first three arguments, JAX asks the cluster: Cloud TPU, SLURM, Open MPI or
    Kubernetes. A process that waits in vain ends with status 1, since nothing can be computed.

    Args:
      coordinator: HOST:PORT that process 0 listens on and every process reaches.
      processes: number of them.
      process: number of this one, from 0.
      join_timeout: seconds to wait for the others.
      heartbeat_timeout: seconds without a sign of life after which a process counts as dead, and
        the others abort.

    Raises:
      ValueError: arguments that do not fit together, or no cluster that JAX knows.
    """
    _check_place(coordinator, processes, process)
    waiting = threading.Timer(join_timeout, _give_up, (coordinator, process, join_timeout))
    waiting.daemon = True
    waiting.start()
    try:
        jax.distributed.initialize(
            coordinator or None,
            processes,
            process,
            # Given a place, do not ask a cluster for the rest: it would hand out one device each.
            cluster_detection_method="deactivate" if coordinator else None,
            initialization_timeout=join_timeout + _GRACE,
            heartbeat_timeout_seconds=heartbeat_timeout,
            shutdown_timeout_seconds=_FAREWELL,
        )
    except ValueError as error:
        raise ValueError(
            f"no cluster was found ({error}): --multihost is for Cloud TPU, SLURM, Open MPI and "
            "Kubernetes. Elsewhere pass --coordinator HOST:PORT --processes N --process I"
        ) from error
    finally:
        waiting.cancel()


def _check_place(coordinator: str, processes: int | None, process: int | None) -> None:
    """Refuses half of a place, and one that cannot be."""
    given = {"coordinator": coordinator or None, "processes": processes, "process": process}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return
    if processes is None or process is None or missing:
        raise ValueError(
            f"{' and '.join(missing)} missing: --coordinator HOST:PORT, --processes N and "
            "--process I go together"
        )
    host, colon, port = coordinator.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(
            f"--coordinator is {coordinator!r}; expected HOST:PORT, such as 10.0.0.1:8476"
        )
    if not 0 <= process < processes:
        raise ValueError(
            f"--process is {process} of --processes {processes}; expected 0 to {processes - 1}"
        )


def _give_up(coordinator: str, process: int | None, seconds: int) -> NoReturn:
    """Ends the process; the main thread is inside JAX, where no exception reaches it."""
    place = f" of {coordinator}" if coordinator else ""
    who = "this process" if process is None else f"process {process}"
    print(
        f"{who} waited {seconds} s (--join_timeout) for the others{place}, in vain. Every process "
        "must be started, with the same --coordinator and --processes, and its port must be open "
        "from all hosts to that of process 0.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def join_cluster(*, multihost: bool, coordinator: str, **place: Any) -> None:
    """Joins the other processes if the command line asks for it.

    Args:
      multihost: whether JAX shall find the processes through the cluster.
      coordinator: HOST:PORT to join the processes at; "" if not given.
      **place: further arguments of `join`.

    Raises:
      ValueError: the arguments contradict each other, or there is no cluster.
    """
    given = coordinator or place["processes"] is not None or place["process"] is not None
    if given and multihost:
        raise ValueError(
            "--multihost finds by itself what --coordinator, --processes and --process say; "
            "expected one of the two ways"
        )
    if given or multihost:
        join(coordinator, **place)


@contextlib.contextmanager
def exiting_on_error() -> Iterator[None]:
    """Ends a process of several at once if the block fails.

    Skips JAX's shutdown barrier, which waits for the other processes, while they wait for this one.
    """
    try:
        yield
    except BaseException as error:  # KeyboardInterrupt, too
        if jax.process_count() == 1:
            raise
        if command.is_user_error(error) and not command.is_debug():
            command.print_error(error)
            status = command.USAGE_ERROR
        else:
            traceback.print_exc()
            status = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def check_devices() -> None:
    """Refuses processes with different numbers of devices.

    Raises:
      ValueError: says how many each of them has.
    """
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        raise ValueError(
            "every process must have as many devices as the others; found "
            + ", ".join(f"{count} on process {process}" for process, count in counts.items())
        )


def any_process(flag: bool) -> bool:
    """Whether the flag is up on any process; every process calls it."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def largest(value: float) -> tuple[float, int]:
    """The largest of the processes' values and whose it is; every process calls it."""
    if jax.process_count() == 1:
        return value, 0
    values = multihost_utils.process_allgather(np.float32(value))
    return float(values.max()), int(values.argmax())


def first_process_first(action: Callable[[], None]) -> None:
    """Does something on process 0, then on the others; an error on one of them ends all.

    Every process calls this, for what process 0 creates in a folder that all of them see.

    Raises:
      Exception: what the action raised on this process.
      RuntimeError: the action failed on another one, whose log says why.
    """
    for turn in (jax.process_index() == 0, jax.process_index() != 0):
        error = None
        if turn:
            try:
                action()
            except Exception as caught:  # of any kind: the others wait to hear of it
                error = caught
        failed = any_process(error is not None)
        if error is not None:
            raise error
        if failed:
            raise RuntimeError("another process of this run has failed; its log says why")


def require_same(facts: Mapping[str, Any]) -> None:
    """Refuses a run whose processes were started differently; every process calls it.

    Args:
      facts: name -> value, as JSON has it.

    Raises:
      ValueError: names every fact that differs, its values and the processes that hold them.
    """
    if jax.process_count() == 1:
        return
    everybody = _gather(facts)
    lines = []
    for name in sorted(set().union(*everybody)):
        holders = collections.defaultdict(list)
        for process, there in enumerate(everybody):
            holders[repr(there.get(name, "absent"))].append(process)
        if len(holders) > 1:
            lines.append(f"  {name}: " + ", ".join(_held(*item) for item in holders.items()))
    if lines:
        raise ValueError(
            "the processes of this run were not started alike:\n" + "\n".join(lines) + "\n"
            "Start all of them with the same code, config and data."
        )


def _held(value: str, processes: list[int]) -> str:
    """Such as "0.5 on process 3"; the many are counted, the few are named."""
    if len(processes) > 4:
        return f"{value} on {len(processes)} processes"
    return f"{value} on process " + " and ".join(map(str, processes))


def _gather(value: Any) -> list[Any]:
    """What every process holds, as JSON has it, in their order; every process calls it."""
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(text)))
    rows = multihost_utils.process_allgather(np.pad(text, (0, sizes.max() - len(text))))
    return [
        json.loads(row[:size].tobytes().decode()) for row, size in zip(rows, sizes, strict=True)
    ]


def shared(tree: Any) -> Any:
    """Arrays that every process has a copy of, as arrays of the whole run; nothing is copied.

    Orbax saves and restores no others. `jax.pmap` takes and gives copies, one on every device of a
    process; what is made of them here spans one device of each process.

    Args:
      tree: of arrays, the same on every process; those that span the processes stay as they are.
    """
    if jax.process_count() == 1:
        return tree
    firsts = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.array([firsts[process] for process in sorted(firsts)]), ("processes",))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def share(leaf: jax.Array) -> jax.Array:
        if not leaf.is_fully_addressable:
            return leaf
        (copy,) = (x.data for x in leaf.addressable_shards if x.device in mesh.devices)
        return jax.make_array_from_single_device_arrays(leaf.shape, everywhere, [copy])

    return jax.tree.map(share, tree)


def placed_like(tree: Any, target: Any) -> Any:
    """The reverse of `shared`.

    Args:
      tree: of arrays, shaped as those of `shared(target)`.
      target: that was shared.

    Returns:
      the values of the tree where the target's are.
    """

    def place(leaf: jax.Array, like: jax.Array) -> jax.Array:
        if leaf.sharding == like.sharding:
            return leaf
        return jax.device_put(leaf.addressable_data(0), like.sharding)

    return jax.tree.map(place, tree, target)
