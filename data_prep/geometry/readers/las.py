# SPDX-License-Identifier: Apache-2.0
"""Point clouds of laser scanners in LAS and LAZ files."""

import struct
from pathlib import Path

import laspy
import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import isolated

# Position in a file of the sizes of the header and of all data before the points, and of the number
# of records between; and the least size of a record.
_HEADER_SIZES, _HEADER_END, _RECORD_BYTES = 94, 104, 54


def read(data: bytes, *, assets: Assets, file_type: str) -> scene.Scene:
    """Reads a point cloud, without points that the file marks as withheld.

    Colours have 16 bits; of files whose values do not exceed 255 they are taken as 8 bits, which
    many programs write.

    Args:
      data: bytes of the file.
      assets: collects the notes.
      file_type: unused; the header tells whether points are compressed.

    Raises:
      scene.MeshError: the file is corrupt.
      limits.LimitError: there are too many points.
    """
    del file_type
    _check_records(data)
    arrays = isolated.run("las", data, name="LAS", notes=assets.notes)
    return scene.Scene(points=(scene.Points(arrays["xyz"], arrays.get("rgb")),))


def convert(path: Path, *, notes: list[str]) -> dict[str, np.ndarray]:
    """Reads the points of a file; see `isolated`.

    Raises:
      scene.MeshError: the file is corrupt.
      limits.LimitError: there are too many points.
    """
    size = path.stat().st_size
    try:
        with laspy.open(path, laz_backend=laspy.LazBackend.Lazrs, read_evlrs=False) as reader:
            header = reader.header
            limits.POINTS.check(header.point_count)
            names = set(header.point_format.dimension_names)
            expected = header.point_count * header.point_format.size
            if not header.are_points_compressed and size - header.offset_to_point_data < expected:
                raise scene.MeshError("truncated; points that the header declares are missing")
            points = reader.read_points(header.point_count)
    except laspy.LaspyException as error:
        raise scene.MeshError(f"unreadable LAS file: {error}") from error
    if len(points) < header.point_count:
        raise scene.MeshError("truncated; points that the header declares are missing")
    xyz = np.stack([np.asarray(points[name]) for name in "xyz"], axis=1)
    rgb = _colours(points, names, notes=notes)
    kept = ~np.asarray(points["withheld"], bool)
    if not kept.all():
        notes.append(f"withheld points, dropped: {np.count_nonzero(~kept)}")
    return {"xyz": xyz[kept], **({} if rgb is None else {"rgb": rgb[kept]})}


def _check_records(data: bytes) -> None:
    """Checks the number of records before the points, which the library reads without a limit.

    Raises:
      MeshError: there are more than the file can hold, or the header is truncated.
    """
    if len(data) < _HEADER_END or data[:4] != b"LASF":
        raise scene.MeshError("no LAS file, or a truncated header")
    header, points, records = struct.unpack_from("<HII", data, _HEADER_SIZES)
    if not header + records * _RECORD_BYTES <= points <= len(data):
        raise scene.MeshError("a corrupt header, or a truncated file")


def _colours(points, names: set[str], *, notes: list[str]) -> np.ndarray | None:
    """Returns the colours as uint8 [points, 3], or None."""
    if not {"red", "green", "blue"} <= names:
        return None
    rgb = np.stack([np.asarray(points[name]) for name in ("red", "green", "blue")], axis=1)
    largest = rgb.max(initial=0)
    if largest == 0:
        notes.append("colours that are all black, ignored")
        return None
    if largest > 255:
        rgb = np.rint(rgb / 257)
    return rgb.astype(np.uint8)
