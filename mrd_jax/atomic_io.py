# SPDX-License-Identifier: Apache-2.0
"""Atomic writes: a process killed at any moment leaves the old content or the new, never a part."""

import contextlib
import os
from collections.abc import Iterator
from typing import Any

import numpy as np
from etils import epath


def write_text(path: str | os.PathLike, text: str) -> None:
    """Writes a text file in UTF-8 atomically.

    Args:
      path: file to write; its old content stays until the new one is complete.
      text: content.
    """
    write_bytes(path, text.encode())


def write_bytes(path: str | os.PathLike, content: bytes) -> None:
    """Writes a file atomically.

    Args:
      path: file to write; its old content stays until the new one is complete.
      content: bytes of the file.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def write_npz(path: str | os.PathLike, /, **arrays: Any) -> None:
    """Writes arrays to an uncompressed .npz file atomically; its folder is created if missing.

    Args:
      path: file to write.
      **arrays: array by its name in the file.
    """
    epath.Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


@contextlib.contextmanager
def replacing(path: str | os.PathLike) -> Iterator[epath.Path]:
    """Yields a temporary path that takes the place of `path` if the block succeeds.

    For content that is streamed, and for folders. The temporary path lies beside `path`, so that
    the final rename stays within one file system. If the block raises, it is removed.

    Args:
      path: file to replace, or folder to create; an existing folder must be empty.

    Raises:
      OSError: `path` is a folder that is not empty.
    """
    target = epath.Path(path)
    temporary = target.parent / f".{target.name}.{os.getpid()}.tmp"
    try:
        yield temporary
        if temporary.is_dir() and target.exists():
            target.rmdir()  # fails if another process has filled it meanwhile
        temporary.replace(target)
    finally:
        if temporary.is_dir():
            temporary.rmtree()
        else:
            temporary.unlink(missing_ok=True)
