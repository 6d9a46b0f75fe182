# SPDX-License-Identifier: Apache-2.0
"""Executors: where the shards of a build are prepared."""

from data_prep.executors import local
from data_prep.executors.interface import (
    GIGABYTE,
    AddressError,
    Executor,
    Finished,
    ItemError,
    Job,
    Limits,
)

__all__ = [
    "GIGABYTE",
    "AddressError",
    "Executor",
    "Finished",
    "ItemError",
    "Job",
    "Limits",
    "create",
]

# Values of --executor.
NAMES = ("local", "ray")


def create(
    name: str = "local", *, workers: int | None = None, address: str | None = None
) -> Executor:
    """Returns an executor.

    Args:
      name: one of `NAMES`, or "none" to refuse if there is a shard to prepare.
      workers: for "local", processes; None for one per core, 0 to work in this process, without
        limits.
      address: for "ray", address of the cluster; None for the one that this machine belongs to.

    Raises:
      ValueError: the name is unknown, or an argument is for the other executor.
    """
    if name == "none":
        return local.Complete()
    if name == "local":
        if address is not None:
            raise ValueError(f"--address {address} is for --executor ray; expected none for local")
        return local.InProcess() if workers == 0 else local.Local(workers)
    if name == "ray":
        if workers is not None:
            raise ValueError(
                f"--workers {workers} is for --executor local; Ray uses all CPUs of its cluster "
                "(`ray start --num-cpus N` limits those of a node)"
            )
        from data_prep.executors import ray_cluster

        return ray_cluster.Ray(address)
    raise ValueError(f"unknown executor {name!r}, expected one of {list(NAMES)}")
