# SPDX-License-Identifier: Apache-2.0
"""A run that is asked to leave saves at the step it has reached, and ends well."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """Whether somebody, a preempted machine or a person at the keyboard, wants the run to end.

    As a context it turns SIGTERM and SIGINT into a request that the loop sees at its next step; a
    second signal has its usual effect, so that a run that hangs can still be ended. On several
    processes JAX's own service listens for SIGTERM and tells all of them the same step, and SIGINT
    is passed on to it.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "StopRequest":
        # Python runs signal handlers in the main thread alone and refuses to set them elsewhere.
        if threading.current_thread() is not threading.main_thread():
            return self
        alone = jax.process_count() == 1
        for number in SIGNALS if alone else (signal.SIGINT,):
            # A signal that was ignored from the start, as SIGINT in a shell's background jobs,
            # stays so.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._note if alone else _pass_on)
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._before):
            self._restore(number)

    def at(self, step: int) -> bool:
        """Whether to save and leave at this step; the same on every process.

        Args:
          step: that the run has reached; every process asks at every step.
        """
        if jax.process_count() == 1:
            return self._signal is not None
        return multihost_utils.reached_preemption_sync_point(step)

    def __str__(self) -> str:
        """Who asked, for the log."""
        return signal.Signals(self._signal).name if self._signal else "a preemption notice"

    def _note(self, number: int, _: FrameType | None) -> None:
        self._signal = number
        for earlier in list(self._before):
            self._restore(earlier)

    def _restore(self, number: int) -> None:
        signal.signal(number, self._before.pop(number))


def _pass_on(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
