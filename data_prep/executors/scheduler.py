# SPDX-License-Identifier: Apache-2.0
"""Distributes the items of shards over workers, without waiting for slow ones.

An idle worker takes the next item of the source, whichever items are still being prepared. Shards
are therefore finished in any order. At most one more shard than there are workers is incomplete at
a time, because items are taken in order.
"""

import collections
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any, Protocol

from data_prep.shards import Outcome, Shard

# An item whose first attempt fails may have met a passing trouble of the machine.
ATTEMPTS = 2


@dataclasses.dataclass(frozen=True)
class Task:
    """One attempt to prepare an item.

    Attributes:
      shard: shard of the item.
      index: position of the item in the shard.
      attempt: 1 for the first attempt.
    """

    shard: Shard
    index: int
    attempt: int = 1

    @property
    def item(self) -> Any:
        """Item to prepare."""
        return self.shard.items[self.index]


class Pool(Protocol):
    """A number of workers."""

    def free(self) -> int:
        """Returns how many tasks can be started at once."""

    def start(self, task: Task) -> None:
        """Gives a task to an idle worker."""

    def wait(self) -> list[tuple[Task, Outcome]]:
        """Blocks until something happens, and returns the tasks that ended since; maybe none."""


@dataclasses.dataclass
class Prepared:
    """Outcomes of the items of one shard.

    Attributes:
      shard: the shard.
      outcomes: position of an item -> its outcome.
      retried: reason -> number of items whose first attempt failed.
    """

    shard: Shard
    outcomes: dict[int, Outcome] = dataclasses.field(default_factory=dict)
    retried: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def in_order(self) -> list[Outcome]:
        """Returns the outcomes in the order of the items."""
        return [self.outcomes[index] for index in range(len(self.shard.items))]


def run(shards: Sequence[Shard], pool: Pool) -> Iterator[Prepared]:
    """Prepares shards with the workers of a pool.

    Args:
      shards: shards with at least one item each.
      pool: workers.

    Yields:
      Shards whose items all have an outcome, in the order in which they are finished.
    """
    queue = (Task(shard, index) for shard in shards for index in range(len(shard.items)))
    again: collections.deque[Task] = collections.deque()
    incomplete: dict[int, Prepared] = {}
    complete: list[Prepared] = []
    while True:
        while pool.free():
            # A second attempt first, because it keeps the outcomes of its shard in memory.
            task = again.popleft() if again else next(queue, None)
            if task is None:
                break
            incomplete.setdefault(task.shard.number, Prepared(task.shard))
            pool.start(task)
        yield from complete  # only now, so that the workers are busy while the caller writes
        complete = []
        if not incomplete:
            return
        for task, outcome in pool.wait():
            prepared = incomplete[task.shard.number]
            if outcome.aborted and task.attempt < ATTEMPTS:
                prepared.retried[outcome.reason] += 1
                again.append(dataclasses.replace(task, attempt=task.attempt + 1))
                continue
            prepared.outcomes[task.index] = outcome
            if len(prepared.outcomes) == len(task.shard.items):
                complete.append(incomplete.pop(task.shard.number))
