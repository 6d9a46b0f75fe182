# SPDX-License-Identifier: Apache-2.0
"""Graceful shutdown on SIGTERM and SIGINT."""

import os
import signal
import threading
from types import FrameType
from typing import Any

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGTERM, signal.SIGINT)


class ShutdownRequest:
    """Turns SIGTERM and SIGINT into a request to save a checkpoint and exit.

    As a context manager, it handles the signals within the block; the training loop asks for the
    request at every step. A second signal has its default effect, so that a run that hangs can
    still be stopped. With several processes, JAX's preemption service handles SIGTERM and agrees
    on a step among the processes, and SIGINT is forwarded as SIGTERM.
    """

    def __init__(self) -> None:
        self._signal: int | None = None
        self._before: dict[int, Any] = {}

    def __enter__(self) -> "ShutdownRequest":
        # Python allows signal handlers only in the main thread.
        if threading.current_thread() is not threading.main_thread():
            return self
        alone = jax.process_count() == 1
        for number in SIGNALS if alone else (signal.SIGINT,):
            # Keep ignoring a signal that was ignored at start, as SIGINT in background jobs.
            if signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(
                    number, self._note if alone else _forward_as_sigterm
                )
        return self

    def __exit__(self, *_: object) -> None:
        for number in list(self._before):
            self._restore(number)

    def requested(self, step: int) -> bool:
        """Returns whether to shut down at this step; the same on every process.

        Args:
          step: step that the run has reached; every process calls this at every step.
        """
        if jax.process_count() == 1:
            return self._signal is not None
        return multihost_utils.reached_preemption_sync_point(step)

    def __str__(self) -> str:
        """Names the source of the request."""
        return signal.Signals(self._signal).name if self._signal else "a preemption notice"

    def _note(self, number: int, _: FrameType | None) -> None:
        self._signal = number
        for earlier in list(self._before):
            self._restore(earlier)

    def _restore(self, number: int) -> None:
        signal.signal(number, self._before.pop(number))


def _forward_as_sigterm(*_: object) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
