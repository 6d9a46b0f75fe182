# SPDX-License-Identifier: Apache-2.0
"""Checks of the free disk space before a stage of hours begins."""

import shutil
import sys
from pathlib import Path

# Bytes of xyz (float32) and rgb of a point in the shape cache, and in a record (float16).
CACHED_POINT, RECORDED_POINT = 15, 9
# Bytes per pixel of a JPEG view of furniture at 224 pixels, as `render.encode` writes it.
JPEG_PIXEL = 0.17
GIGABYTE = 10**9


def check(folder: Path, needed: float, *, what: str) -> None:
    """Checks that a folder's disk has room for what will certainly be written.

    Args:
      folder: folder to write to; may not exist yet.
      needed: bytes.
      what: what is written, in the plural, for the message.

    Raises:
      ValueError: there is less free space.
    """
    if needed > free(folder):
        raise ValueError(_message(folder, needed, what=what, verb="need at least"))


def check_shapes(folder: Path, count: int, *, points: int, views: int, image_size: int) -> None:
    """Checks the space of a shape cache, and warns if an estimate of the pictures does not fit.

    Args:
      folder: folder of the cache; may not exist yet.
      count: number of shapes to prepare, some of which may be skipped.
      points: points per shape.
      views: views per shape.
      image_size: side of a view in pixels.

    Raises:
      ValueError: the points alone do not fit.
    """
    certain = count * points * CACHED_POINT
    estimate = certain + count * views * image_size**2 * JPEG_PIXEL
    check(folder, certain, what=f"the points of {count} shapes")
    if estimate > free(folder):
        message = _message(folder, estimate, what=f"{count} shapes", verb="may need")
        print(f"warning: {message}", file=sys.stderr, flush=True)


def free(folder: Path) -> int:
    """Returns the free bytes of the disk that a folder is on, or will be on."""
    while not folder.exists():
        folder = folder.parent
    return shutil.disk_usage(folder).free


def _message(folder: Path, needed: float, *, what: str, verb: str) -> str:
    return (
        f"{what} {verb} {needed / GIGABYTE:,.1f} GB, and {folder} has "
        f"{free(folder) / GIGABYTE:,.1f} GB free; free space there, or choose another --output"
    )
