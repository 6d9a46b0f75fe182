# SPDX-License-Identifier: Apache-2.0
"""Joins the processes of a run: JAX's distributed runtime, with the GPUs of each process.

JAX detects Cloud TPU, Slurm, Open MPI and Kubernetes. Variables as torchrun sets them are read
here, and so is the number of processes on this host: JAX would take one GPU per process, also where
a single process is to use all of them.
"""

import os
import sys
import threading
from collections.abc import Mapping
from typing import NoReturn

import jax

from mrd_jax.distributed import gpus, launchers

# Seconds that JAX's shutdown barrier may take: process 0 may still write a report after the others
# have finished. The heartbeat detects a process that dies meanwhile.
_SHUTDOWN_TIMEOUT = 24 * 3600
# Seconds that JAX's own timeout exceeds `join_timeout`, so that the clear error below is printed
# first: JAX aborts with a C++ stack trace.
_JAX_TIMEOUT_MARGIN = 60


def join(
    coordinator: str = "",
    *,
    processes: int | None = None,
    process: int | None = None,
    join_timeout: int = 300,
    heartbeat_timeout: int = 100,
) -> None:
    """Joins the other processes; must be called before the first computation.

    Without the first three arguments, the cluster is detected: torchrun, Cloud TPU, Slurm, Open MPI
    or Kubernetes. If the others do not join in time, the process exits with status 1.

    Args:
      coordinator: HOST:PORT that process 0 listens on and every process can reach.
      processes: number of processes.
      process: index of this process, from 0.
      join_timeout: seconds to wait for the other processes.
      heartbeat_timeout: seconds without a heartbeat after which a process counts as dead, and the
        others abort.

    Raises:
      ValueError: the arguments are incomplete or out of range, no cluster is detected, or GPUs
        would be left idle.
    """
    _check_arguments(coordinator, processes, process)
    local_devices = None
    if not coordinator:
        place = launchers.find(os.environ)
        local_devices = gpus.assign(gpus.count_visible(), place)
        if place is not None:
            coordinator, processes, process = place.coordinator, place.processes, place.process
    timer = threading.Timer(join_timeout, _exit_on_timeout, (coordinator, process, join_timeout))
    timer.daemon = True
    timer.start()
    try:
        jax.distributed.initialize(
            coordinator or None,
            processes,
            process,
            local_device_ids=local_devices,
            # Cluster detection would assign a single device to each process.
            cluster_detection_method="deactivate" if coordinator else None,
            initialization_timeout=join_timeout + _JAX_TIMEOUT_MARGIN,
            heartbeat_timeout_seconds=heartbeat_timeout,
            shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
        )
    except ValueError as error:
        raise ValueError(
            f"no cluster was found ({error}). {launchers.explain_absence(os.environ)}--multihost "
            "works with torchrun and on Cloud TPU, Slurm, Open MPI and Kubernetes; elsewhere pass "
            "--coordinator HOST:PORT --processes N --process I"
        ) from error
    finally:
        timer.cancel()


def _check_arguments(coordinator: str, processes: int | None, process: int | None) -> None:
    """Validates the first three arguments of `join`: all or none of them, and in range."""
    given = {"coordinator": coordinator or None, "processes": processes, "process": process}
    missing = [f"--{name}" for name, value in given.items() if value is None]
    if len(missing) == len(given):
        return
    if processes is None or process is None or missing:
        raise ValueError(
            f"{' and '.join(missing)} missing: --coordinator HOST:PORT, --processes N and "
            "--process I must be given together"
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


def _exit_on_timeout(coordinator: str, process: int | None, seconds: int) -> NoReturn:
    """Exits at once: the main thread is blocked inside JAX, where no exception reaches it."""
    address = f" at {coordinator}" if coordinator else ""
    name = "this process" if process is None else f"process {process}"
    print(
        f"error: {name} waited {seconds} s (--join_timeout) for the other processes{address}. "
        "Start every process with the same --coordinator and --processes, and check that all "
        "hosts can reach this port on the host of process 0.",
        file=sys.stderr,
        flush=True,
    )
    os._exit(1)


def join_if_asked(
    *,
    multihost: bool | None,
    coordinator: str = "",
    processes: int | None = None,
    process: int | None = None,
    join_timeout: int = 300,
    heartbeat_timeout: int = 100,
    environ: Mapping[str, str] = os.environ,
) -> None:
    """Joins the other processes if the command line asks for it.

    Args:
      multihost: whether the cluster is detected; False starts this process on its own, None too,
        unless a launcher has started others beside it.
      coordinator: as in `join`; "" if not given.
      processes: as in `join`.
      process: as in `join`.
      join_timeout: as in `join`.
      heartbeat_timeout: as in `join`.
      environ: environment variables of this process.

    Raises:
      ValueError: the arguments contradict each other, no cluster is detected, GPUs would be left
        idle, or several processes would each train the same run.
    """
    given = bool(coordinator) or processes is not None or process is not None
    if given and multihost:
        raise ValueError(
            "--multihost detects what --coordinator, --processes and --process state; pass one or "
            "the other"
        )
    if given or multihost:
        join(
            coordinator,
            processes=processes,
            process=process,
            join_timeout=join_timeout,
            heartbeat_timeout=heartbeat_timeout,
        )
    elif multihost is None:
        place = launchers.find(environ)
        if place is not None and place.processes > 1:
            raise ValueError(
                f"{place.launcher} has started {place.processes} processes, each of which would "
                "train the whole run: pass --multihost to join them, or --nomultihost if they are "
                "separate runs"
            )
