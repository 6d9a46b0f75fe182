# SPDX-License-Identifier: Apache-2.0
"""Interface of the executors, and the values that pass through it."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from data_prep import shapes
from data_prep.shards import Shard

GIGABYTE = 10**9


class ItemError(RuntimeError):
    """Raised when an item cannot be read for a reason that the user can remove."""


class AddressError(RuntimeError):
    """Raised when a Ray cluster cannot be reached or used."""


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of one item.

    Attributes:
      seconds: wall time.
      memory: bytes of memory of the process that prepares it, without mapped files.
    """

    seconds: float = 600.0
    memory: int = 8 * GIGABYTE


@dataclasses.dataclass(frozen=True)
class Job:
    """What all shards of a preparation have in common; picklable.

    Attributes:
      prepare: `sources.Source.prepare`.
      options: keyword arguments of `prepare`.
      header: fields of the headers of all shards.
      limits: limits of one item.
      input: folder of the raw data.
      cache_dir: folder of the shards.
    """

    prepare: Callable[..., shapes.Shape]
    options: Mapping[str, int]
    header: Mapping[str, Any]
    limits: Limits
    input: Path
    cache_dir: Path


@dataclasses.dataclass(frozen=True)
class Finished:
    """A shard that has been written.

    Attributes:
      shard: the shard.
      header: header of its file.
      cpu_seconds: stage -> CPU seconds of its items.
      retried: reason -> number of items whose first attempt failed.
    """

    shard: Shard
    header: Mapping[str, Any]
    cpu_seconds: Mapping[str, float]
    retried: Mapping[str, int]


class Executor(Protocol):
    """Prepares shards in any number of processes, on one machine or several."""

    def run(self, job: Job, shards: Sequence[Shard]) -> Iterator[Finished]:
        """Prepares and writes shards.

        An item that exceeds a limit or ends its process is tried a second time, and then becomes
        an item without a shape.

        Args:
          job: what the shards have in common.
          shards: shards to prepare.

        Yields:
          Each shard after its file was written, in the order in which they are finished.

        Raises:
          ItemError: an item cannot be read for a reason that the user can remove.
          OSError: a shard cannot be written.
        """
