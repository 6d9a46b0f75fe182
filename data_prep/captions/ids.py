# SPDX-License-Identifier: Apache-2.0
"""Matches the ids of a caption file with the ids of shapes.

Lists of captions write the id of one object in several ways: `UID`, `UID.glb`, or
`000-023/UID.glb`. An id matches a shape

1. if both are equal,
2. else if their paths are equal without the suffix of the mesh file,
3. else if one of them has no folder, and their file names are equal without suffix.

The second and third match only where one shape and one id agree, since `model.obj` may be in many
folders. Several shapes or several ids make it ambiguous, and an ambiguous match is none.
"""

import enum
import itertools
from collections.abc import Iterable

from data_prep.geometry import formats

_SUFFIXES = tuple(f".{name}" for name in formats.TYPES)
# Value of keys that several shapes share.
_SEVERAL = -1


class Level(enum.IntEnum):
    """How an id matches a shape; a smaller level takes precedence."""

    EXACT = 0
    LOOSE = 1
    NONE = 2


class ShapeIds:
    """Index of the ids of shapes.

    Memory is one dictionary of the ids; further ones hold only the keys that differ from the ids,
    so that the uids of Objaverse need no more.

    Args:
      ids: distinct ids of the shapes; the position in this order identifies a shape.
    """

    def __init__(self, ids: Iterable[str]):
        self._exact = {shape_id: position for position, shape_id in enumerate(ids)}
        self._paths: dict[str, int] = {}
        self._names: dict[str, int] = {}
        for shape_id, position in self._exact.items():
            path = path_of(shape_id)
            name = path.rpartition("/")[2]
            if path != shape_id:
                self._paths[path] = _SEVERAL if path in self._paths else position
            if name != path:
                self._names[name] = _SEVERAL if name in self._names else position

    def __len__(self) -> int:
        return len(self._exact)

    def first(self, count: int) -> list[str]:
        """Returns the first ids, for messages."""
        return list(itertools.islice(self._exact, count))

    def position(self, shape_id: str) -> int:
        """Returns the position of a shape. Raises KeyError for an unknown id."""
        return self._exact[shape_id]

    def find(self, found_id: str) -> tuple[int | None, Level]:
        """Returns the shape that an id of a caption file refers to.

        Returns:
          (position, level) of the shape; (None, LOOSE) if several shapes match, and (None, NONE) if
          none does.
        """
        position = self._exact.get(found_id)
        if position is not None:
            return position, Level.EXACT
        path = path_of(found_id)
        candidates = self._with_path(path)
        if not candidates:
            name = path.rpartition("/")[2]
            if name != path:
                candidates = self._with_path(name)  # shapes without a folder
            elif name in self._names:
                candidates = {self._names[name]}
        if not candidates:
            return None, Level.NONE
        if len(candidates) > 1 or _SEVERAL in candidates:
            return None, Level.LOOSE
        return candidates.pop(), Level.LOOSE

    def _with_path(self, path: str) -> set[int]:
        """Returns the shapes with a path, which may be their id."""
        found = (self._exact.get(path), self._paths.get(path))
        return {position for position in found if position is not None}


def path_of(text: str) -> str:
    """Returns an id as a path with forward slashes, without the suffix of a mesh file."""
    if "\\" in text or "/" in text:
        parts = text.replace("\\", "/").split("/")
        text = "/".join(part for part in parts if part not in ("", "."))
    stem, dot, suffix = text.rpartition(".")
    return stem if dot and f".{suffix.lower()}" in _SUFFIXES and stem else text
