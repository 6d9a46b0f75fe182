# SPDX-License-Identifier: Apache-2.0
"""Colours of mesh parts, converted to a texture and an opacity."""

import io
import struct
import warnings
import zlib

import numpy as np
import trimesh
from PIL import Image, ImageOps

from data_prep.foreign import limits

# Colour of a part without a material: mid grey, darker than most materials and than white.
GREY = (102, 102, 102, 255)
# Allowed formats. Pillow supports about thirty more, and passes one of them (EPS) to a program.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TGA", "TIFF", "WEBP")
# Exceptions of Pillow for corrupt pictures, including undocumented ones.
_CORRUPT = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error),
    *(ArithmeticError, MemoryError, RuntimeError, Image.DecompressionBombError),
)
# Textures are reduced to this side: a view of 224 pixels with 2x2 rays shows no more detail.
MAX_TEXTURE_SIDE = 512


def appearance(
    mesh: trimesh.Trimesh, *, faults: list[str], plain: tuple[int, int, int, int] = GREY
) -> tuple[np.ndarray, np.ndarray, float]:
    """Returns the colours of a part: texture, else vertex, face or diffuse colour, else `plain`.

    Args:
      mesh: part of a mesh.
      faults: list to which "unreadable texture" is appended if the texture is corrupt or has no
        coordinates.
      plain: RGBA of a part without a colour.

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
    # trimesh creates a material for a part with texture coordinates and none of its own. The image
    # of such a material has no format, because it comes from no file.
    if material is None or (image is not None and image.format is None):
        return np.array([[plain]], np.uint8), flat, 1.0
    uv = visual.uv
    if image is not None and uv is not None and len(uv) == len(mesh.vertices):
        texture = _decode(image)
        if texture is not None and np.shape(uv)[1:] == (2,) and np.isfinite(uv).all():
            return texture, np.asarray(uv)[faces], _opacity(material)
        faults.append("unreadable texture")
    colour = getattr(material, "diffuse", getattr(material, "baseColorFactor", None))
    if colour is None:
        colour = plain
    rgba = np.array([[[*np.asarray(colour)[:3], 255]]], np.uint8)
    return rgba, flat, _opacity(material)


def _face_colour_texture(colours: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns a texture with one texel per face, and uv that map the corners to the texel."""
    side = int(np.ceil(np.sqrt(len(colours))))
    texture = np.zeros((side, side, 4), np.uint8)
    texture.reshape(-1, 4)[: len(colours)] = colours
    rows, columns = np.divmod(np.arange(len(colours)), side)
    uv = np.stack([(columns + 0.5) / side, 1 - (rows + 0.5) / side], axis=-1)
    return texture, np.repeat(uv[:, None], 3, axis=1)


def _decode(image: Image.Image) -> np.ndarray | None:
    """Decodes and reduces a texture; returns None if it is corrupt, too large or not allowed."""
    try:
        _check(image)
        # JPEG can decode straight to a smaller size.
        image.draft(None, (MAX_TEXTURE_SIDE, MAX_TEXTURE_SIDE))
        rgba = image.convert("RGBA")
        factor = max(rgba.size) // MAX_TEXTURE_SIDE
        return np.asarray(rgba.reduce(factor) if factor > 1 else rgba)
    except _CORRUPT:
        return None


def _opacity(material: trimesh.visual.material.Material) -> float:
    """Returns the opacity of an OBJ material (`d`, or one minus `Tr`) or of a glTF material."""
    options = getattr(material, "kwargs", {})
    try:
        if "d" in options:
            return _fraction(options["d"][-1])
        if "tr" in options:
            return 1 - _fraction(options["tr"][-1])
    except (ValueError, IndexError, TypeError):
        return 1.0
    factor = getattr(material, "baseColorFactor", None)
    return 1.0 if factor is None else float(factor[3]) / 255


def _fraction(word: str) -> float:
    """Parses a number and clips it to 0..1. ValueError if the word is not a number."""
    value = float(word)
    if np.isnan(value):
        raise ValueError("not a number")
    return float(np.clip(value, 0, 1))


def open_image(data: bytes) -> Image.Image:
    """Opens a picture of one of FORMATS, without decoding it.

    Args:
      data: bytes of the file.

    Raises:
      limits.LimitError: the picture has too many pixels.
      ValueError: the bytes are not a picture of one of FORMATS.
    """
    try:
        with warnings.catch_warnings():
            # `limits.PIXELS` replaces Pillow's own limit, which only warns.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check(image)
    except limits.LimitError:
        raise
    except _CORRUPT as error:
        raise ValueError(f"unreadable picture: {error}") from error
    return image


def decode(image: Image.Image) -> Image.Image:
    """Decodes a picture to RGBA with its EXIF orientation. ValueError if it is corrupt."""
    try:
        return ImageOps.exif_transpose(image).convert("RGBA")
    except _CORRUPT as error:
        raise ValueError(f"unreadable picture: {error}") from error


def _check(image: Image.Image) -> None:
    """Checks the format and the size. ValueError for a picture that must not be decoded."""
    if image.format not in FORMATS:
        raise ValueError(f"format {image.format}; expected one of {', '.join(FORMATS)}")
    limits.PIXELS.check(image.width * image.height)
