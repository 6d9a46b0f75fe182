# SPDX-License-Identifier: Apache-2.0
"""Loads the content of a mesh or point cloud file: one surface, or points."""

import dataclasses
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import file_checks, formats, scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.surface import Surface, join

# Exceptions of readers and of numpy for malformed files, found by `benchmarks.fuzz`.
_MALFORMED = (
    *(ValueError, TypeError, AttributeError, LookupError, ArithmeticError, AssertionError),
    *(OSError, EOFError, NameError, RuntimeError, SyntaxError, MemoryError, BufferError),
    *(struct.error, zlib.error),
)
POINTS_IGNORED = "points beside faces, ignored"
# Error of a file without any finite coordinate.
NOT_FINITE = "non-finite coordinates"


@dataclasses.dataclass(frozen=True)
class Content:
    """Content of a file in its own axes and units: a surface, or points.

    Attributes:
      surface: surface of a mesh; None for a point cloud.
      xyz: [points, 3] of a point cloud, finite; None for a mesh.
      rgb: sRGB [points, 3] of a point cloud, integers 0 to 255 or floats 0 to 1; None for a mesh
        and without colours.
      up_axis: "y" or "z" if the file states its vertical axis, else None.
      notes: what was ignored or replaced, such as "missing texture".
      files: paths of the other files that were read, such as textures; those in an archive are not
        listed.
    """

    surface: Surface | None = None
    xyz: np.ndarray | None = None
    rgb: np.ndarray | None = None
    up_axis: str | None = None
    notes: tuple[str, ...] = ()
    files: tuple[Path, ...] = ()


def load(
    data: bytes,
    *,
    file_type: str,
    references: Assets,
    fill: float,
    rotation: np.ndarray | None = None,
    columns: str | None = None,
) -> Content:
    """Reads a file of one of `formats.TYPES`.

    Args:
      data: bytes of the file.
      file_type: suffix of the file, without dot.
      references: reads materials and textures, and collects the notes.
      fill: value, 0 to 1, of all colour channels of mesh parts without a colour.
      rotation: [3, 3], applied to column vectors of a mesh; None for none.
      columns: names of the columns of a text file, see `readers.text_columns.parse`; None for those
        of its header, or a guess. Other types have none.

    Raises:
      scene.MeshError: the file is malformed, exceeds one of `limits`, or has neither faces nor
        points. The message ends with the notes.
      formats.MissingPackageError: the package that reads the type is not installed.
    """
    notes = references.notes
    read = formats.reader(file_type)
    try:
        formats.FORMATS[file_type].size_limit.check(len(data))
        file_checks.check(data, file_type=file_type)
        named = {"columns": columns} if formats.FORMATS[file_type].has_columns else {}
        # Non-finite numbers are looked for below.
        with np.errstate(over="ignore", invalid="ignore"):
            found = read(data, assets=references, file_type=file_type, **named)
        parts = _finite_parts(found.parts, notes=notes)
        if parts:
            if found.points:
                notes.append(POINTS_IGNORED)
            joined = join(parts, fill=fill, notes=notes, rotation=rotation)
            return Content(joined, up_axis=found.up_axis, notes=tuple(notes))
        xyz, rgb = _join_points(found.points, notes=notes)
    except scene.MeshError as error:
        raise scene.MeshError("; ".join([str(error), *notes])) from error
    except limits.LimitError as error:
        raise scene.MeshError(str(error)) from error
    except _MALFORMED as error:
        raise scene.MeshError(f"unreadable {formats.FORMATS[file_type].name} file") from error
    return Content(xyz=xyz, rgb=rgb, up_axis=found.up_axis, notes=tuple(notes))


def _finite_parts(parts: Sequence[scene.Part], *, notes: list[str]) -> list[scene.Part]:
    """Returns the parts that have faces, without faces of which a corner is not finite.

    Raises:
      MeshError: there are faces, and none is finite.
    """
    kept, dropped = [], 0
    for part in parts:
        finite = np.isfinite(part.triangles).all(axis=(1, 2))
        if not finite.all():
            dropped += int(np.count_nonzero(~finite))
            arrays = {name: getattr(part, name) for name in ("triangles", "uv", "colours")}
            chosen = {name: a[finite] for name, a in arrays.items() if a is not None}
            part = dataclasses.replace(part, **chosen)
        if len(part.triangles):
            kept.append(part)
    if dropped:
        if not kept:
            raise scene.MeshError(NOT_FINITE)
        notes.append(f"faces that are not finite, dropped: {dropped}")
    return kept


def _join_points(
    points: tuple[scene.Points, ...], *, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Joins sets of points, without those that are not finite.

    Raises:
      MeshError: there are no points, or none is finite.
    """
    if not points:
        raise scene.MeshError("no faces and no points")
    limits.POINTS.check(sum(len(part.xyz) for part in points))
    xyz = np.concatenate([part.xyz for part in points])
    colours = [part.rgb for part in points]
    coloured = [rgb for rgb in colours if rgb is not None]
    rgb = np.concatenate(coloured) if len(coloured) == len(colours) else None
    if coloured and rgb is None:
        notes.append("points without colours beside coloured ones, all taken as colourless")
    if xyz.ndim != 2 or xyz.shape[1] != 3 or xyz.dtype.kind not in "fiu":
        raise scene.MeshError(f"points are {xyz.dtype} {list(xyz.shape)}; expected numbers [n, 3]")
    if not len(xyz):
        raise scene.MeshError("no points")
    finite = np.isfinite(xyz).all(axis=1)
    if not finite.all():
        if not finite.any():
            raise scene.MeshError(NOT_FINITE)
        notes.append(f"points that are not finite, dropped: {np.count_nonzero(~finite)}")
        xyz, rgb = xyz[finite], None if rgb is None else rgb[finite]
    return xyz, rgb
