# SPDX-License-Identifier: Apache-2.0
"""Coordinates and colours among named columns, as in PLY files and structured arrays."""

from collections.abc import Mapping

import numpy as np

from data_prep.geometry.readers import colouring
from data_prep.geometry.scene import MeshError

# Names of the channels of a colour, the best ones first.
CHANNELS = tuple(
    tuple(prefix + channel for channel in channels)
    for prefix in ("", "diffuse_", "color_", "colour_", "vertex_", "scalar_", "ambient_")
    for channels in (("red", "green", "blue"), ("r", "g", "b"))
)
ALPHA = ("alpha", "a", "diffuse_alpha", "color_alpha", "opacity")
UV = (
    *(("u", "v"), ("s", "t"), ("texture_u", "texture_v"), ("texture_s", "texture_t")),
    *(("tex_u", "tex_v"), ("texcoord_u", "texcoord_v"), ("tu", "tv")),
)
# Constant term of the colour of a Gaussian splat, in units of the first spherical harmonic.
SPLAT = ("f_dc_0", "f_dc_1", "f_dc_2")
_HARMONIC = 0.28209479177387814  # 1 / (2 sqrt(pi))
# A splat with less opacity is not seen; as `surface.INVISIBLE_OPACITY`.
_INVISIBLE = 0.02
INCOMPLETE_COLOURS = "colours that lack a channel, ignored"
# Beginnings of names of columns that measure how bright a point is, and are no colour.
_GREY = ("intensity", "scalar_", "grey", "gray", "luminance", "reflectance", "reflectivity")
INTENSITY_IGNORED = "intensity is no colour, ignored"


def first_of(columns: Mapping[str, object], names: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Returns the first group of names that are all among the columns, or an empty tuple."""
    return next((group for group in names if all(name in columns for name in group)), ())


def positions(columns: Mapping[str, np.ndarray], *, element: str) -> np.ndarray:
    """Returns the columns x, y and z, [rows, 3], float32 if they are, else float64.

    Args:
      columns: name -> [rows].
      element: name of the rows in the message.

    Raises:
      MeshError: a column is missing.
    """
    missing = [name for name in "xyz" if name not in columns]
    if missing and "packed_position" in columns:
        raise MeshError(
            "compressed Gaussian splats are not read; convert the file to a PLY with x, y and z"
        )
    if missing:
        raise MeshError(f"element {element} has no property {', '.join(missing)}")
    chosen = [columns[name] for name in "xyz"]
    is_single = all(column.dtype.kind == "f" and column.dtype.itemsize <= 4 for column in chosen)
    return np.stack(chosen, axis=1).astype(np.float32 if is_single else np.float64, copy=False)


def colours(
    columns: Mapping[str, np.ndarray], codes: Mapping[str, str], *, notes: list[str]
) -> np.ndarray | None:
    """Returns the colours of rows.

    Args:
      columns: name -> [rows].
      codes: name -> code of the type in the file.
      notes: list to which notes may be appended.

    Returns:
      sRGB uint8 or float32 of 0 to 1, [rows, 3], or None.
    """
    names = first_of(columns, CHANNELS)
    if names:
        values = np.stack([columns[name] for name in names], axis=1)
        return colouring.to_unit(values, code=codes[names[0]], notes=notes)
    if all(name in columns for name in SPLAT):
        values = np.stack([columns[name] for name in SPLAT], axis=1).astype(np.float64)
        return np.clip(np.nan_to_num(0.5 + _HARMONIC * values), 0, 1).astype(np.float32)
    # A single letter may mean something else, such as a radius.
    if any(len(name) > 1 and name in columns for group in CHANNELS for name in group):
        notes.append(INCOMPLETE_COLOURS)
    elif any(name.startswith(_GREY) for name in columns):
        notes.append(INTENSITY_IGNORED)
    return None


def alpha(
    columns: Mapping[str, np.ndarray], codes: Mapping[str, str], *, notes: list[str]
) -> np.ndarray | None:
    """Returns the alpha of rows, float32 [rows], 0 to 1; None without any."""
    names = [name for name in ALPHA if name in columns]
    if not names:
        return None
    values = colouring.to_unit(columns[names[0]][:, None], code=codes[names[0]], notes=notes)
    return None if values is None else colouring.to_float(values)[:, 0]


def rgba(
    columns: Mapping[str, np.ndarray], codes: Mapping[str, str], *, notes: list[str]
) -> np.ndarray | None:
    """Returns the colours of rows with alpha, float32 [rows, 4], 0 to 1; None without colours."""
    rgb = colours(columns, codes, notes=notes)
    if rgb is None:
        return None
    opaque = np.ones(len(rgb), np.float32)
    opacity = alpha(columns, codes, notes=notes)
    return np.column_stack([colouring.to_float(rgb), opaque if opacity is None else opacity])


def visible_splats(columns: Mapping[str, np.ndarray], *, notes: list[str]) -> np.ndarray | None:
    """Returns which Gaussian splats are seen, bool [rows]; None if all rows are kept.

    Args:
      columns: name -> [rows]; `opacity` is a logit.
      notes: list to which the number of invisible splats is appended.
    """
    if "opacity" not in columns or not all(name in columns for name in SPLAT):
        return None
    visible = columns["opacity"] >= np.log(_INVISIBLE / (1 - _INVISIBLE))
    if visible.all() or not visible.any():
        return None
    notes.append(f"invisible Gaussian splats, dropped: {np.count_nonzero(~visible)}")
    return visible
