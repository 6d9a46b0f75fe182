# SPDX-License-Identifier: Apache-2.0
"""Questions that may never be answered: devices of JAX, folders on a server; all have a timeout."""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")

# Seconds that a killed process may take to end; one in a system call of a driver may never do so.
_KILL_SECONDS = 2.0
_DEVICES = """
import jax
devices = jax.devices()
print(f"jax {jax.__version__}, {len(devices)} x {devices[0].device_kind} ({devices[0].platform})")
"""


class ProbeError(RuntimeError):
    """A question was not answered; the message says why."""


def devices(timeout: float, *, code: str = _DEVICES) -> str:
    """Returns version and devices of JAX, asked in another process.

    Args:
      timeout: seconds to wait; the process and its children are killed afterwards.
      code: Python code that prints the answer.

    Raises:
      ProbeError: there was no answer in time, or JAX failed.
    """
    # Files and not pipes: a process that survives the kill would keep a pipe open.
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
            start_new_session=True,
        )
        try:
            status = process.wait(timeout)
        except subprocess.TimeoutExpired as error:
            _kill(process)
            raise ProbeError(
                f"no answer from JAX in {timeout:g} s: another process may hold the accelerator, "
                "or the machine is busy; JAX_PLATFORMS=cpu uses the CPU, --timeout waits longer"
            ) from error
        answer, fault = (_read(file) for file in (output, errors))
    if status or not answer:
        last = fault.splitlines()[-1] if fault else f"exit status {status}"
        raise ProbeError(f"JAX finds no device: {last}")
    return answer


def _read(file) -> str:
    file.seek(0)
    return file.read().decode(errors="replace").strip()


def _kill(process: subprocess.Popen) -> None:
    """Kills a process and its children, and waits for a moment."""
    os.killpg(process.pid, signal.SIGKILL)
    try:
        process.wait(_KILL_SECONDS)
    except subprocess.TimeoutExpired:
        pass  # in a system call; nothing else can be done


def within(seconds: float, function: Callable[..., T], *arguments: object) -> T:
    """Returns the result of a function that may block, such as a look at a folder of a server.

    Args:
      seconds: time to wait.
      function: runs in a thread that does not keep the process alive.
      *arguments: arguments of the function.

    Raises:
      ProbeError: there was no result in time; exceptions of the function are raised as they are.
    """
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(function(*arguments))
        except Exception as error:
            errors.append(error)

    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    thread.join(seconds)
    if errors:
        raise errors[0]
    if not results:
        raise ProbeError(f"no answer in {seconds:g} s")
    return results[0]
