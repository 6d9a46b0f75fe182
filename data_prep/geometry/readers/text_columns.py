# SPDX-License-Identifier: Apache-2.0
"""Meaning of the columns of a point cloud that is written as rows of numbers."""

import dataclasses
import re
from collections.abc import Sequence

import numpy as np

from data_prep.geometry import scene

# Names of coordinates and colours in the headers of files, in lower case.
_NAMES = {
    **{name: "x" for name in ("x", "x_coord", "pos_x", "position_x", "easting", "cartesianx")},
    **{name: "y" for name in ("y", "y_coord", "pos_y", "position_y", "northing", "cartesiany")},
    **{name: "z" for name in ("z", "z_coord", "pos_z", "position_z", "height", "cartesianz")},
    **{name: "r" for name in ("r", "red", "rf", "diffuse_red", "colorred", "color_r")},
    **{name: "g" for name in ("g", "green", "gf", "diffuse_green", "colorgreen", "color_g")},
    **{name: "b" for name in ("b", "blue", "bf", "diffuse_blue", "colorblue", "color_b")},
}
# Letters of `parse` for columns that are not read: intensity, normal, alpha, label and others.
_IGNORED = "inal_"
# Rows that decide what a column means.
_ROWS = 20_000


@dataclasses.dataclass(frozen=True)
class Columns:
    """Indices of the columns that are read.

    Attributes:
      xyz: columns of the coordinates.
      rgb: columns of the colours, or None.
    """

    xyz: tuple[int, int, int]
    rgb: tuple[int, int, int] | None = None


def parse(text: str, *, count: int) -> Columns:
    """Parses the user's names of the columns.

    Args:
      text: one letter per column: x, y, z, r, g and b; i (intensity), n (normal), a (alpha),
        l (label) and _ are not read. "xyzirgb", for example. Or names as in the header of a file,
        with commas: "x,y,z,intensity,red,green,blue". Columns beyond those are not read.
      count: number of columns in the file.

    Raises:
      MeshError: x, y or z is missing or named twice, only some of r, g and b are named, a letter is
        unknown, or the file has fewer columns.
    """
    names = re.split(r"[,\s]+", text.strip()) if "," in text else list(text.strip())
    unknown = [name for name in names if len(name) == 1 and name not in "xyzrgb" + _IGNORED]
    if unknown:
        raise scene.MeshError(
            f"columns {text!r} has the letter {unknown[0]!r}; expected x, y, z, r, g, b, and one "
            f"of {', '.join(_IGNORED)} for columns that are not read"
        )
    columns = _find(names)
    if columns is None:
        raise scene.MeshError(
            f"columns {text!r} must name x, y and z once, and all or none of r, g and b, as xyzrgb"
        )
    if len(names) > count:
        raise scene.MeshError(f"columns {text!r} names {len(names)}, but the rows have {count}")
    return columns


def from_names(names: Sequence[str], *, count: int) -> Columns | None:
    """Returns the columns that the header of a file names; None if it is not one of columns.

    Args:
      names: words of the line above the rows.
      count: number of columns in the rows.
    """
    cleaned = [re.sub(r"\W.*", "", name.strip("\"'")) for name in names]
    return _find(cleaned) if len(cleaned) == count else None


def _find(names: Sequence[str]) -> Columns | None:
    """Returns the columns of some names, or None if they are not unique or incomplete."""
    found: dict[str, int] = {}
    for index, name in enumerate(names):
        letter = _NAMES.get(name.lower())
        if letter in found:
            return None
        if letter:
            found[letter] = index
    if not set("xyz") <= set(found) or len(set("rgb") & set(found)) not in (0, 3):
        return None
    rgb = (found["r"], found["g"], found["b"]) if "r" in found else None
    return Columns((found["x"], found["y"], found["z"]), rgb)


def guess(table: np.ndarray, *, file_type: str, notes: list[str]) -> Columns:
    """Guesses the columns from their number and values.

    The first three are coordinates. Three further ones are normals if they have unit length, and
    colours if they are integers of 0 to 255 or 0 to 65535, or 0 to 1. Among seven columns, one is
    an intensity before the colours, or an intensity, alpha or label after them.

    Args:
      table: [rows, columns], at least three columns.
      file_type: in a "pts" file, the fourth of seven columns is the intensity.
      notes: list to which a note about columns that are not read is appended.
    """
    count = table.shape[1]
    step = max(1, len(table) // _ROWS)
    sample = table[::step]
    starts = {6: (3,), 7: (4, 3) if file_type == "pts" else (3, 4), 9: (3, 6), 10: (3, 4, 6, 7)}
    normals, colours = [], []
    for start in starts.get(count, ()):
        triple = sample[:, start : start + 3]
        triple = triple[np.isfinite(triple).all(axis=1)]
        if _are_normals(triple):
            normals.append(start)
        elif _are_colours(triple):
            colours.append(start)
    # The columns of normals are no colours, even if their mixture with others looks like one.
    colours = [start for start in colours if all(abs(start - n) >= 3 for n in normals)]
    used = 3 + 3 * bool(normals) + 3 * bool(colours)
    if count > 4 and count - used > 1 or (count == 6 and used == 3):
        notes.append(
            f"meaning of columns after the third is unknown, ignored; name them by columns: {count}"
        )
    xyz = (0, 1, 2)
    if not colours:
        return Columns(xyz)
    first = colours[0]
    return Columns(xyz, (first, first + 1, first + 2))


def _are_normals(triple: np.ndarray) -> bool:
    """Returns whether nearly all rows have unit length and some component is not an integer."""
    if not len(triple) or np.abs(triple).max() > 1.01:
        return False
    lengths = np.linalg.norm(triple, axis=1)
    unit = np.mean(np.abs(lengths - 1) < 0.02) > 0.95
    # Colours of the corners of the colour cube, such as pure red, have unit length as well.
    return bool(unit and (triple.min() < 0 or (triple % 1).any()))


def _are_colours(triple: np.ndarray) -> bool:
    """Returns whether the values are integers of 0 to 65535, or numbers of 0 to 1."""
    if not len(triple) or triple.min() < 0:
        return False
    return bool(triple.max() <= 1 or (triple.max() <= 65535 and not (triple % 1).any()))
