# SPDX-License-Identifier: Apache-2.0
"""Lock on an output folder."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from data_prep.parts import WHOLE, Part
from mrd_jax import locking


class BusyError(RuntimeError):
    """Raised when another process holds the lock of a folder."""


@contextlib.contextmanager
def acquire(folder: Path, *, part: Part = WHOLE) -> Iterator[None]:
    """Holds the lock of a folder, so that two builds do not mix their files.

    Different parts of one preparation may share a folder, also on several hosts whose file system
    keeps locks (NFS does, gcsfuse does not). The operating system releases the lock when the
    process ends for any reason.

    Args:
      folder: output folder; created if absent.
      part: part that is prepared.

    Raises:
      BusyError: another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        if part != WHOLE:
            mine = folder / f".lock-{part.index}-of-{part.count}"
            _lock(folder, stack.enter_context(mine.open("a+")))
            for other in folder.glob(".lock-*"):
                if not other.name.endswith(f"-of-{part.count}"):  # its parts overlap with this one
                    with other.open("a+") as file:
                        _lock(folder, file)
        file = stack.enter_context((folder / ".lock").open("a+"))
        _lock(folder, file, shared=part != WHOLE)
        yield


def _lock(folder: Path, file: TextIO, *, shared: bool = False) -> None:
    try:
        locking.lock(file, user="data_prep.build", shared=shared)
    except locking.BusyError as error:
        raise BusyError(
            f"--output {folder}: another data_prep.build is writing into this folder; wait "
            "until it has finished, or choose another --output"
        ) from error
