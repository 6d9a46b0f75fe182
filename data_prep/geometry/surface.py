# SPDX-License-Identifier: Apache-2.0
"""Coloured surfaces: joined from the parts of a file, looked up and sampled."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import colour_spaces
from data_prep.geometry.scene import CLAMP, MIRROR, MeshError, Part, Texture

# A texel with less alpha is a hole (leaves, grilles), not a surface.
HOLE_ALPHA = 128
# A part with less opacity is a helper volume, not a surface; glass has much more.
INVISIBLE_OPACITY = 0.02
# Sweet Home 3D, OBJ and glTF have y up. A quarter turn about x, so a proper rotation.
Y_UP_TO_Z_UP = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
# Note about a file of which every part is invisible.
ALL_INVISIBLE = "everything is invisible, taken as opaque"
# Kinds of `Surface.tint`.
NO_TINT, SRGB_TINT, LINEAR_TINT = 0, 1, 2
# Samples that decide whether anything of a surface is visible.
_VISIBILITY_SAMPLES = 4096


@dataclasses.dataclass(frozen=True)
class Surface:
    """Triangles with one texture per part; a plain colour is a texture of one texel.

    Attributes:
      origin: float64 [3], position of the origin of `triangles` in the axes and units of the file.
      triangles: float32 [faces, 3, 3], corner positions relative to `origin`, which is the centre
        of the bounding box: so that the corners of an object far from the origin of its file (in
        UTM coordinates) are not rounded.
      uv: float32 [faces, 3, 2], texture coordinates of the corners, origin at the lower left.
      part: int32 [faces], index of the part of each face.
      texels: uint8 [texels, 4], RGBA of all textures, row by row from the top.
      offset: int64 [parts], first texel of each texture; parts with the same texels share them.
      width: int32 [parts], width of each texture.
      height: int32 [parts], height of each texture.
      wrap: int8 [parts, 2], one of `scene.REPEAT`, CLAMP and MIRROR, for u and for v.
      opacity: float32 [parts], 0 (invisible) to 1, not included in the alpha of the texels.
      coloured: bool [parts], False for parts that have no colour of their own.
      tint: int8 [parts], whether texels are multiplied by the colours of the corners, and in which
        space: NO_TINT, SRGB_TINT or LINEAR_TINT.
      corner_colours: float32 [faces, 3, 4], RGBA of the corners, 0 to 1; None without tints. Alpha
        may exceed 1, so that the interpolated one reaches HOLE_ALPHA where a material says.
    """

    origin: np.ndarray
    triangles: np.ndarray
    uv: np.ndarray
    part: np.ndarray
    texels: np.ndarray
    offset: np.ndarray
    width: np.ndarray
    height: np.ndarray
    wrap: np.ndarray
    opacity: np.ndarray
    coloured: np.ndarray
    tint: np.ndarray
    corner_colours: np.ndarray | None = None


def join(
    parts: Sequence[Part],
    *,
    fill: float,
    notes: list[str],
    rotation: np.ndarray | None = None,
) -> Surface:
    """Joins the parts of a file into one surface.

    Degenerate faces, which have no area, are kept and never sampled. If nothing is visible, the
    surface is opaque, and `notes` says so.

    Args:
      parts: parts with at least one face.
      fill: value, 0 to 1, of all colour channels of parts without a colour.
      notes: list to which ALL_INVISIBLE may be appended.
      rotation: [3, 3], applied to column vectors of the file; None for none.

    Raises:
      MeshError: a coordinate is not finite, or the coordinates exceed the range of float32.
      limits.LimitError: the parts exceed a limit.
    """
    limits.FACES.check(sum(len(part.triangles) for part in parts))
    limits.PARTS.check(len(parts))
    origin, triangles = _centred([part.triangles for part in parts], rotation)
    grey = round(255 * fill)
    fallback = Texture(np.array([[[grey, grey, grey, 255]]], np.uint8))
    white = Texture(np.full((1, 1, 4), 255, np.uint8))
    textures, uvs, tints = [], [], []
    for part in parts:
        has_colours = part.colours is not None
        textures.append(part.texture or (white if has_colours else fallback))
        uv = part.uv if part.texture is not None else None
        uvs.append(np.zeros((len(part.triangles), 3, 2)) if uv is None else uv)
        tint = LINEAR_TINT if part.colours_are_linear else SRGB_TINT
        tints.append(tint if has_colours else NO_TINT)
    texels, offset = _join_texels(textures)
    counts = [len(part.triangles) for part in parts]
    surface = Surface(
        origin=origin,
        triangles=triangles,
        uv=_finite(np.concatenate(uvs), notes=notes),
        part=np.repeat(np.arange(len(parts), dtype=np.int32), counts),
        texels=texels,
        offset=offset,
        width=np.array([texture.texels.shape[1] for texture in textures], np.int32),
        height=np.array([texture.texels.shape[0] for texture in textures], np.int32),
        wrap=np.array([texture.wrap for texture in textures], np.int8),
        opacity=np.array([part.opacity for part in parts], np.float32),
        coloured=np.array([bool(p.texture or p.colours is not None) for p in parts]),
        tint=np.array(tints, np.int8),
        corner_colours=_corner_colours(parts) if any(tints) else None,
    )
    if _is_invisible(surface):
        notes.append(ALL_INVISIBLE)
        surface = _opaque(surface)
    return surface


def rotate_upright(surface: Surface) -> Surface:
    """Rotates a surface from y up to z up."""
    rotation = Y_UP_TO_Z_UP.T
    return dataclasses.replace(
        surface,
        origin=surface.origin @ rotation,
        triangles=surface.triangles @ rotation.astype(np.float32),
    )


def face_areas(surface: Surface) -> np.ndarray:
    """Returns the area of every face, float64 [faces], in square units of the file."""
    edges = surface.triangles[:, 1:].astype(np.float64) - surface.triangles[:, :1]
    return np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2


def colours_at(surface: Surface, faces: np.ndarray, *, weights: np.ndarray) -> np.ndarray:
    """Returns the colours at points of a surface: nearest texel times the mix of the corners.

    Args:
      surface: coloured surface.
      faces: int [points], face of each point.
      weights: [points, 3], barycentric coordinates of each point.

    Returns:
      uint8 [points, 4] RGBA; the opacity of the parts is not included in the alpha.
    """
    part = surface.part.take(faces)
    texel = surface.offset.take(part)
    is_plain = (surface.width == 1) & (surface.height == 1)
    if not is_plain.all():
        # Most parts have one texel, which needs no texture coordinates.
        textured = np.flatnonzero(~is_plain.take(part))
        texel[textured] += _texel(surface, faces[textured], weights=weights[textured])
    rgba = surface.texels.take(texel, axis=0)
    if surface.corner_colours is not None:
        _tint(rgba, surface, faces, weights=weights)
    return rgba


def _texel(surface: Surface, faces: np.ndarray, *, weights: np.ndarray) -> np.ndarray:
    """Returns the texel at each point, int [points], counted from the first of its texture."""
    part = surface.part[faces]
    uv = np.matmul(weights[:, None].astype(np.float32), surface.uv[faces])[:, 0]
    uv = _wrapped(uv, surface.wrap[part]) if surface.wrap.any() else uv - np.floor(uv)
    width, height = surface.width[part], surface.height[part]
    # A coordinate just below an integer can round up to 1.
    column = np.minimum((uv[:, 0] * width).astype(np.int32), width - 1)
    row = np.minimum(((1 - uv[:, 1]) * height).astype(np.int32), height - 1)
    return row * width + column


def sample_points(
    surface: Surface, *, points: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Samples coloured points uniformly by area from the visible surface.

    Points in holes of a texture or on invisible parts are sampled again, so that leaves keep their
    outline.

    Args:
      surface: coloured surface.
      points: number of points.
      rng: random generator.

    Returns:
      xyz float32 [points, 3], relative to the surface's origin, and rgb uint8 [points, 3], in
      random order.

    Raises:
      MeshError: the surface has no area, or less than about 3% of it is visible.
    """
    ends = _visible_area_ends(surface)
    if ends[-1] <= 0:
        raise MeshError("no visible area")
    kept_xyz, kept_rgb, missing = [], [], points
    for _ in range(32):  # enough unless less than 3% of the surface is visible
        faces, weights = _draw(ends, points, rng)
        rgba = colours_at(surface, faces, weights=weights)
        visible = np.flatnonzero(rgba[:, 3] >= HOLE_ALPHA)[:missing]
        corners = surface.triangles[faces[visible]]
        kept_xyz.append(np.einsum("pcd,pc->pd", corners, weights[visible]).astype(np.float32))
        kept_rgb.append(rgba[visible, :3])
        missing -= len(visible)
        if not missing:
            return np.concatenate(kept_xyz), np.concatenate(kept_rgb)
    raise MeshError("no visible area; its textures leave less than 3% of it")


def _centred(
    triangles: list[np.ndarray], rotation: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Joins, rotates and centres triangles in float64.

    Returns:
      The centre of their bounding box, float64 [3], and the triangles relative to it, float32.

    Raises:
      MeshError: a coordinate is not finite, or exceeds the range of float32.
    """
    joined = np.concatenate(triangles).astype(np.float64, copy=False)
    with np.errstate(over="ignore", invalid="ignore"):
        if rotation is not None:
            joined = joined @ rotation.T
        corners = joined.reshape(-1, 3)
        origin = corners.min(axis=0) / 2 + corners.max(axis=0) / 2
        centred = (joined - origin).astype(np.float32)
    if not np.isfinite(centred).all():
        raise MeshError("non-finite coordinates")
    return origin, centred


def _join_texels(textures: list[Texture]) -> tuple[np.ndarray, np.ndarray]:
    """Returns the different texels of textures, uint8 [texels, 4], and the first of each texture.

    Raises:
      limits.LimitError: the different textures have too many texels.
    """
    firsts, different, total = {}, [], 0
    for texture in textures:
        if id(texture.texels) not in firsts:
            firsts[id(texture.texels)] = total
            different.append(texture.texels.reshape(-1, 4))
            total += len(different[-1])
    limits.TEXELS.check(total)
    return np.concatenate(different), np.array([firsts[id(t.texels)] for t in textures])


def _finite(uv: np.ndarray, *, notes: list[str]) -> np.ndarray:
    """Returns texture coordinates as float32, with zeros for those that are not finite."""
    with np.errstate(over="ignore"):
        uv = uv.astype(np.float32)
    bad = ~np.isfinite(uv)
    if bad.any():
        uv[bad] = 0
        notes.append("texture coordinates that are not finite, taken as 0")
    return uv


def _corner_colours(parts: Sequence[Part]) -> np.ndarray:
    """Returns the colours of all corners, white in parts without any."""
    colours = [
        np.ones((len(part.triangles), 3, 4), np.float32) if part.colours is None else part.colours
        for part in parts
    ]
    joined = np.nan_to_num(np.concatenate(colours).astype(np.float32, copy=False))
    np.clip(joined[..., :3], 0, 1, out=joined[..., :3])
    np.maximum(joined[..., 3], 0, out=joined[..., 3])
    return joined


def _wrapped(uv: np.ndarray, wrap: np.ndarray) -> np.ndarray:
    """Maps texture coordinates [points, 2] into the unit square by their wrap modes."""
    result = uv - np.floor(uv)
    clamp = wrap == CLAMP
    result[clamp] = np.clip(uv[clamp], 0, 1)
    mirror = wrap == MIRROR
    result[mirror] = 1 - np.abs(uv[mirror] % 2 - 1)
    return result


def _tint(rgba: np.ndarray, surface: Surface, faces: np.ndarray, *, weights: np.ndarray) -> None:
    """Multiplies the texels of points, in place, by the interpolated colours of the corners."""
    kind = surface.tint[surface.part[faces]]
    for tint in (SRGB_TINT, LINEAR_TINT):
        chosen = np.flatnonzero(kind == tint)
        if not len(chosen):
            continue
        corners = surface.corner_colours[faces[chosen]]
        mixed = np.matmul(weights[chosen, None].astype(np.float32), corners)[:, 0]
        texels = rgba[chosen]
        if tint == LINEAR_TINT:
            linear = colour_spaces.to_linear(texels[:, :3]) * mixed[:, :3]
            rgba[chosen, :3] = np.rint(255 * colour_spaces.to_srgb(linear))
        else:
            rgba[chosen, :3] = np.rint(texels[:, :3] * mixed[:, :3])
        rgba[chosen, 3] = np.rint(np.minimum(texels[:, 3] * mixed[:, 3], 255))


def _visible_area_ends(surface: Surface) -> np.ndarray:
    """Returns the cumulative area of the faces, without parts that are invisible."""
    areas = face_areas(surface)
    areas[surface.opacity[surface.part] < INVISIBLE_OPACITY] = 0
    return np.cumsum(areas)


def _draw(ends: np.ndarray, points: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draws faces [points] by area and uniform barycentric coordinates [points, 3]."""
    faces = np.searchsorted(ends, rng.random(points) * ends[-1], side="right")
    faces = np.minimum(faces, len(ends) - 1)
    root, other = np.sqrt(rng.random(points)), rng.random(points)
    return faces, np.stack([1 - root, root * (1 - other), root * other], axis=-1)


def _is_invisible(surface: Surface) -> bool:
    """Returns whether the surface has an area of which nothing is visible."""
    lowest = float(surface.texels[:, 3].min())
    if surface.corner_colours is not None:
        lowest *= float(surface.corner_colours[..., 3].min())
    is_hidden = (surface.opacity < INVISIBLE_OPACITY).any()
    if lowest >= HOLE_ALPHA and not is_hidden:
        return False
    ends = _visible_area_ends(surface)
    if ends[-1] <= 0:
        return bool(face_areas(surface).any())
    faces, weights = _draw(ends, _VISIBILITY_SAMPLES, np.random.default_rng(0))
    return not (colours_at(surface, faces, weights=weights)[:, 3] >= HOLE_ALPHA).any()


def _opaque(surface: Surface) -> Surface:
    """Returns a surface without any transparency."""
    texels = surface.texels.copy()
    texels[:, 3] = 255
    colours = surface.corner_colours
    if colours is not None:
        colours = colours.copy()
        colours[..., 3] = 1
    return dataclasses.replace(
        surface, texels=texels, opacity=np.ones_like(surface.opacity), corner_colours=colours
    )
