# SPDX-License-Identifier: Apache-2.0
"""Point clouds of laser scanners in E57 files."""

import struct
from pathlib import Path

import numpy as np
import pye57
from pye57 import libe57

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import isolated, xml_documents

_CARTESIAN = ("cartesianX", "cartesianY", "cartesianZ")
_SPHERICAL = ("sphericalRange", "sphericalAzimuth", "sphericalElevation")
_COLOURS = ("colorRed", "colorGreen", "colorBlue")
# Signature, version, size of the file, position and length of the XML section, size of a page.
_HEADER = struct.Struct("<8sIIQQQQ")
_CHECKSUM_BYTES = 4


def read(data: bytes, *, assets: Assets, file_type: str) -> scene.Scene:
    """Reads all scans of a file, each by its pose in the coordinates of the file.

    Points that a scan marks as invalid are left out. Pictures are not read.

    Args:
      data: bytes of the file.
      assets: collects the notes.
      file_type: unused.

    Raises:
      scene.MeshError: the file is corrupt or has no scan.
      limits.LimitError: there are too many points.
    """
    del file_type
    _check_pages(data)
    arrays = isolated.run("e57", data, name="E57", notes=assets.notes)
    count = sum(name.startswith("xyz") for name in arrays)
    points = [scene.Points(arrays[f"xyz{i}"], arrays.get(f"rgb{i}")) for i in range(count)]
    return scene.Scene(points=tuple(points))


def convert(path: Path, *, notes: list[str]) -> dict[str, np.ndarray]:
    """Reads the scans of a file; see `isolated`. The library removes files that it cannot open.

    Raises:
      scene.MeshError: the file is corrupt or has no scan.
      limits.LimitError: there are too many points.
    """
    try:
        with pye57.E57(str(path)) as file:
            points = _read_scans(file, notes=notes)
    except libe57.E57Exception as error:
        reason = str(error).split("\n")[0]
        raise scene.MeshError(f"unreadable E57 file: {reason}") from error
    arrays = {f"xyz{i}": part.xyz for i, part in enumerate(points)}
    colours = {f"rgb{i}": part.rgb for i, part in enumerate(points) if part.rgb is not None}
    return arrays | colours


def _check_pages(data: bytes) -> None:
    """Checks the header, the size, and that the XML section declares no entities.

    A file consists of pages, each with a checksum at its end.

    Raises:
      MeshError: the file is truncated, no E57 file, or declares entities.
    """
    if len(data) < _HEADER.size or data[:8] != b"ASTM-E57":
        raise scene.MeshError("no E57 file; its signature is missing")
    *_, size, start, length, page = _HEADER.unpack_from(data)
    if len(data) < size:
        raise scene.MeshError(f"truncated; {size} bytes expected, {len(data)} found")
    if not 64 <= page <= 2**20 or start >= len(data):
        raise scene.MeshError("a corrupt header")
    first = start // page * page
    pages = (data[at : at + page - _CHECKSUM_BYTES] for at in range(first, len(data), page))
    xml_documents.check_entities(b"".join(pages)[start - first :][:length])


def _read_scans(file: pye57.E57, *, notes: list[str]) -> tuple[scene.Points, ...]:
    """Reads the scans of an open file."""
    limits.PARTS.check(file.scan_count)
    headers = [file.get_header(index) for index in range(file.scan_count)]
    limits.POINTS.check(sum(header.point_count for header in headers))
    points = [_read_scan(file, header, notes) for header in headers if header.point_count]
    if not points:
        raise scene.MeshError("no scans; pictures of E57 files are not read")
    return tuple(points)


def _read_scan(file: pye57.E57, header: pye57.ScanHeader, notes: list[str]) -> scene.Points:
    """Reads one scan."""
    present = set(header.point_fields)
    names = next((n for n in (_CARTESIAN, _SPHERICAL) if set(n) <= present), None)
    if names is None:
        raise scene.MeshError("a scan without coordinates")
    invalid = "cartesianInvalidState" if names is _CARTESIAN else "sphericalInvalidState"
    coloured = set(_COLOURS) <= present
    wanted = [*names, *(_COLOURS if coloured else ()), *({invalid} & present)]
    columns = {name: np.empty(header.point_count) for name in wanted}
    buffers = libe57.VectorSourceDestBuffer()
    for name, column in columns.items():
        # Converted to float64, and scaled by the file's own factors.
        buffers.append(
            libe57.SourceDestBuffer(file.image_file, name, column, len(column), True, True)
        )
    reader = header.points.reader(buffers)
    count = reader.read()
    reader.close()
    if count < header.point_count:
        raise scene.MeshError("truncated; points that the header declares are missing")
    kept = columns[invalid] == 0 if invalid in columns else slice(None)
    xyz = np.stack([columns[name] for name in names], axis=1)[kept]
    if names is _SPHERICAL:
        xyz = _to_cartesian(xyz)
    if header.has_pose():
        xyz = xyz @ header.rotation_matrix.T + header.translation
    rgb = None
    if coloured:
        rgb = np.stack([columns[name] for name in _COLOURS], axis=1)[kept]
        rgb = _scaled(rgb, header, notes=notes)
    return scene.Points(xyz, rgb)


def _to_cartesian(spherical: np.ndarray) -> np.ndarray:
    """Converts range, azimuth and elevation, in metres and radians, [points, 3] to xyz."""
    distance, azimuth, elevation = spherical.T
    flat = distance * np.cos(elevation)
    return np.stack(
        [flat * np.cos(azimuth), flat * np.sin(azimuth), distance * np.sin(elevation)], axis=1
    )


def _scaled(rgb: np.ndarray, header: pye57.ScanHeader, *, notes: list[str]) -> np.ndarray | None:
    """Returns colours as floats 0 to 1, by the limits that the scan states."""
    try:
        bounds = header["colorLimits"]
        low = np.array([bounds[f"{name}Minimum"].value() for name in _COLOURS], np.float64)
        high = np.array([bounds[f"{name}Maximum"].value() for name in _COLOURS], np.float64)
    except libe57.E57Exception:  # optional; 8 bits unless a value is larger
        low, high = np.zeros(3), np.full(3, 255.0 if rgb.max(initial=0) <= 255 else 65535.0)
    if not (high > low).all() or not np.isfinite(rgb).all():
        notes.append("colours without valid limits, ignored")
        return None
    return np.clip((rgb - low) / (high - low), 0, 1)
