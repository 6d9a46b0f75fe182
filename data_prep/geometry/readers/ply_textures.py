# SPDX-License-Identifier: Apache-2.0
"""Textures of PLY files: comments name the pictures, vertices or faces have the coordinates."""

from collections.abc import Iterator

import numpy as np

from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import ply_columns
from data_prep.geometry.readers.ply_body import Table
from data_prep.geometry.readers.polygons import Triangulation
from data_prep.geometry.scene import Texture

NO_TEXTURE = "texture coordinates without a texture, ignored"
_FACE_UV = ("texcoord", "texcoords", "texture_coordinates", "uv")
_NUMBERS = ("texnumber", "texture_number", "tex_number")


def read(
    vertex: Table,
    face: Table,
    triangles: np.ndarray,
    found: Triangulation,
    *,
    names: list[str],
    assets: Assets,
) -> Iterator[tuple[Texture, np.ndarray, np.ndarray]]:
    """Reads the textures of an element of faces.

    Args:
      vertex: table of the vertices.
      face: table of the faces.
      triangles: int [triangles, 3], vertices of the corners.
      found: position of the corners among those of all faces, and face of each triangle.
      names: names of the pictures; a column "texnumber" of the faces chooses among them.
      assets: reads the pictures and collects the notes.

    Yields:
      Texture, triangles that have it, int [n], and their texture coordinates [n, 3, 2].
    """
    uv, has_uv = _coordinates(vertex, face, triangles, found)
    if not has_uv.any():
        return
    if not names:
        assets.notes.append(NO_TEXTURE)
        return
    column = next((name for name in _NUMBERS if name in face.columns), None)
    numbers = np.zeros(len(triangles), np.int64)
    if column is not None:
        rows = np.nan_to_num(face.columns[column].astype(np.float64), nan=-1, posinf=-1, neginf=-1)
        numbers = np.clip(rows, -1, len(names)).astype(np.int64)[found.polygon]
    for number, name in enumerate(names):
        chosen = np.flatnonzero(has_uv & (numbers == number))
        if not len(chosen):
            continue
        texels = assets.texture(name)
        if texels is not None:
            yield Texture(texels), chosen, uv[chosen]


def _coordinates(
    vertex: Table, face: Table, triangles: np.ndarray, found: Triangulation
) -> tuple[np.ndarray, np.ndarray]:
    """Returns texture coordinates [triangles, 3, 2], and which triangles have any."""
    name = next((name for name in _FACE_UV if name in face.lists), None)
    if name is not None:
        listed = face.lists[name]
        starts = np.cumsum(listed.counts) - listed.counts
        # Position of a corner within its face: corners are numbered over all faces.
        sizes = _corner_counts(face)
        within = found.corners - (np.cumsum(sizes) - sizes)[found.polygon][:, None]
        has_uv = (listed.counts == 2 * sizes)[found.polygon]
        at = np.where(has_uv[:, None], starts[found.polygon][:, None] + 2 * within, 0)
        if has_uv.any():
            return np.stack([listed.values[at], listed.values[at + 1]], axis=-1), has_uv
    names = ply_columns.first_of(vertex.columns, ply_columns.UV)
    if names:
        uv = np.stack([vertex.columns[name] for name in names], axis=-1)
        return uv[triangles], np.ones(len(triangles), bool)
    return np.zeros((len(triangles), 3, 2)), np.zeros(len(triangles), bool)


def _corner_counts(face: Table) -> np.ndarray:
    """Returns the number of corners of every face."""
    lists = [item.counts for name, item in face.lists.items() if name.startswith("vertex")]
    return lists[0] if lists else next(iter(face.lists.values())).counts
