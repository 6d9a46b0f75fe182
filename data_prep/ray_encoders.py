# SPDX-License-Identifier: Apache-2.0
"""Teacher features on the nodes of a Ray cluster: one teacher per node, on all its devices."""

import collections
import dataclasses
import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep import features, progress, teachers
from data_prep.executors import ray_cluster

# Shards per call: a teacher prepares the pictures of the next ones while it encodes.
SHARDS_PER_CALL = 16
# Calls that an encoder has, so that it never waits for the driver.
CALLS = 2


@dataclasses.dataclass(frozen=True)
class Loading:
    """How a node loads the teacher.

    Attributes:
      name: hub name, or folder that all nodes see.
      options: keyword arguments of `load`.
      info: description of the teacher of the driver, which that of the node equals.
      load: `teachers.load_teacher`, or another function that nodes can import.
      cwd: folder of the driver, which relative paths start from.
    """

    name: str
    options: Mapping[str, Any]
    info: teachers.TeacherInfo
    load: Callable[..., teachers.Teacher] = teachers.load_teacher
    cwd: str = dataclasses.field(default_factory=os.getcwd)


class Encoder:
    """Encodes shards on one node; the Ray actor.

    Args:
      loading: how to load the teacher.

    Raises:
      ray_cluster.AddressError: the node has another teacher of that name.
    """

    def __init__(self, loading: Loading):
        ray_cluster.enter(loading.cwd)
        self._dtype = loading.options["dtype"]
        self._teacher = loading.load(loading.name, **loading.options)
        if self._teacher.info != loading.info:
            raise ray_cluster.AddressError(
                f"the teacher of a node is {self._teacher.info}, that of the driver "
                f"{loading.info}; expected the same files on all nodes"
            )

    def encode(self, paths: Sequence[Path], folder: Path, ids: Collection[str]) -> dict[str, int]:
        """Calls `features.encode_shards` and returns its counts."""
        return features.encode_shards(paths, folder, self._teacher, ids=ids, dtype=self._dtype)


def encode_shards(
    shards: Mapping[Path, Sequence[str]],
    output_dir: Path,
    loading: Loading,
    *,
    address: str | None,
    listener: progress.Listener = progress.ignore,
) -> dict[str, int]:
    """Encodes shards as `features.encode_shards` does, on all nodes with accelerators.

    Without accelerators in the cluster, each node encodes on its CPUs. All nodes see the folders of
    the shards and of the features.

    Args:
      shards: file of prepared shapes -> ids of its shapes to encode.
      output_dir: folder of the feature files.
      loading: how a node loads the teacher.
      address: address of the cluster, see `ray_cluster.Ray`.
      listener: called with the progress.

    Returns:
      The counts of `features.encode_shards`.

    Raises:
      ValueError: the teacher returned a feature that is non-finite in float16.
      ray_cluster.AddressError: a node has another teacher of that name, or no node is usable.
    """
    paths = list(shards)
    calls = [
        paths[start : start + SHARDS_PER_CALL] for start in range(0, len(paths), SHARDS_PER_CALL)
    ]
    counts: collections.Counter[str] = collections.Counter()
    counter = progress.Counter(listener, "features", unit="shard", total=len(paths))
    with ray_cluster.connected(address):
        encoders = _start_encoders(loading, count=len(calls))
        queue = ((call, [each for path in call for each in shards[path]]) for call in calls)
        for finished in _run(encoders, queue, output_dir):
            counts.update(finished)
            counter.add(finished["read"])
    counter.finish()
    return dict(counts)


def has_accelerators(address: str | None) -> bool:
    """Returns whether a node of a cluster has a GPU or TPU."""
    with ray_cluster.connected(address):
        return _kind(ray_cluster.import_ray().nodes()) != "CPU"


def _run(
    encoders: Sequence[Any], queue: Iterator[tuple[Sequence[Path], Sequence[str]]], folder: Path
) -> Iterator[dict[str, int]]:
    """Yields the counts of calls, in the order in which they are finished."""
    ray = ray_cluster.import_ray()
    idle = collections.deque(list(encoders) * CALLS)
    pending = {}
    while True:
        while idle and (call := next(queue, None)) is not None:
            encoder = idle.popleft()
            pending[encoder.encode.remote(call[0], folder, call[1])] = encoder
        if not pending:
            return
        (reference, *_), _ = ray.wait(list(pending))
        idle.append(pending.pop(reference))
        try:
            yield ray.get(reference)
        except ray.exceptions.RayTaskError as error:
            raise ray_cluster.cause_of(error) from None
        except ray.exceptions.RayActorError as error:
            raise ray_cluster.AddressError(
                f"an encoder of features ended: {error}; the same command continues"
            ) from error


def _start_encoders(loading: Loading, *, count: int) -> list[Any]:
    """Starts an encoder on each node with accelerators; where there is none, on each node."""
    ray = ray_cluster.import_ray()
    nodes = ray.nodes()
    kind = _kind(nodes)
    amounts = [node["Resources"].get(kind) for node in nodes if node["Alive"]]
    resources = [amount for amount in amounts if amount][:count]
    actor = ray.remote(max_restarts=ray_cluster.RETRIES, max_task_retries=ray_cluster.RETRIES)(
        Encoder
    )
    return [actor.options(**_claim(kind, amount)).remote(loading) for amount in resources]


def _kind(nodes: Sequence[Mapping[str, Any]]) -> str:
    """Returns the kind of device that encodes: "TPU", "GPU", or "CPU" where there is neither."""
    resources = [node["Resources"] for node in nodes if node["Alive"]]
    return next((k for k in ("TPU", "GPU") if any(each.get(k) for each in resources)), "CPU")


def _claim(kind: str, amount: float) -> dict[str, Any]:
    """Returns the Ray options of an actor that takes all devices of one kind of a node."""
    if kind == "TPU":
        return {"resources": {"TPU": amount}}
    return {"num_gpus" if kind == "GPU" else "num_cpus": amount}
