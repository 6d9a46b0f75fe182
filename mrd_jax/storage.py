# SPDX-License-Identifier: Apache-2.0
"""Where files are: local folders and gs:// buckets, behind one kind of path.

Every path that a user gives passes through `path`, or `local_path` where only local files can be
used; no other module decides what a path is. Both kinds of path then have the same methods, those
of `etils.epath.Path`, and the functions here cover what these methods do differently: appending,
moving and listing folders, and arrays. `mrd_jax.transfer` copies between the two.
"""

import functools
import importlib.util
import io
import logging
import os
import pathlib
import re
from collections.abc import Iterator
from typing import TypeAlias

# Reads and writes gs:// with gcsfs alone. epath would use TensorFlow where it is installed, whose
# errors and missing features differ.
os.environ.setdefault("EPATH_USE_TF", "false")

import fsspec
import numpy as np
import safetensors.numpy
from etils import epath

LOGGER = logging.getLogger(__name__)

# gcsfs lists a folder once and remembers the result: a process would not see the files that the
# other processes of its run write.
fsspec.config.conf.setdefault("gcs", {}).setdefault("use_listings_cache", False)

Path: TypeAlias = epath.Path
PathLike = str | os.PathLike

BUCKETS = "gs://"
# Threads that read records of a bucket at the same time.
_BUCKET_THREADS = 64
# Folders that epath takes for URLs: epath.Path("/gs/b/x") is gs://b/x.
_ALIASES = ("/gs/", "/s3/", "/az/", "/hf/")
# Also "gs:/b", to which pathlib changes "gs://b".
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/")
_INSTALL = 'pip install "mrd_jax[gcs]"'


def path(text: PathLike) -> Path:
    """Returns the path that a user means, absolute if it is local.

    Args:
      text: local file or folder, or gs://BUCKET/NAME.

    Raises:
      ValueError: the URL has another scheme or no bucket, or the local path is below a folder that
        `etils.epath` takes for a URL.
      ImportError: the path is in a bucket and gcsfs is not installed.
    """
    given = os.fspath(text)
    scheme = _URL.match(given)
    if scheme is None:
        return Path(_checked_local(given))
    if scheme[1] != "gs":
        raise ValueError(
            f"{given!r}: expected a local path or gs://BUCKET/NAME. {scheme[1]}:// is not "
            "supported: a checkpoint would not become visible there by one atomic operation"
        )
    if not re.match(r"gs://[^/]", given):
        raise ValueError(f"{given!r} names no bucket; expected gs://BUCKET/NAME")
    _require_gcsfs(given)
    return Path(given)


def local_path(text: PathLike) -> pathlib.Path:
    """Returns the local path that a user means, relative if it was given so.

    For files that are only read and written on this machine: raw data, meshes, foreign checkpoints.

    Args:
      text: local file or folder.

    Raises:
      ValueError: the path is a URL.
    """
    given = os.fspath(text)
    if _URL.match(given):
        raise ValueError(
            f"{given!r}: expected a local path; copy it to this machine first, for example with "
            f"gcloud storage cp -r {given} ."
        )
    return pathlib.Path(given)


def _checked_local(given: str) -> str:
    absolute = str(pathlib.Path(given).absolute())
    alias = next((alias for alias in _ALIASES if f"{absolute}/".startswith(alias)), None)
    if alias is None:
        return absolute
    rest = absolute.removeprefix(alias.rstrip("/")).lstrip("/") or "BUCKET/NAME"
    raise ValueError(
        f"{given!r}: a local folder below {alias} cannot be used, because etils.epath, with which "
        f"JAX, Orbax and TFDS open files, takes it for {alias.strip('/')}://. For the bucket, "
        f"write gs://{rest}; for a mounted folder, mount it elsewhere, such as /mnt/{rest}"
    )


@functools.cache
def _has_gcsfs() -> bool:
    return importlib.util.find_spec("gcsfs") is not None


def _require_gcsfs(given: str) -> None:
    if not _has_gcsfs():
        raise ImportError(f"{given!r} is in a bucket, and gcsfs is missing: run {_INSTALL}")


def is_remote(target: PathLike) -> bool:
    """Returns whether a path is in a bucket."""
    return os.fspath(target).startswith(BUCKETS)


def make_folder(folder: Path) -> None:
    """Creates a local folder and its parents; a bucket has no folders."""
    if not is_remote(folder):
        folder.mkdir(parents=True, exist_ok=True)


def append_text(target: Path, text: str) -> None:
    """Appends to a text file that only this process writes; the folder exists.

    An object of a bucket cannot be extended, so that it is replaced by a longer one, atomically.
    `epath` would silently replace it by the new text alone.

    Args:
      target: file, created if it does not exist.
      text: complete lines.
    """
    if is_remote(target):
        before = target.read_text() if target.exists() else ""
        target.write_text(before + text)
    else:
        with target.open("a") as file:
            file.write(text)


def move(folder: Path, target: Path) -> None:
    """Moves a folder within its file system.

    In a bucket, objects are moved one by one: a process that is killed leaves a part behind.

    Args:
      folder: folder to move.
      target: its new path, which does not exist; its parent is created.
    """
    make_folder(target.parent)
    if is_remote(folder):
        file_system().mv(str(folder), str(target), recursive=True)
    else:
        folder.rename(target)


def files(folder: Path) -> Iterator[str]:
    """Yields all files of a folder and its subfolders, as relative paths with /, sorted."""
    if is_remote(folder):
        prefix = str(folder).removeprefix(BUCKETS).rstrip("/") + "/"
        yield from sorted(name.removeprefix(prefix) for name in file_system().find(str(folder)))
    else:
        root = pathlib.Path(folder)
        found = (item for item in root.rglob("*") if item.is_file())
        yield from sorted(item.relative_to(root).as_posix() for item in found)


def file_system() -> fsspec.AbstractFileSystem:
    """Returns the file system of buckets, the one that `epath` uses."""
    return fsspec.filesystem("gcs", finalize_on_close=True)


def read_threads(folder: PathLike) -> int:
    """Returns how many threads read the files of a folder best, beside those that use them.

    A request to a bucket takes tens of milliseconds; local files are read where they are used.
    """
    return _BUCKET_THREADS if is_remote(folder) else 0


def check_rights(target: Path) -> None:
    """Checks that this account may read the description of a bucket; does nothing for local paths.

    Orbax reads it before it deletes a checkpoint.

    Raises:
      PermissionError: the account may not read it.
    """
    if not is_remote(target):
        return
    # Not installed without the extra `gcs`, which a path in a bucket requires.
    from google.api_core import exceptions
    from google.cloud import storage

    name = str(target).removeprefix(BUCKETS).partition("/")[0]
    try:
        storage.Client().get_bucket(name)
    except exceptions.GoogleAPICallError as error:
        raise PermissionError(
            f"cannot read the description of gs://{name} ({error.message}); give the account of "
            "this host the role roles/storage.legacyBucketReader, too"
        ) from error


def read_array(source: Path) -> np.ndarray:
    """Reads a `.npy` file without pickled objects.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError, EOFError: it is corrupt.
    """
    return np.load(io.BytesIO(source.read_bytes()), allow_pickle=False)


def read_arrays(source: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of an `.npz` file without pickled objects; raises as `read_array`."""
    with np.load(io.BytesIO(source.read_bytes()), allow_pickle=False) as arrays:
        return dict(arrays)


def read_safetensors(source: Path) -> dict[str, np.ndarray]:
    """Reads all arrays of a `.safetensors` file.

    Raises:
      FileNotFoundError: the file does not exist.
      safetensors.SafetensorError: it is corrupt.
    """
    if is_remote(source):
        return safetensors.numpy.load(source.read_bytes())
    return safetensors.numpy.load_file(source)
