# SPDX-License-Identifier: Apache-2.0
"""Flags that the commands of a preparation share, and their defaults."""

import argparse
import dataclasses
import os
from typing import Any

from data_prep import executors, flag_types, parts, progress, shape_names, sources
from mrd_jax.cli import command
from mrd_jax.data import batch_spec

# Defaults: points per shape, rendered views per shape (all cameras), side of a view in pixels.
POINTS, VIEWS, IMAGE_SIZE = batch_spec.DEFAULT_POINTS, 12, 224
DEFAULT = "default: %(default)s"


@dataclasses.dataclass(frozen=True)
class Execution:
    """How items are prepared; nothing of it changes a prepared shape.

    Attributes:
      executor: one of `executors.NAMES`.
      workers: processes of the executor "local"; None for one per core, 0 to work in this process,
        without limits.
      address: address of the cluster of the executor "ray", see `executors.create`.
      limits: limits of one item.
      part: shards to prepare.
      retry_skipped: whether to try items again that an earlier run gave up.
      listener: called with the progress.
    """

    executor: str = "local"
    workers: int | None = None
    address: str | None = None
    limits: executors.Limits = executors.Limits()
    part: parts.Part = parts.WHOLE
    retry_skipped: bool = False
    listener: progress.Listener = progress.ignore

    def create(self) -> executors.Executor:
        """Returns the executor. ValueError if its arguments contradict each other."""
        return executors.create(self.executor, workers=self.workers, address=self.address)

    def processes(self) -> int:
        """Returns the processes of this machine that write records; 0 to work in this one."""
        return (os.cpu_count() or 1) if self.workers is None else self.workers


def add_input(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of the raw data."""
    add = parser.add_argument
    add("--source", required=True, choices=sorted(sources.SOURCES), help="kind of raw data")
    add("--input", required=True, type=command.local_path, help="folder of the raw data")
    add("--label_from", help=f"for --source folder: {shape_names.LABEL_FROM_HELP}")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Adds the flags that determine the content of prepared shapes."""
    add, positive = parser.add_argument, flag_types.integer(1)
    add("--points", type=positive, default=POINTS, help=f"points per shape; {DEFAULT}")
    add(
        "--views",
        type=flag_types.integer(0, VIEWS),
        default=VIEWS,
        help=f"rendered views per shape; fewer than {VIEWS} are spread over the sphere, 0 takes "
        f"only the own pictures of the shapes; {DEFAULT}",
    )
    add(
        "--image_size",
        type=positive,
        default=IMAGE_SIZE,
        help=f"side of a view in pixels; {DEFAULT}",
    )
    add(
        "--seed",
        type=flag_types.integer(0),
        default=0,
        help=f"seed of point sampling and LiT training; {DEFAULT}",
    )


def add_execution(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of `Execution`."""
    add, positive = parser.add_argument, flag_types.integer(1)
    add(
        "--executor",
        choices=executors.NAMES,
        default=Execution.executor,
        help=f"local: processes of this machine; ray: a Ray cluster; {DEFAULT}",
    )
    add(
        "--workers",
        type=flag_types.integer(0),
        help="for --executor local, processes that prepare shapes; 0 prepares them in this one, "
        "without limits; default: one per core",
    )
    add(
        "--address",
        help="for --executor ray, address of the cluster, or local to start one on this machine; "
        "default: the cluster that this machine belongs to",
    )
    add(
        "--part",
        type=parts.parse,
        default=parts.WHOLE,
        help="INDEX/COUNT: prepare every COUNTth shard only, for schedulers that start processes",
    )
    add(
        "--item_seconds",
        type=positive,
        default=int(executors.Limits.seconds),
        help=f"seconds after which a shape is given up; {DEFAULT}",
    )
    add(
        "--item_memory",
        type=positive,
        default=executors.Limits.memory // executors.GIGABYTE,
        help=f"gigabytes of memory above which a shape is given up; {DEFAULT}",
    )
    add(
        "--retry_skipped",
        action="store_true",
        help="try shapes again that an earlier run gave up: they exceeded a limit, or ended their "
        "process",
    )


def pop_execution(values: dict[str, Any]) -> Execution:
    """Removes the values of `add_execution` from those of a command line.

    Args:
      values: flag -> value.
    """
    limits = executors.Limits(
        seconds=values.pop("item_seconds"),
        memory=values.pop("item_memory") * executors.GIGABYTE,
    )
    names = ("executor", "workers", "address", "part", "retry_skipped")
    return Execution(**{name: values.pop(name) for name in names}, limits=limits)
