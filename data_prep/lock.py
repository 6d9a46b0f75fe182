# SPDX-License-Identifier: Apache-2.0
"""One writer per folder."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


class BusyError(RuntimeError):
    """Another process is writing into the folder."""


@contextlib.contextmanager
def alone_in(folder: Path) -> Iterator[None]:
    """Keeps a second process out of a folder, whose files the two would mix.

    Args:
      folder: made where absent. The lock goes when the process does, however it ends.

    Raises:
      BusyError: another process holds the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise BusyError(
                f"another data_prep.build is writing into {folder}; wait until it ends, or choose "
                "another --output."
            ) from error
        yield
