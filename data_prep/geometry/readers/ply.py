# SPDX-License-Identifier: Apache-2.0
"""Polygon File Format (PLY), text and binary: meshes, point clouds and Gaussian splats."""

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import (
    colouring,
    ply_body,
    ply_columns,
    ply_header,
    ply_textures,
    polygons,
    text_numbers,
)
from data_prep.geometry.readers.ply_body import Table
from data_prep.geometry.scene import MeshError, Part, Points, Scene

_VERTICES = ("vertex", "vertices", "point", "points")
_FACES = ("face", "faces", "triangle", "polygon")
_STRIPS = ("tristrips", "tristrip")
_EDGES = ("edge", "edges")
_INDICES = ("vertex_indices", "vertex_index", "vertex_indexes", "vertices", "indices")
EDGES_IGNORED = "edges, ignored"
# Notes that end with a number.
_TOO_FEW_CORNERS = "faces of fewer than three corners, ignored"


def read(data: bytes, *, assets: Assets, file_type: str) -> Scene:
    """Reads a PLY file.

    Colours may be integers of 8 or 16 bits or floats, named red, green and blue or as in
    `ply_columns.CHANNELS`, of vertices or of faces; those of a texture win. A file without faces is
    a point cloud.

    Args:
      data: bytes of the file.
      assets: reads textures and collects the notes.
      file_type: unused.

    Raises:
      MeshError: the file is malformed or truncated, or has no coordinates.
      limits.LimitError: the file exceeds a limit.
    """
    del file_type
    data = text_numbers.to_utf8(data)
    header = ply_header.parse(data)
    counts = {element.name: element.count for element in header.elements}
    vertex = next((name for name in _VERTICES if name in counts), None)
    if vertex is None:
        raise MeshError(f"no element vertex; found {', '.join(counts)}")
    surfaces = [name for name in (*_FACES, *_STRIPS) if counts.get(name)]
    (limits.VERTICES if surfaces else limits.POINTS).check(counts[vertex])
    for name in surfaces:
        limits.FACES.check(counts[name])
    wanted = {vertex, *surfaces}
    tables = ply_body.read(data, header, wanted=wanted, notes=assets.notes)
    vertices = ply_columns.positions(tables[vertex].columns, element=vertex)
    faces = [_faces(tables[name], vertices, notes=assets.notes) for name in surfaces]
    if not any(len(triangles) for _, triangles, _ in faces):
        if any(counts.get(name) for name in _EDGES):
            assets.notes.append(EDGES_IGNORED)
        return Scene(points=_points(tables[vertex], vertices, notes=assets.notes))
    parts: list[Part] = []
    for table, triangles, corners in faces:
        parts += _parts(
            tables[vertex], table, vertices, triangles, corners, header=header, assets=assets
        )
    return Scene(tuple(parts))


def _points(table: Table, xyz: np.ndarray, *, notes: list[str]) -> tuple[Points, ...]:
    """Returns the vertices of a file without faces as points."""
    if not len(xyz):
        return ()
    codes = _codes(table)
    rgb = ply_columns.colours(table.columns, codes, notes=notes)
    visible = ply_columns.visible_splats(table.columns, notes=notes)
    if visible is not None:
        xyz, rgb = xyz[visible], rgb[visible]
    return (Points(xyz, rgb),)


def _faces(
    table: Table, vertices: np.ndarray, *, notes: list[str]
) -> tuple[Table, np.ndarray, polygons.Triangulation]:
    """Returns the triangles of an element: their vertices [triangles, 3] and their corners.

    Raises:
      MeshError: there are no indices, or one names no vertex.
    """
    name = next((name for name in _INDICES if name in table.lists), None)
    if name is None:
        raise MeshError(f"element {table.element.name} has no list vertex_indices")
    indices = table.lists[name].values
    if indices.dtype.kind == "f":
        whole = np.rint(np.clip(np.nan_to_num(indices, nan=-2), -2, 2**53))
        if (whole != indices).any():
            raise MeshError("a face names a vertex that does not exist")
        indices = whole
    indices = indices.astype(np.int64)
    if table.element.name in _STRIPS:
        found = _strips(indices, table.lists[name].counts)
        _check_indices(indices[indices != -1], len(vertices))
        return table, indices[found.corners], found
    _check_indices(indices, len(vertices))
    found = polygons.triangulate(vertices, indices, counts=table.lists[name].counts)
    small = int((table.lists[name].counts < 3).sum())
    if small:
        notes.append(f"{_TOO_FEW_CORNERS}: {small}")
    return table, indices[found.corners], found


def _check_indices(indices: np.ndarray, count: int) -> None:
    if len(indices) and (indices.min() < 0 or indices.max() >= count):
        raise MeshError("a face names a vertex that does not exist")


def _strips(indices: np.ndarray, counts: np.ndarray) -> polygons.Triangulation:
    """Cuts strips of triangles, which -1 separates; every second triangle is turned."""
    limits.FACES.check(len(indices))
    row = np.repeat(np.arange(len(counts)), counts)
    first = np.arange(max(len(indices) - 2, 0))
    windows = first[:, None] + np.arange(3)
    corners = indices[windows]
    usable = (corners >= 0).all(axis=1) & (row[first] == row[first + 2])
    usable &= (corners != np.roll(corners, 1, axis=1)).all(axis=1)
    # A strip begins at the start of a row or behind a -1.
    begins = np.concatenate([[True], (row[1:] != row[:-1]) | (indices[:-1] == -1)])[: len(first)]
    begin = np.maximum.accumulate(np.where(begins, first, 0))
    is_odd = (first - begin) % 2 == 1
    windows[is_odd] = windows[is_odd][:, [1, 0, 2]]
    return polygons.Triangulation(windows[usable], row[first][usable])


def _codes(table: Table) -> dict[str, str]:
    """Returns the types of the columns as the header states them."""
    return {item.name: item.type for item in reversed(table.element.properties)}


def _parts(
    vertex: Table,
    face: Table,
    vertices: np.ndarray,
    triangles: np.ndarray,
    found: polygons.Triangulation,
    *,
    header: ply_header.Header,
    assets: Assets,
) -> list[Part]:
    """Returns the triangles of an element with their texture or colours.

    Args:
      vertex: table of the vertices.
      face: table of the faces.
      vertices: [vertices, 3].
      triangles: int [triangles, 3], vertices of the corners.
      found: position of the corners among those of all faces, and face of each triangle.
      header: header of the file.
      assets: reads textures and collects the notes.
    """
    if not len(triangles):
        return []
    positions = vertices.astype(np.float64, copy=False)[triangles]
    parts, is_plain = [], np.ones(len(triangles), bool)
    for texture, chosen, uv in ply_textures.read(
        vertex, face, triangles, found, names=header.textures, assets=assets
    ):
        parts.append(Part(positions[chosen], uv=uv, texture=texture))
        is_plain[chosen] = False
    notes: list[str] = []
    has_rows = face.element.name in _FACES  # a row of strips is no face
    colours = colouring.of_corners(
        ply_columns.rgba(vertex.columns, _codes(vertex), notes=notes),
        ply_columns.rgba(face.columns, _codes(face), notes=notes) if has_rows else None,
        triangles=triangles,
        polygon=found.polygon,
        notes=notes,
    )
    if is_plain.any():
        assets.notes += notes
        rest = slice(None) if is_plain.all() else is_plain
        parts.append(Part(positions[rest], colours=None if colours is None else colours[rest]))
    if not is_plain.all() and colours is not None and not colouring.is_white(colours[~is_plain]):
        assets.notes.append(colouring.BESIDE_TEXTURE)
    return parts
