# SPDX-License-Identifier: Apache-2.0
"""Multi-process runs: collectives between hosts, and errors that end all processes.

All processes, one per host, run the same command and thus the same Python code in the same order.
A function that is documented as collective blocks until every process has called it; in a
single-process run it costs nothing.
"""

import collections
import contextlib
import json
import os
import platform
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mrd_jax.cli import command


@contextlib.contextmanager
def exiting_on_error() -> Iterator[None]:
    """Exits immediately if the block raises in a multi-process run.

    Skips JAX's shutdown barrier, which would wait for the other processes while they wait for this
    one in a collective. In a single-process run, the exception propagates.
    """
    try:
        yield
    except BaseException as error:  # includes KeyboardInterrupt
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
    """Checks that every process has the same number of devices.

    Raises:
      ValueError: the numbers differ; lists the number of each process.
    """
    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        raise ValueError(
            "every process must have the same number of devices; found "
            + ", ".join(f"{count} on process {process}" for process, count in counts.items())
        )


def any_process(flag: bool) -> bool:
    """Returns whether the flag is true on any process (collective)."""
    if jax.process_count() == 1:
        return flag
    return bool(multihost_utils.process_allgather(np.bool_(flag)).any())


def largest(value: float) -> tuple[float, int]:
    """Returns the largest value over processes and the index of its process (collective)."""
    if jax.process_count() == 1:
        return value, 0
    values = multihost_utils.process_allgather(np.float32(value))
    return float(values.max()), int(values.argmax())


def first_process_first(action: Callable[[], None]) -> None:
    """Runs an action on process 0, then on the others (collective).

    For files that process 0 creates in a folder that all processes share. If the action fails on
    one process, this raises on all of them.

    Args:
      action: function to run.

    Raises:
      Exception: whatever the action raised on this process.
      RuntimeError: the action failed on another process.
    """
    for turn in (jax.process_index() == 0, jax.process_index() != 0):
        error = None
        if turn:
            try:
                action()
            except Exception as caught:  # of any type: the other processes must be told
                error = caught
        failed = any_process(error is not None)
        if error is not None:
            raise error
        if failed:
            raise RuntimeError("another process of this run has failed; see its log")


def require_same(facts: Mapping[str, Any], *, remedy: str = "") -> None:
    """Checks that all processes were started with the same settings (collective).

    Args:
      facts: JSON value by name.
      remedy: how to make them equal; by default, to start all with the same command.

    Raises:
      ValueError: a value differs; lists the differing values by process and host.
    """
    if jax.process_count() == 1:
        return
    gathered = _all_gather_json([platform.node(), dict(facts)])
    hosts = [host for host, _ in gathered]
    lines = []
    for name in sorted(set().union(*(its_facts for _, its_facts in gathered))):
        processes_by_value = collections.defaultdict(list)
        for process, (_, its_facts) in enumerate(gathered):
            processes_by_value[repr(its_facts.get(name, "absent"))].append(process)
        if len(processes_by_value) > 1:
            values = [_on_processes(*item, hosts) for item in processes_by_value.items()]
            lines.append(f"  {name}: " + ", ".join(values))
    if lines:
        raise ValueError(
            "the processes of this run were started with different settings:\n"
            + "\n".join(lines)
            + f"\n{remedy or 'Start all of them with the same code, config and data.'}"
        )


def _on_processes(value: str, processes: list[int], hosts: list[str]) -> str:
    """Formats as "0.5 on process 3 (host b)", or as "0.5 on 7 processes" if more than four."""
    if len(processes) > 4:
        return f"{value} on {len(processes)} processes"
    names = [f"{process} (host {hosts[process]})" for process in processes]
    return f"{value} on process " + " and ".join(names)


def _all_gather_json(value: Any) -> list[Any]:
    """Returns the JSON values of all processes, in their order (collective)."""
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.int32(len(text)))
    rows = multihost_utils.process_allgather(np.pad(text, (0, sizes.max() - len(text))))
    return [
        json.loads(row[:size].tobytes().decode()) for row, size in zip(rows, sizes, strict=True)
    ]


def global_arrays(tree: Any) -> Any:
    """Turns arrays of which every process has a copy into global arrays, without copying data.

    Orbax saves and restores global arrays only. `jax.pmap` takes and returns process-local ones,
    with a copy on every device; the global arrays made here span one device of each process.

    Args:
      tree: tree of arrays, equal on every process; global arrays are returned as they are.
    """
    if jax.process_count() == 1:
        return tree
    firsts = {device.process_index: device for device in reversed(jax.devices())}
    mesh = Mesh(np.array([firsts[process] for process in sorted(firsts)]), ("processes",))
    replicated = NamedSharding(mesh, PartitionSpec())

    def to_global(leaf: jax.Array) -> jax.Array:
        if not leaf.is_fully_addressable:
            return leaf
        (copy,) = (x.data for x in leaf.addressable_shards if x.device in mesh.devices)
        return jax.make_array_from_single_device_arrays(leaf.shape, replicated, [copy])

    return jax.tree.map(to_global, tree)


def local_arrays(tree: Any, like: Any) -> Any:
    """Reverses `global_arrays`.

    Args:
      tree: tree of arrays, shaped and placed like `global_arrays(like)`.
      like: tree of process-local or global arrays.

    Returns:
      The values of `tree` with the shardings of `like`.
    """

    def place(leaf: jax.Array, target: jax.Array) -> jax.Array:
        if leaf.sharding == target.sharding:
            return leaf
        return jax.device_put(leaf.addressable_data(0), target.sharding)

    return jax.tree.map(place, tree, like)
