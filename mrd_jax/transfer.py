# SPDX-License-Identifier: Apache-2.0
"""Copies files between this machine and buckets, compared by size and checksum.

Libraries that write to local files only (array_record, numpy's memory maps, TensorBoard, the
profiler) write to a local folder, which is then published. For a local target, that folder is the
target itself and nothing is copied.
"""

import base64
import hashlib
import logging
import os
import pathlib
import shutil
import tempfile
from collections.abc import Sequence
from concurrent import futures
from typing import Any

import tqdm

from mrd_jax import storage

LOGGER = logging.getLogger(__name__)

# Bytes of a file that are checksummed at a time.
_BLOCK = 2**24
# Files that are uploaded at a time; most of the time passes waiting.
_CONNECTIONS = 16


class TransferError(OSError):
    """A copy differs from its source; the message names the file."""


def scratch(target: storage.Path) -> pathlib.Path:
    """Returns a local folder to write into, to be passed to `publish`.

    Args:
      target: folder that the files are for; returned itself if it is local.
    """
    if storage.is_remote(target):
        return pathlib.Path(tempfile.mkdtemp(prefix="mrd_jax-"))
    storage.make_folder(target)
    return pathlib.Path(target)


def publish(
    folder: pathlib.Path, target: storage.Path, *, last: str = "", progress: bool = False
) -> int:
    """Uploads every file of a folder that the target lacks or has with other content.

    Every file is compared by size and CRC32C after its upload, so that an interrupted call can be
    repeated and continues.

    Args:
      folder: local folder, such as one from `scratch`.
      target: folder to copy to; nothing is copied if it is local.
      last: name of the file whose presence tells readers that the folder is complete. It is
        uploaded after all others, and deleted first if one of them differs.
      progress: whether to show a progress bar.

    Returns:
      Number of files that were uploaded.

    Raises:
      TransferError: an uploaded file differs.
    """
    if not storage.is_remote(target):
        return 0
    names = list(storage.files(storage.path(folder)))
    others = _differing(folder, target, names=[name for name in names if name != last])
    if others and last:
        (target / last).unlink(missing_ok=True)
    uploaded = _upload_all(folder, target, names=others, progress=progress)
    marker = _differing(folder, target, names=[name for name in names if name == last])
    return uploaded + _upload_all(folder, target, names=marker, progress=False)


def _upload_all(
    folder: pathlib.Path, target: storage.Path, *, names: Sequence[str], progress: bool
) -> int:
    """Uploads files of a folder, several at a time; returns their number."""
    sizes = {name: (folder / name).stat().st_size for name in names}

    def put(name: str) -> str:
        storage.file_system().put_file(str(folder / name), str(target / name))
        return name

    bar = tqdm.tqdm(
        total=sum(sizes.values()), desc="upload", unit="B", unit_scale=True, disable=not progress
    )
    with bar, futures.ThreadPoolExecutor(_CONNECTIONS) as pool:
        for name in pool.map(put, names):
            bar.update(sizes[name])
    if names and (wrong := _differing(folder, target, names=names)):
        raise TransferError(
            f"{len(wrong)} files differ from {folder} after their upload to {target}, such as "
            f"{wrong[0]}; run again"
        )
    return len(names)


def _differing(folder: pathlib.Path, target: storage.Path, *, names: Sequence[str]) -> list[str]:
    """Returns the files of a local folder that a folder of a bucket lacks or has otherwise."""
    infos = listing(target)
    return [name for name in names if name not in infos or not _matches(folder / name, infos[name])]


def listing(folder: storage.Path) -> dict[str, dict[str, Any]]:
    """Returns size and checksum of the objects of a folder and its subfolders.

    Args:
      folder: folder in a bucket.

    Returns:
      By relative path, the description of the object by gcsfs, such as "size" and "crc32c".
    """
    prefix = str(folder).removeprefix(storage.BUCKETS).rstrip("/") + "/"
    found = storage.file_system().find(str(folder), detail=True)
    return {name.removeprefix(prefix): info for name, info in found.items()}


def mirror(folder: pathlib.Path, target: storage.Path) -> None:
    """Uploads the files of a folder as they are now, while they may still grow.

    Args:
      folder: local folder, such as one from `scratch`.
      target: folder to copy to; nothing is copied if it is local.
    """
    if storage.is_remote(target):
        for name in storage.files(storage.path(folder)):
            (target / name).write_bytes((folder / name).read_bytes())


def discard(folder: pathlib.Path, target: storage.Path) -> None:
    """Deletes a folder from `scratch` unless it is the target itself."""
    if storage.is_remote(target):
        shutil.rmtree(folder, ignore_errors=True)


def upload(source: pathlib.Path, target: storage.Path) -> None:
    """Uploads a file to a bucket.

    Args:
      source: local file.
      target: object.

    Raises:
      TransferError: the uploaded file differs.
    """
    storage.file_system().put_file(str(source), str(target))
    if not _matches(source, storage.file_system().info(str(target))):
        raise TransferError(f"{target} differs from {source} after its upload; run again")


def _matches(local: pathlib.Path, info: dict[str, Any]) -> bool:
    """Compares a local file with an object by size and, if it has one, CRC32C."""
    if local.stat().st_size != info["size"]:
        return False
    return "crc32c" not in info or _crc32c(local) == info["crc32c"]


def _crc32c(source: pathlib.Path) -> str:
    """Returns the CRC32C of a file as buckets state it."""
    import google_crc32c  # belongs to the extra `gcs`

    checksum = google_crc32c.Checksum()
    with source.open("rb") as file:
        while block := file.read(_BLOCK):
            checksum.update(block)
    return base64.b64encode(checksum.digest()).decode("ascii")


def local_copy(folder: storage.Path) -> pathlib.Path:
    """Returns a local folder with the content of a folder, for memory-mapped files.

    A folder of a bucket is downloaded into the cache folder of this user, where files that have the
    same size and checksum are kept. The copy may be deleted at any time.

    Args:
      folder: folder; returned itself if it is local.

    Raises:
      TransferError: a downloaded file differs, or the disk is too small.
    """
    if not storage.is_remote(folder):
        return pathlib.Path(folder)
    copy = cache_folder("copies", folder)
    missing = {
        name: info
        for name, info in listing(folder).items()
        if not ((copy / name).is_file() and _matches(copy / name, info))
    }
    size = sum(info["size"] for info in missing.values())
    require_space(copy, size, what=f"a copy of {folder}")
    if missing:
        LOGGER.info("downloading %.1f MB of %s to %s", size / 1e6, folder, copy)
        for name in missing:
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
        storage.file_system().get(
            [str(folder / name) for name in missing], [str(copy / name) for name in missing]
        )
    for name, info in missing.items():
        if not _matches(copy / name, info):
            raise TransferError(f"{copy / name} differs from {folder / name}; run again")
    return copy


def cache_folder(use: str, target: storage.Path) -> pathlib.Path:
    """Returns the local folder, below the cache folder of this user, that belongs to a path.

    Args:
      use: name of the folder of folders, such as "copies".
      target: path that the folder is for.
    """
    digest = hashlib.sha256(str(target).encode()).hexdigest()[:8]
    return cache_root() / use / f"{target.name}-{digest}"


def cache_root() -> pathlib.Path:
    """Returns this project's folder below the cache folder of this user."""
    root = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return root / "mrd_jax"


def free_space(folder: pathlib.Path) -> int:
    """Returns the free bytes of the disk that a folder, which need not exist, is on."""
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    return shutil.disk_usage(existing).free


def require_space(folder: pathlib.Path, size: int, *, what: str) -> None:
    """Raises `TransferError` if the disk of a folder has less than `size` free bytes."""
    if size > (free := free_space(folder)):
        raise TransferError(
            f"{what} needs {size / 1e9:.1f} GB, and the disk of {folder} has {free / 1e9:.1f} GB "
            "free; set XDG_CACHE_HOME to a folder on a larger disk"
        )
