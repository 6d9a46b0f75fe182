# SPDX-License-Identifier: Apache-2.0
"""Speaks up when a run stands still: a lost host or a dead disk raises nothing by itself."""

import faulthandler
import sys


class Watchdog:
    """Prints the stack of every thread when nothing happened for a while."""

    def __init__(self, *, minutes: float, leave: bool):
        """Begins to watch at the first `seen`.

        Args:
          minutes: without a step after which it prints; 0 never does.
          leave: whether to end the process as well, with status 1, for whatever restarts it.
        """
        self._seconds, self._leave = 60 * minutes, leave

    def seen(self) -> None:
        """Progress: the time counts from here again."""
        if self._seconds:
            # The real stderr: it must be a file of the system, whatever stands in its place.
            faulthandler.dump_traceback_later(
                self._seconds,
                repeat=not self._leave,
                exit=self._leave,
                file=sys.__stderr__ or sys.stderr,
            )

    def stop(self) -> None:
        """The run has ended."""
        if self._seconds:
            faulthandler.cancel_dump_traceback_later()
