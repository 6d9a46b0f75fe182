# SPDX-License-Identifier: Apache-2.0
"""Result of a reader of mesh or point cloud files, before its parts are joined into a surface."""

import dataclasses

import numpy as np

# How a texture continues outside of the unit square, as in the samplers of glTF.
REPEAT, CLAMP, MIRROR = 0, 1, 2
# Note on a file whose writer often has another vertical axis than the standard of the format.
MAY_BE_Z_UP = "written by Open CASCADE, which may leave z up against the standard, y taken"


class MeshError(ValueError):
    """Raised for an unusable file; the message is one sentence that omits the file's name.

    Summaries count equal messages, so what varies (a number, a name) belongs at the end.
    """


@dataclasses.dataclass(frozen=True)
class Texture:
    """Picture on a part.

    Attributes:
      texels: uint8 [height, width, 4], sRGB colour and alpha as the material means it: 255 where
        the surface is opaque, below `surface.HOLE_ALPHA` in holes.
      wrap: one of REPEAT, CLAMP and MIRROR, for u and for v.
    """

    texels: np.ndarray
    wrap: tuple[int, int] = (REPEAT, REPEAT)


@dataclasses.dataclass(frozen=True)
class Part:
    """Triangles with one material.

    The colour of a point is that of the texture times that of the corners; a missing one counts as
    white. A part with neither has no colour of its own, and takes that of the encoder.

    Attributes:
      triangles: float64 [faces, 3, 3], positions of the corners, in the axes and units of the file,
        with the transforms of the scene applied.
      uv: [faces, 3, 2], texture coordinates of the corners, origin at the lower left; None without
        a texture, and for a texture of one texel.
      texture: texture of the part, or None. A plain colour is a texture of one texel, `plain`.
      colours: float32 [faces, 3, 4], RGBA of the corners, 0 to 1, or None.
      colours_are_linear: whether `colours` are linear, as in glTF, or sRGB, as in PLY and OBJ. They
        are interpolated and multiplied in their own space.
      opacity: 0 (invisible) to 1, not included in the alpha of texture and colours.
    """

    triangles: np.ndarray
    uv: np.ndarray | None = None
    texture: Texture | None = None
    colours: np.ndarray | None = None
    colours_are_linear: bool = False
    opacity: float = 1.0


@dataclasses.dataclass(frozen=True)
class Points:
    """Points without faces.

    Attributes:
      xyz: [points, 3], in the axes and units of the file; float64 unless the file is float32.
      rgb: sRGB [points, 3], integers 0 to 255 or floats 0 to 1; None without colours.
    """

    xyz: np.ndarray
    rgb: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Scene:
    """Parts and points of a file.

    Attributes:
      parts: parts with at least one triangle.
      points: sets of points; used only if there are no parts.
      up_axis: "y" or "z" if the file states its vertical axis, else None.
    """

    parts: tuple[Part, ...] = ()
    points: tuple[Points, ...] = ()
    up_axis: str | None = None


def plain(red: float, green: float, blue: float) -> Texture:
    """Returns a texture of one opaque texel.

    Args:
      red: sRGB channel, 0 to 1; other values are clipped.
      green: as red.
      blue: as red.
    """
    # Without numpy, which takes ten times as long for three numbers. The order of the arguments of
    # `max` makes NaN 0.
    levels = [round(255 * min(1.0, max(0.0, float(value)))) for value in (red, green, blue)]
    return Texture(np.array([[[*levels, 255]]], np.uint8))
