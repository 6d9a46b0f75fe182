# SPDX-License-Identifier: Apache-2.0
"""Atomic writes: a process killed at any moment leaves the old content or the new, never a part."""

import contextlib
import os
import pathlib
import shutil
import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np

from mrd_jax import storage, transfer


def write_text(path: storage.PathLike, text: str) -> None:
    """Writes a text file in UTF-8 atomically.

    Args:
      path: file to write; its old content stays until the new one is complete.
      text: content.
    """
    write_bytes(path, text.encode())


def write_bytes(path: storage.PathLike, content: bytes) -> None:
    """Writes a file atomically.

    Args:
      path: file to write; its old content stays until the new one is complete.
      content: bytes of the file.
    """
    target = storage.path(path)
    if storage.is_remote(target):
        target.write_bytes(content)  # an object appears when its upload is complete
        return
    with replacing(target) as temporary:
        temporary.write_bytes(content)


def write_npz(path: storage.PathLike, /, **arrays: Any) -> None:
    """Writes arrays to an uncompressed .npz file atomically; its folder is created if missing.

    Args:
      path: file to write.
      **arrays: array by its name in the file.
    """
    storage.make_folder(storage.path(path).parent)
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


@contextlib.contextmanager
def replacing(path: storage.PathLike, *, last: str = "") -> Iterator[storage.Path]:
    """Yields a temporary local path that takes the place of `path` if the block succeeds.

    For content that is streamed, and for folders. For a local path, the temporary path lies beside
    it, so that the final rename stays within one file system. For a path in a bucket, it lies in
    the folder of temporary files and is uploaded. If the block raises, it is removed.

    Args:
      path: file to replace, or folder to create; an existing folder must be empty.
      last: for folders, the file whose presence tells readers that the folder is complete; in a
        bucket, it is uploaded after all others.

    Raises:
      OSError: `path` is a folder that is not empty.
    """
    target = storage.path(path)
    if storage.is_remote(target):
        with _uploading(target, last=last) as temporary:
            yield temporary
        return
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


@contextlib.contextmanager
def _uploading(target: storage.Path, *, last: str) -> Iterator[storage.Path]:
    """Implements `replacing` for a path in a bucket."""
    parent = pathlib.Path(tempfile.mkdtemp(prefix="mrd_jax-"))
    temporary = parent / target.name
    try:
        yield storage.path(temporary)
        if temporary.is_dir():
            if target.is_dir():
                raise FileExistsError(f"{target} exists; choose another folder or remove it first")
            transfer.publish(temporary, target, last=last)
        else:
            transfer.upload(temporary, target)
    finally:
        shutil.rmtree(parent)
