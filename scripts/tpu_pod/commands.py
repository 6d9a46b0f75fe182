# SPDX-License-Identifier: Apache-2.0
"""Runs the programs that the launcher needs, and defines its errors."""

import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence


class LaunchError(Exception):
    """Raised if another attempt would not help; the message tells the user what to do."""


class AttemptError(Exception):
    """Raised if an attempt failed; the launcher tries again."""


def log(text: str) -> None:
    """Prints a line with the time."""
    print(time.strftime("%H:%M:%S"), text, flush=True)


def run(command: Sequence[str]) -> None:
    """Runs a command, whose output goes to the terminal.

    Raises:
      AttemptError: the exit status is not 0.
    """
    _check(command, subprocess.run(command).returncode)


def capture(command: Sequence[str]) -> str:
    """Runs a command and returns its standard output.

    Raises:
      AttemptError: the exit status is not 0.
    """
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    _check(command, done.returncode)
    return done.stdout


def run_watched(
    command: Sequence[str],
    *,
    on_line: Callable[[str], None],
    find_fault: Callable[[], str],
    interval: float,
) -> None:
    """Runs a command while something else is watched, and prints its output line by line.

    Args:
      command: command to run.
      on_line: called with every line of its output.
      find_fault: called every `interval` seconds; returns why the command is hopeless, or "".
      interval: seconds.

    Raises:
      AttemptError: the exit status is not 0, or a fault was found and the command was ended.
    """
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # A group of its own, so that the ssh processes below gcloud end with it.
        start_new_session=True,
    )
    reader = threading.Thread(target=_forward, args=(process, on_line), daemon=True)
    reader.start()
    try:
        while (status := _wait(process, interval)) is None:
            if fault := find_fault():
                raise AttemptError(fault)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
        reader.join(timeout=10)
    _check(command, status)


def _wait(process: subprocess.Popen, seconds: float) -> int | None:
    try:
        return process.wait(timeout=max(seconds, 0.1))
    except subprocess.TimeoutExpired:
        return None


def _forward(process: subprocess.Popen, on_line: Callable[[str], None]) -> None:
    for line in process.stdout or ():
        print(line, end="", flush=True)
        on_line(line.rstrip())


def _check(command: Sequence[str], status: int) -> None:
    if status:
        raise AttemptError(f"exit status {status} of: {' '.join(command[:6])} ...")
