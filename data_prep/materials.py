# SPDX-License-Identifier: Apache-2.0
"""Colours of mesh parts: whatever a file says, as a texture and an opacity."""

import io
import warnings

import numpy as np
import trimesh
from PIL import Image

# Colour of a part that names no material: mid grey, darker than most materials and than white.
GREY = (102, 102, 102, 255)
# Textures are shrunk to this side: a view of 224 pixels with 2x2 rays sees no more detail.
MAX_TEXTURE_SIDE = 512


def appearance(
    mesh: trimesh.Trimesh, *, faults: list[str], plain: tuple[int, int, int, int] = GREY
) -> tuple[np.ndarray, np.ndarray, float]:
    """Colours of one part: texture, else vertex or face colours, else diffuse colour, else `plain`.

    Args:
      mesh: the part.
      faults: "unreadable texture" is added where its texture is damaged or has no coordinates.
      plain: RGBA of a part that names no colour.

    Returns:
      RGBA texture uint8 [height, width, 4], uv of the corners [faces, 3, 2], and opacity 0 to 1.
    """
    faces = np.asarray(mesh.faces)
    flat = np.zeros((len(faces), 3, 2))
    visual = mesh.visual
    if isinstance(visual, trimesh.visual.ColorVisuals) and visual.defined:
        return *_face_colour_texture(np.asarray(visual.face_colors)), 1.0
    material = getattr(visual, "material", None)
    image = getattr(material, "image", getattr(material, "baseColorTexture", None))
    # Where a part has texture coordinates and no material, trimesh invents one; its image comes
    # from no file, so it has no format.
    if material is None or (image is not None and image.format is None):
        return np.array([[plain]], np.uint8), flat, 1.0
    uv = visual.uv
    if image is not None and uv is not None and len(uv) == len(mesh.vertices):
        texture = _decode(image)
        if texture is not None and np.isfinite(uv).all():
            return texture, np.asarray(uv)[faces], _opacity(material)
        faults.append("unreadable texture")
    colour = getattr(material, "diffuse", getattr(material, "baseColorFactor", None))
    if colour is None:
        colour = plain
    rgba = np.array([[[*np.asarray(colour)[:3], 255]]], np.uint8)
    return rgba, flat, _opacity(material)


def _face_colour_texture(colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A texture with one texel a face, and the uv that point every corner at its face's texel."""
    side = int(np.ceil(np.sqrt(len(colours))))
    texture = np.zeros((side, side, 4), np.uint8)
    texture.reshape(-1, 4)[: len(colours)] = colours
    rows, columns = np.divmod(np.arange(len(colours)), side)
    uv = np.stack([(columns + 0.5) / side, 1 - (rows + 0.5) / side], axis=-1)
    return texture, np.repeat(uv[:, None], 3, axis=1)


def _decode(image: Image.Image) -> np.ndarray | None:
    """Decodes and shrinks a texture; None where it is damaged."""
    try:
        # JPEG can decode straight to a smaller size.
        image.draft(None, (MAX_TEXTURE_SIDE, MAX_TEXTURE_SIDE))
        rgba = image.convert("RGBA")
    except (OSError, SyntaxError, ValueError):
        return None
    factor = max(rgba.size) // MAX_TEXTURE_SIDE
    if factor > 1:
        rgba = rgba.reduce(factor)
    return np.asarray(rgba)


def _opacity(material: trimesh.visual.material.Material) -> float:
    """Opacity of an OBJ material (`d`, or `Tr` counted from the other side) or a glTF one."""
    options = getattr(material, "kwargs", {})
    try:
        if "d" in options:
            return float(np.clip(float(options["d"][-1]), 0, 1))
        if "tr" in options:
            return float(np.clip(1 - float(options["tr"][-1]), 0, 1))
    except ValueError:
        return 1.0
    factor = getattr(material, "baseColorFactor", None)
    return 1.0 if factor is None else float(factor[3]) / 255


def is_image(data: bytes) -> bool:
    """Whether Pillow knows the format of these bytes and does not take them for a bomb."""
    try:
        with warnings.catch_warnings():
            # Pillow only warns up to twice its limit.
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data)):
                return True
    except (OSError, SyntaxError, Image.DecompressionBombWarning, Image.DecompressionBombError):
        return False
