# SPDX-License-Identifier: Apache-2.0
"""Point clouds of laser scanners in LAS and LAZ files."""

import io

import laspy
import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.assets import Assets


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
    try:
        with laspy.open(io.BytesIO(data), closefd=False) as reader:
            header = reader.header
            limits.POINTS.check(header.point_count)
            names = set(header.point_format.dimension_names)
            size = header.point_count * header.point_format.size
            if not header.are_points_compressed and len(data) - header.offset_to_point_data < size:
                raise scene.MeshError("truncated; points that the header declares are missing")
            points = reader.read_points(header.point_count)
    except laspy.LaspyException as error:
        raise scene.MeshError(f"unreadable LAS file: {error}") from error
    except BaseException as error:
        # The decompressor (Rust) panics at some corrupt files; this is no Exception.
        if type(error).__name__ != "PanicException":
            raise
        raise scene.MeshError("corrupt compressed points") from error
    if len(points) < header.point_count:
        raise scene.MeshError("truncated; points that the header declares are missing")
    xyz = np.stack([np.asarray(points[name]) for name in "xyz"], axis=1)
    rgb = _colours(points, names, notes=assets.notes)
    kept = ~np.asarray(points["withheld"], bool)
    if not kept.all():
        assets.notes.append(f"withheld points, dropped: {np.count_nonzero(~kept)}")
        xyz, rgb = xyz[kept], None if rgb is None else rgb[kept]
    return scene.Scene(points=(scene.Points(xyz, rgb),))


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
