# SPDX-License-Identifier: Apache-2.0
"""Progress of the stages of a build, for whoever shows or stores it.

A stage calls a listener with a snapshot of its counts: once when it begins, about once per second
while it works, and once when it has finished. A listener runs in the process of the build, between
two items, so it returns within milliseconds and does not raise.
"""

import collections
import dataclasses
import time
from collections.abc import Callable, Mapping

# Seconds between two snapshots of a stage.
INTERVAL = 1.0


@dataclasses.dataclass(frozen=True)
class Snapshot:
    """Counts of one stage at one moment.

    Attributes:
      stage: "shapes", "teacher", "features", "records" or "upload".
      unit: what is counted, such as "shape", "image" or "record".
      total: number of items of the stage; None if it is unknown.
      done: items with a result or a reason for having none, including `reused`.
      reused: items that an earlier run finished.
      skipped: reason -> number of items without a result; contained in `done`.
      retried: reason -> number of items whose first attempt failed.
      finished: True for the last snapshot of the stage.
    """

    stage: str
    unit: str
    total: int | None
    done: int = 0
    reused: int = 0
    skipped: Mapping[str, int] = dataclasses.field(default_factory=dict)
    retried: Mapping[str, int] = dataclasses.field(default_factory=dict)
    finished: bool = False


Listener = Callable[[Snapshot], None]


def ignore(snapshot: Snapshot) -> None:
    """Does nothing: the listener where nobody asked for progress."""
    del snapshot


class Counter:
    """Counts the items of one stage and calls a listener."""

    def __init__(self, listener: Listener, stage: str, *, unit: str, total: int | None):
        """Announces the stage.

        Args:
          listener: called with every snapshot.
          stage: name of the stage.
          unit: what is counted.
          total: number of items; None if it is unknown.
        """
        self._listener = listener
        self._stage, self._unit, self._total = stage, unit, total
        self._done = self._reused = 0
        self._skipped: collections.Counter[str] = collections.Counter()
        self._retried: collections.Counter[str] = collections.Counter()
        self._report(finished=False)

    def add(
        self,
        count: int = 1,
        *,
        skipped: Mapping[str, int] | None = None,
        retried: Mapping[str, int] | None = None,
        reused: bool = False,
    ) -> None:
        """Adds items.

        Args:
          count: items that are done, including those that `skipped` counts.
          skipped: reason -> number of items without a result.
          retried: reason -> number of items that are tried again, and are not done.
          reused: whether an earlier run finished the items.
        """
        self._done += count
        self._reused += count if reused else 0
        self._skipped.update(skipped or {})
        self._retried.update(retried or {})
        if time.monotonic() - self._reported >= INTERVAL:
            self._report(finished=False)

    def finish(self) -> None:
        """Announces the end of the stage."""
        self._report(finished=True)

    def _report(self, *, finished: bool) -> None:
        self._reported = time.monotonic()
        self._listener(
            Snapshot(
                stage=self._stage,
                unit=self._unit,
                total=self._total,
                done=self._done,
                reused=self._reused,
                skipped=dict(self._skipped),
                retried=dict(self._retried),
                finished=finished,
            )
        )
