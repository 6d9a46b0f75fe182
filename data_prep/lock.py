# SPDX-License-Identifier: Apache-2.0
"""Exclusive lock on an output folder."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


class BusyError(RuntimeError):
    """Raised when another process holds the lock of a folder."""


@contextlib.contextmanager
def acquire(folder: Path) -> Iterator[None]:
    """Holds the lock of a folder, so that two builds do not mix their files.

    The operating system releases the lock when the process ends for any reason.

    Args:
      folder: output folder; created if absent.

    Raises:
      BusyError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"--output {folder}: another data_prep.build is writing into this folder; wait "
                "until it has finished, or choose another --output"
            ) from error
        yield
