# SPDX-License-Identifier: Apache-2.0
"""Reduces shapes to small glb files that the search page shows.

The corners of a mesh that fall into one cell of a grid become one vertex (vertex clustering,
Rossignac and Borrel 1993); the grid is made coarser until few enough faces remain. Colours belong
to vertices. Faces with a texture are divided first, so that there are vertices for its pattern.
"""

import numpy as np

from data_prep.geometry import clouds, meshes, surface
from data_prep.geometry.conventions import Conventions
from mrd_jax.search import glb

# Largest number of points of a cloud: 160 kB.
MAX_POINTS = 8_192
# Cells per axis of the first grid, which only joins corners that coincide, and of the coarser ones.
_EXACT, _FINEST, _COARSEST = 65_536, 256, 8
# Factor between the cells of two grids.
_COARSER = 0.85
# Textured faces are divided until no edge is longer, relative to the radius of the shape.
_TEXEL = 1 / 24
# Points of a corner's colour, as barycentric weights of the corner and of the other two.
_CORNER_WEIGHTS = np.array([[0.9, 0.05, 0.05], [0.7, 0.2, 0.1], [0.7, 0.1, 0.2]])


def of_content(
    content: meshes.Content, *, up: str, conventions: Conventions, max_faces: int
) -> bytes:
    """Returns the reduced mesh of a file, b"" for a point cloud or if nothing of it is visible.

    Args:
      content: content of a file.
      up: its vertical axis, "y" or "z".
      conventions: say how y up is turned to z up.
      max_faces: largest number of faces; 0 for no mesh.
    """
    if content.surface is None or not max_faces:
        return b""
    found = content.surface
    faces, weights = _visible_faces(found), np.eye(3)
    if not len(faces):
        return b""
    weights = np.broadcast_to(weights, (len(faces), 3, 3))
    corners = found.triangles[faces].astype(np.float64)
    if up == "y":
        corners = conventions.turn_y_up(corners.reshape(-1, 3)).reshape(corners.shape)
    corners = _in_unit_sphere(corners)
    faces, weights, corners = _divide_textured(found, faces, weights, corners, limit=max_faces)
    rgba = _corner_colours(found, faces, weights)
    return _reduce(corners, rgba, found.part[faces], max_faces=max_faces)


def of_points(xyz: np.ndarray, rgb: np.ndarray) -> bytes:
    """Returns a glb file of at most `MAX_POINTS` points.

    Args:
      xyz: [points, 3], in a random order.
      rgb: uint8 [points, 3].
    """
    xyz, rgb = xyz[:MAX_POINTS], rgb[:MAX_POINTS]
    return glb.write(xyz, np.concatenate([rgb, np.full((len(rgb), 1), 255, np.uint8)], axis=1))


def of_file(
    content: meshes.Content,
    cloud: clouds.Cloud,
    *,
    up: str,
    conventions: Conventions,
    max_faces: int,
    points: int,
) -> bytes:
    """Returns what the page shows of a file: its mesh, or its points if it has many.

    Args:
      content: content of the file.
      cloud: its point cloud, in a random order.
      up: as in `of_content`, as are the following.
      conventions: conventions of the encoder.
      max_faces: largest number of faces; 0 for b"".
      points: points that the index has of every shape.
    """
    if content.xyz is None:
        return of_content(content, up=up, conventions=conventions, max_faces=max_faces)
    dense = min(len(content.xyz), len(cloud.xyz), MAX_POINTS)
    if not max_faces or dense <= points:
        return b""
    return of_points(cloud.xyz[:dense], np.rint(cloud.rgb[:dense] * 255).astype(np.uint8))


def _visible_faces(found: surface.Surface) -> np.ndarray:
    """Returns the faces that have an area and are not invisible or holes."""
    visible = surface.face_areas(found) > 0
    visible &= (found.opacity >= surface.INVISIBLE_OPACITY)[found.part]
    faces = np.flatnonzero(visible)
    plain = found.width[found.part[faces]] * found.height[found.part[faces]] == 1
    centre = np.full((len(faces), 3), 1 / 3)
    alpha = surface.colours_at(found, faces, weights=centre)[:, 3]
    return faces[~plain | (alpha >= surface.HOLE_ALPHA)]


def _in_unit_sphere(corners: np.ndarray) -> np.ndarray:
    """Moves the centre of the bounding box to the origin and the farthest corner to norm 1."""
    flat = corners.reshape(-1, 3)
    flat = flat - (flat.min(axis=0) + flat.max(axis=0)) / 2
    return (flat / np.linalg.norm(flat, axis=1).max()).reshape(corners.shape)


def _divide_textured(
    found: surface.Surface,
    faces: np.ndarray,
    weights: np.ndarray,
    corners: np.ndarray,
    *,
    limit: int,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Divides large textured faces into four, the largest first, while there are few faces.

    Args:
      found: the surface.
      faces: int [n], face of the surface that each piece is a part of.
      weights: [n, 3, 3], barycentric coordinates of the corners of each piece in its face.
      corners: [n, 3, 3], positions of the corners.
      limit: largest number of pieces.
    """
    textured = found.width * found.height > 1
    while len(faces) < limit:
        edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
        large = np.flatnonzero(textured[found.part[faces]] & (edges > _TEXEL))
        # Each adds three pieces.
        large = large[np.argsort(-edges[large], kind="stable")[: (limit - len(faces)) // 3]]
        if not len(large):
            break
        rest = np.delete(np.arange(len(faces)), large)
        faces = np.concatenate([faces[rest], np.repeat(faces[large], 4)])
        weights = np.concatenate([weights[rest], _quarters(weights[large])])
        corners = np.concatenate([corners[rest], _quarters(corners[large])])
    return faces, weights, corners


def _quarters(corners: np.ndarray) -> np.ndarray:
    """Divides triangles [n, 3, 3] at the middles of their edges; returns [4 n, 3, 3]."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    ab, bc, ca = (a + b) / 2, (b + c) / 2, (c + a) / 2
    pieces = [[a, ab, ca], [ab, b, bc], [ca, bc, c], [ab, bc, ca]]
    return np.stack([np.stack(piece, axis=1) for piece in pieces], axis=1).reshape(-1, 3, 3)


def _corner_colours(found: surface.Surface, faces: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Returns the mean colours near the corners of pieces, float [n, 3, 4], 0 to 255."""
    total = np.zeros((len(faces), 3, 4))
    for corner in range(3):
        for near in _CORNER_WEIGHTS:
            local = np.roll(near, corner) @ weights
            total[:, corner] += surface.colours_at(found, faces, weights=local)
    total /= len(_CORNER_WEIGHTS)
    total[..., 3] *= found.opacity[found.part[faces], None]
    return total


def _reduce(corners: np.ndarray, rgba: np.ndarray, part: np.ndarray, *, max_faces: int) -> bytes:
    """Joins corners by the finest grid that leaves few enough faces; returns a glb file.

    Args:
      corners: [n, 3, 3], inside the unit sphere.
      rgba: [n, 3, 4], 0 to 255.
      part: int [n], part of each face; colours of different parts are not mixed.
      max_faces: largest number of faces.
    """
    # Meshes with both sides of every face are frequent, and half of their faces are enough.
    single = _cluster(corners, part, cells=_EXACT)[1]
    corners, rgba, part = corners[single], rgba[single], part[single]
    if not len(corners):
        return b""
    cells = _choose_cells(corners, max_faces=max_faces)
    vertex, kept = _cluster(corners, part, cells=cells)
    kept = kept[:: max(1, -(-len(kept) // max_faces))]
    if not len(kept):
        return b""
    flat = vertex.reshape(-1)
    # The part is left out: vertices of one cell and several parts stay together.
    cell = _cell_numbers(corners, cells=cells).reshape(-1)
    positions = _mean_by(cell, corners.reshape(-1, 3))
    colours = _mean_by(flat, rgba.reshape(-1, 4))
    used, faces = np.unique(vertex[kept], return_inverse=True)
    first = np.zeros(flat.max() + 1, np.int64)
    first[flat] = np.arange(len(flat))
    colours = np.rint(np.clip(colours[first[used]], 0, 255)).astype(np.uint8)
    return glb.write(positions[first[used]], colours, faces.reshape(-1, 3))


def _choose_cells(corners: np.ndarray, *, max_faces: int) -> int:
    """Returns the cells per axis of the finest grid that leaves few enough faces."""
    cells = _EXACT
    while cells > _COARSEST:
        if np.count_nonzero(_is_triangle(_cell_codes(corners, cells=cells))) <= max_faces:
            break
        cells = max(_COARSEST, _FINEST if cells == _EXACT else int(cells * _COARSER))
    return cells


def _cell_codes(corners: np.ndarray, *, cells: int) -> np.ndarray:
    """Returns a different integer for each grid cell, int64 [n, 3]."""
    places = np.clip((corners + 1) / 2 * cells, 0, cells - 1).astype(np.int64)
    return (places[..., 0] * cells + places[..., 1]) * cells + places[..., 2]


def _is_triangle(cell: np.ndarray) -> np.ndarray:
    """Returns whether the three corners of each face lie in different cells, bool [n]."""
    a, b, c = cell.T
    return (a != b) & (b != c) & (c != a)


def _cell_numbers(corners: np.ndarray, *, cells: int) -> np.ndarray:
    """Returns the number of the cell of each corner among those in use, int [n, 3]."""
    codes = _cell_codes(corners, cells=cells)
    return np.unique(codes, return_inverse=True)[1].reshape(codes.shape)


def _cluster(corners: np.ndarray, part: np.ndarray, *, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the vertex of each corner, int [n, 3], and the faces that do not collapse."""
    cell = _cell_numbers(corners, cells=cells)
    joined = cell + part[:, None].astype(np.int64) * (cell.max() + 1)
    vertex = np.unique(joined, return_inverse=True)[1].reshape(cell.shape)
    kept = np.flatnonzero(_is_triangle(cell))
    # Two faces with the same corners: one is enough, since both sides are drawn.
    _, firsts = np.unique(np.sort(cell[kept], axis=1), axis=0, return_index=True)
    return vertex, kept[np.sort(firsts)]


def _mean_by(group: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Replaces each value [n, k] by the mean over its group, int [n]."""
    counts = np.bincount(group)
    means = [np.bincount(group, column) / counts for column in values.T]
    return np.stack(means, axis=1)[group]
