# SPDX-License-Identifier: Apache-2.0
"""Faces of VRML and X3D: polygons by lists of indices that end at -1."""

import dataclasses

import numpy as np

from data_prep.geometry import scene
from data_prep.geometry.readers import polygons

# Nearest to "per vertex" and "per face" of both versions of the format.
PER_CORNER, PER_FACE = "corner", "face"


@dataclasses.dataclass(frozen=True)
class Faces:
    """Triangles of polygons.

    Attributes:
      corners: int64 [triangles, 3], positions in the list of indices of the file.
      vertices: int64 [triangles, 3], vertices of the corners.
      polygon: int64 [triangles], number of the polygon of each triangle.
    """

    corners: np.ndarray
    vertices: np.ndarray
    polygon: np.ndarray


def triangulate(points: np.ndarray, index: np.ndarray, *, ccw: bool = True) -> Faces:
    """Cuts polygons into triangles.

    Args:
      points: float64 [points, 3].
      index: int64 [n], indices of points; a negative one ends a polygon.
      ccw: False reverses the triangles.

    Raises:
      scene.MeshError: an index has no point.
      limits.LimitError: there are too many faces.
    """
    kept = np.flatnonzero(index >= 0)
    chosen = index[kept]
    if len(chosen) and chosen.max() >= len(points):
        raise scene.MeshError("a face of a point that does not exist")
    number = np.cumsum(index < 0)[kept]  # number of the polygon of each corner
    used, counts = np.unique(number, return_counts=True)
    found = polygons.triangulate(points, chosen, counts=counts)
    corners = found.corners if ccw else found.corners[:, ::-1]
    return Faces(kept[corners], chosen[corners], used[found.polygon])


def choose(
    faces: Faces, items: np.ndarray, index: np.ndarray, *, binding: str, notes: list[str]
) -> np.ndarray | None:
    """Returns the items (colours, texture coordinates) of the corners of triangles.

    Args:
      faces: triangles.
      items: [items, width].
      index: int64 [n], indices of items: per corner of the file's list, or per polygon; empty for
        the vertices' own indices, or the numbers of the polygons.
      binding: PER_CORNER or PER_FACE.
      notes: list to which a note is appended if an item does not exist.

    Returns:
      [triangles, 3, width]; None if an item does not exist.
    """
    if binding == PER_FACE:
        rows = np.repeat(faces.polygon[:, None], 3, axis=1)
    else:
        rows = faces.corners if len(index) else faces.vertices
    if len(index) and len(rows):
        rows = index[rows] if rows.max() < len(index) else rows * 0 - 1
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(items):
        notes.append("colours or texture coordinates that do not exist, ignored")
        return None
    return items[rows]


def default_uv(triangles: np.ndarray) -> np.ndarray:
    """Returns the texture coordinates of faces that have none: by their bounding box.

    The longest side of the box is u, 0 to 1, and the second is v, in the same scale.

    Args:
      triangles: float64 [faces, 3, 3].
    """
    corners = triangles.reshape(-1, 3)
    low = corners.min(axis=0)
    size = corners.max(axis=0) - low
    u, v = np.argsort(-size, kind="stable")[:2]
    return (triangles[..., [u, v]] - low[[u, v]]) / (size[u] or 1)


def rgba(rows: np.ndarray, transparency: np.ndarray | float = 0.0) -> np.ndarray:
    """Returns colours float32 [n, 4] from [n, 3] or [n, 4] and transparencies."""
    result = np.ones((len(rows), 4), np.float32)
    result[:, : rows.shape[1]] = rows
    result[:, 3] *= 1 - np.asarray(transparency)
    return result
