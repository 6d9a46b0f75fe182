# SPDX-License-Identifier: Apache-2.0
"""Colours of mesh parts: whatever a file says, as a texture and an opacity."""

import io
import struct
import warnings
import zlib

import numpy as np
import trimesh
from PIL import Image, ImageOps

from data_prep.foreign import limits

# Colour of a part that names no material: mid grey, darker than most materials and than white.
GREY = (102, 102, 102, 255)
# Formats that are opened. Pillow knows some thirty more, and hands one of them (EPS) to a program.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TGA", "TIFF", "WEBP")
# What Pillow raises on damaged pictures, beyond what it documents.
_DAMAGED = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error),
    *(ArithmeticError, MemoryError, RuntimeError, Image.DecompressionBombError),
)
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
        if texture is not None and np.shape(uv)[1:] == (2,) and np.isfinite(uv).all():
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
    """Decodes and shrinks a texture; None where it is damaged, too large or of another format."""
    try:
        _check(image)
        # JPEG can decode straight to a smaller size.
        image.draft(None, (MAX_TEXTURE_SIDE, MAX_TEXTURE_SIDE))
        rgba = image.convert("RGBA")
        factor = max(rgba.size) // MAX_TEXTURE_SIDE
        return np.asarray(rgba.reduce(factor) if factor > 1 else rgba)
    except _DAMAGED:
        return None


def _opacity(material: trimesh.visual.material.Material) -> float:
    """Opacity of an OBJ material (`d`, or `Tr` counted from the other side) or a glTF one."""
    options = getattr(material, "kwargs", {})
    try:
        if "d" in options:
            return _share(options["d"][-1])
        if "tr" in options:
            return 1 - _share(options["tr"][-1])
    except (ValueError, IndexError, TypeError):
        return 1.0
    factor = getattr(material, "baseColorFactor", None)
    return 1.0 if factor is None else float(factor[3]) / 255


def _share(word: str) -> float:
    """A number, brought into 0 to 1. ValueError where it is none."""
    value = float(word)
    if np.isnan(value):
        raise ValueError("not a number")
    return float(np.clip(value, 0, 1))


def open_image(data: bytes) -> Image.Image:
    """Opens a picture of one of FORMATS, without decoding it.

    Args:
      data: the file's bytes.

    Raises:
      limits.LimitError: it has too many pixels.
      ValueError: the bytes are no such picture.
    """
    try:
        with warnings.catch_warnings():
            # Pillow's own limit, above which it warns, is no longer needed.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(data), formats=FORMATS)
        _check(image)
    except limits.LimitError:
        raise
    except _DAMAGED as error:
        raise ValueError(f"unreadable picture: {error}") from error
    return image


def decode(image: Image.Image) -> Image.Image:
    """A picture as its camera was held, RGBA. ValueError where it is damaged."""
    try:
        return ImageOps.exif_transpose(image).convert("RGBA")
    except _DAMAGED as error:
        raise ValueError(f"unreadable picture: {error}") from error


def _check(image: Image.Image) -> None:
    """ValueError for a picture that must not be decoded."""
    if image.format not in FORMATS:
        raise ValueError(f"format {image.format}; expected one of {', '.join(FORMATS)}")
    limits.PIXELS.check(image.width * image.height)
