# SPDX-License-Identifier: Apache-2.0
"""Triangles and attributes of one primitive of a glTF mesh."""

import dataclasses
from typing import Any

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry.readers.gltf import draco, fields
from data_prep.geometry.readers.gltf.document import Document
from data_prep.geometry.scene import MeshError

POINTS, TRIANGLES, STRIP, FAN = 0, 4, 5, 6
_LINES = (1, 2, 3)
LINES_IGNORED = "lines, ignored"
NO_POSITIONS = "parts without positions, ignored"
INCOMPLETE = "incomplete triangles, ignored"
RESTARTS = "indices that restart a strip, which glTF does not allow"
WRONG_LENGTH = "attributes of a wrong length, ignored"
_SKIN_NAMES = ("JOINTS_", "WEIGHTS_")
# Attributes that are read beside positions; others (normals, tangents) are not needed.
_READ = ("TEXCOORD_", "COLOR_", *_SKIN_NAMES)


@dataclasses.dataclass(frozen=True)
class Primitive:
    """Geometry of a primitive, before morph targets, skins and transforms.

    Attributes:
      tree: object of the JSON.
      faces: integers [faces, 3], or [points] for points.
      positions: [vertices, 3].
      attributes: other attributes by name, [vertices] or [vertices, width].
    """

    tree: dict[str, Any]
    faces: np.ndarray
    positions: np.ndarray
    attributes: dict[str, np.ndarray]

    @property
    def is_points(self) -> bool:
        """Whether this is a set of points."""
        return self.faces.ndim == 1


def read(document: Document, primitive: dict[str, Any], *, skinned: bool) -> Primitive | None:
    """Reads a primitive; None, and a note, if it has no triangles or points to read.

    Args:
      document: open file.
      primitive: object of the JSON.
      skinned: whether joints and weights are needed.

    Raises:
      MeshError: the primitive is malformed.
      limits.LimitError: it has too many faces, points or vertices.
    """
    notes = document.assets.notes
    mode = fields.get_index(primitive, "mode", TRIANGLES)
    if mode in _LINES:
        notes.append(LINES_IGNORED)
        return None
    if mode > FAN:
        raise MeshError(f"a primitive of an unknown mode: {mode}")
    accessors = fields.get_object(primitive, "attributes")
    if accessors.get("POSITION") is None:
        notes.append(NO_POSITIONS)
        return None
    names = [name for name in accessors if name.startswith(_READ) and accessors[name] is not None]
    if not skinned:
        names = [name for name in names if not name.startswith(_SKIN_NAMES)]
    faces, decoded = None, {}
    if draco.is_needed(document, primitive):
        faces, decoded = draco.decode(document, primitive)
    positions, *values = (
        decoded[name] if name in decoded else document.accessor(fields.get_index(accessors, name))
        for name in ("POSITION", *names)
    )
    if positions.ndim != 2 or positions.shape[1] != 3:
        raise MeshError("positions of a wrong type, expected VEC3")
    if faces is None:
        indices = _indices(document, primitive, count=len(positions))
        faces = indices if mode == POINTS else triangles(indices, mode=mode, notes=notes)
    _check_indices(faces, count=len(positions))
    attributes = {}
    for name, array in zip(names, values, strict=True):
        if len(array) == len(positions):
            attributes[name] = array
        elif name.startswith(_SKIN_NAMES):
            raise MeshError("joints and weights of a skin do not match")
        else:
            notes.append(WRONG_LENGTH)
    return Primitive(primitive, faces, positions, attributes)


def triangles(indices: np.ndarray, *, mode: int, notes: list[str]) -> np.ndarray:
    """Returns the triangles of a list, a strip or a fan of vertices.

    Args:
      indices: integers [indices].
      mode: TRIANGLES, STRIP or FAN.
      notes: list to which INCOMPLETE or RESTARTS may be appended.

    Returns:
      integers [faces, 3].
    """
    if mode == TRIANGLES:
        whole = len(indices) // 3 * 3
        if whole < len(indices):
            notes.append(INCOMPLETE)
        return indices[:whole].reshape(-1, 3)
    if len(indices) < 3:
        notes.append(INCOMPLETE)
        return indices[:0].reshape(-1, 3)
    is_restart = np.zeros(len(indices), bool)
    if indices.dtype.kind == "u":
        # Every graphics interface treats the largest value as the start of a new strip.
        is_restart = indices == np.iinfo(indices.dtype).max
    if is_restart.any():
        notes.append(RESTARTS)
    position = np.arange(len(indices))
    start = np.maximum.accumulate(np.where(is_restart, position + 1, 0))
    is_whole = ~(is_restart[:-2] | is_restart[1:-1] | is_restart[2:])
    if mode == FAN:
        first = indices[np.minimum(start[:-2], len(indices) - 1)]
        faces = np.stack([first, indices[1:-1], indices[2:]], axis=1)
        return faces[is_whole]
    odd = (position[:-2] - start[:-2]) % 2
    faces = np.stack(
        [indices[:-2], indices[position[:-2] + 1 + odd], indices[position[:-2] + 2 - odd]], axis=1
    )
    return faces[is_whole]


def _indices(document: Document, primitive: dict[str, Any], *, count: int) -> np.ndarray:
    """Returns the indices of a primitive; those of all vertices if it states none."""
    index = fields.get_index(primitive, "indices")
    if index is None:
        limits.VERTICES.check(count)
        return np.arange(count)
    indices = document.accessor(index)
    if indices.ndim != 1 or indices.dtype.kind not in "iu":
        raise MeshError("indices of a wrong type, expected integers")
    return indices


def _check_indices(faces: np.ndarray, *, count: int) -> None:
    if faces.size and (faces.max() >= count or faces.min() < 0):
        raise MeshError(f"a face names a vertex that does not exist: {faces.max()} of {count}")
