# SPDX-License-Identifier: Apache-2.0
"""Colours of vertices and faces in the number ranges that files use."""

import numpy as np

# Notes of the readers of PLY and OFF.
BESIDE_TEXTURE = "vertex colours beside a texture, ignored"
FACES_IGNORED = "face colours beside vertex colours, ignored"
VERTICES_IGNORED = "uniform vertex colours beside face colours, ignored"
NOT_FINITE = "colours that are not finite, taken as black"
OUT_OF_RANGE = "colours of an unknown range, ignored"
# Floats up to this value are colours of 0 to 1, some of which exceed their range; a cloud of 0 to
# 255 without a larger value would be black.
_LARGEST_UNIT = 2.0


def to_unit(values: np.ndarray, *, code: str, notes: list[str]) -> np.ndarray | None:
    """Converts colours to uint8, or to floats of 0 to 1; the range is told by type and values.

    Args:
      values: [n, channels], of any type.
      code: code of numpy of the type that the file states, such as "u1". Integers are 0 to 255, or
        0 to 65535 if one exceeds 255; signed bytes are taken as unsigned ones. Floats are 0 to 1,
        or 0 to 255 or 0 to 65535 if one exceeds that.
      notes: list to which NOT_FINITE or OUT_OF_RANGE may be appended.

    Returns:
      uint8 or float32 [n, channels]; None, and a note, for another range.
    """
    if values.dtype.kind in "iu" and values.dtype.itemsize == 1:
        return values.view(np.uint8)
    values = values.astype(np.float64)
    finite = np.isfinite(values)
    if not finite.all():
        if finite.any():
            notes.append(NOT_FINITE)
        values = np.where(finite, values, 0 if finite.any() else -np.inf)
    is_integer = code[0] in "iu" and bool((values == np.rint(values)).all())
    if code == "i1" and is_integer:
        values = np.where(values < 0, values + 256, values)
    scale = full_intensity(values, is_integer=is_integer)
    if scale is None:
        notes.append(OUT_OF_RANGE)
        return None
    if is_integer and scale == 255:
        return np.clip(values, 0, 255).astype(np.uint8)
    return np.clip(values / scale, 0, 1).astype(np.float32)


def full_intensity(values: np.ndarray, *, is_integer: bool) -> float | None:
    """Returns the value of full intensity: 1, 255 or 65535; None if the values fit none of them.

    Args:
      values: colours, any shape.
      is_integer: whether the file stores integers.
    """
    low, high = values.min(initial=0), values.max(initial=0)
    tolerance = 0 if is_integer else 0.01
    for scale in (255, 65535) if is_integer else (1, 255, 65535):
        if high <= (_LARGEST_UNIT if scale == 1 else scale + 0.5):
            return scale if low >= -tolerance * scale else None
    return None


def to_float(colours: np.ndarray) -> np.ndarray:
    """Converts uint8 or floats of 0 to 1 to float32 of 0 to 1."""
    if colours.dtype == np.uint8:
        return colours / np.float32(255)
    return colours.astype(np.float32, copy=False)


def of_corners(
    vertex_rgba: np.ndarray | None,
    face_rgba: np.ndarray | None,
    *,
    triangles: np.ndarray,
    polygon: np.ndarray,
    notes: list[str],
) -> np.ndarray | None:
    """Returns the colours of the corners of triangles.

    Colours of vertices win over those of faces, which most programs do not show, unless they are
    all alike: programs fill them with one colour.

    Args:
      vertex_rgba: float32 [vertices, 4], or None.
      face_rgba: float32 [faces, 4], or None.
      triangles: int [triangles, 3], vertices of the corners.
      polygon: int [triangles], face of each triangle.
      notes: list to which FACES_IGNORED or VERTICES_IGNORED may be appended.

    Returns:
      float32 [triangles, 3, 4]; None without colours.
    """
    if vertex_rgba is not None and face_rgba is not None:
        if is_uniform(vertex_rgba) and not is_uniform(face_rgba):
            notes.append(VERTICES_IGNORED)
            vertex_rgba = None
        else:
            notes.append(FACES_IGNORED)
    if vertex_rgba is not None:
        return vertex_rgba[triangles]
    if face_rgba is not None:
        return np.repeat(face_rgba[polygon][:, None], 3, axis=1)
    return None


def is_uniform(rgba: np.ndarray) -> bool:
    """Returns whether all colours [n, channels] are equal."""
    return bool((rgba == rgba[:1]).all())


def is_white(rgba: np.ndarray) -> bool:
    """Returns whether all floats [n, channels] of colours are white; alpha is ignored."""
    return bool((rgba[..., :3] == 1).all())
