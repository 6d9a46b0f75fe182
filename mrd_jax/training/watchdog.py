# SPDX-License-Identifier: Apache-2.0
"""Hang detection: dumps all thread stacks when no step completes in time."""

import faulthandler
import sys


class Watchdog:
    """Dumps the stack of every thread if `reset` is not called for a while.

    A lost host or a dead disk raises no exception by itself. As a context manager, the watchdog
    stops at the end of the block.
    """

    def __init__(self, *, minutes: float, exit_on_hang: bool):
        """Configures the watchdog; it starts at the first `reset`.

        Args:
          minutes: minutes without a `reset` after which it dumps the stacks; 0 disables it.
          exit_on_hang: whether to exit as well, with status 1, so that a supervisor can restart
            the process.
        """
        self._seconds, self._exit_on_hang = 60 * minutes, exit_on_hang

    def __enter__(self) -> "Watchdog":
        return self

    def __exit__(self, *_: object) -> None:
        if self._seconds:
            faulthandler.cancel_dump_traceback_later()

    def reset(self) -> None:
        """Restarts the time limit."""
        if self._seconds:
            faulthandler.dump_traceback_later(
                self._seconds,
                repeat=not self._exit_on_hang,
                exit=self._exit_on_hang,
                # A real file descriptor is required, even if sys.stderr was replaced.
                file=sys.__stderr__ or sys.stderr,
            )
