# SPDX-License-Identifier: Apache-2.0
"""Pictures of the shapes of a data set, in one zip file per record file.

A million small files are slow to list, to copy and to upload. The field `picture` of a record is
the path below `evaluation/pictures`: `train-00000.zip/NAME.jpg`, or NAME.jpg in data sets of
earlier versions, where each picture is a file.
"""

import functools
import io
import os
import zipfile

from mrd_jax import storage

SUFFIX = ".zip"
# Zip files that stay in memory, 4 to 10 MB each. Records are mostly read in order.
_KEPT_FILES = 4


class Writer:
    """Zip file of pictures that is written one picture at a time; a context manager.

    Its bytes depend on the names and pictures alone, not on the time.

    Args:
      path: file to write; its folder exists.
    """

    def __init__(self, path: os.PathLike):
        # Not compressed: pictures are.
        self._file = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED)

    def __enter__(self) -> "Writer":
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def add(self, name: str, data: bytes) -> int:
        """Adds a picture.

        Args:
          name: file name, unique in this file.
          data: encoded picture.

        Returns:
          Position of the first byte of the picture in the file.
        """
        info = zipfile.ZipInfo(name)  # with the date 1980-01-01
        info.create_system = 3  # Unix, on every system
        info.external_attr = 0o644 << 16
        self._file.writestr(info, data)
        return info.header_offset + len(info.FileHeader())


def read(path: storage.PathLike) -> bytes | None:
    """Reads a picture.

    Args:
      path: file of a picture, or a name in a zip file: `FOLDER/train-00000.zip/NAME.jpg`.

    Returns:
      The encoded picture; None if there is none of this name.

    Raises:
      zipfile.BadZipFile: the zip file or the picture in it is corrupt.
    """
    place = storage.path(path)
    archive = place.parent
    if archive.suffix != SUFFIX:
        return place.read_bytes() if place.is_file() else None
    if not archive.is_file():
        return None
    stat = archive.stat()
    opened = _open(str(archive), (stat.mtime, stat.length))
    try:
        return opened.read(place.name)
    except KeyError:
        return None


@functools.lru_cache(maxsize=_KEPT_FILES)
def _open(archive: str, version: object) -> zipfile.ZipFile:
    """Reads a zip file at once; `version` changes when another file takes its place."""
    del version
    # At once, because a bucket takes a request for every read.
    return zipfile.ZipFile(io.BytesIO(storage.path(archive).read_bytes()))
