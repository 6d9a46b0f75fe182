# SPDX-License-Identifier: Apache-2.0
"""Pictures in files: textures of meshes, and pictures of shapes."""

import io
import struct
import warnings
import zlib

import numpy as np
from PIL import Image, ImageOps, features

from data_prep.foreign import limits

# Allowed formats. Pillow supports about thirty more, and passes one of them (EPS) to a program.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TGA", "TIFF", "WEBP")
if features.check("avif"):  # Pillow 11.3 and later
    FORMATS += ("AVIF",)
UNREADABLE_TEXTURE = "unreadable texture"
# First bytes of formats of textures that are not read -> name.
_UNREAD = {
    b"\xabKTX 20\xbb": "KTX2",
    b"\xabKTX 11\xbb": "KTX",
    b"sB": "Basis Universal",
    b"DDS ": "DDS",
    b"#?RADIANCE": "Radiance HDR",
    b"v/1\x01": "OpenEXR",
    b"8BPS": "Photoshop",
    b"<svg": "SVG",
}
# Exceptions of Pillow for corrupt pictures, including undocumented ones.
_CORRUPT = (
    *(OSError, SyntaxError, ValueError, TypeError, LookupError, EOFError, struct.error, zlib.error),
    *(ArithmeticError, MemoryError, RuntimeError, Image.DecompressionBombError),
)
# Textures are reduced to this side: a view of 224 pixels with 2x2 rays shows no more detail.
MAX_TEXTURE_SIDE = 512


def read_texture(data: bytes, *, notes: list[str], alpha_is_used: bool = True) -> np.ndarray | None:
    """Decodes a texture, and reduces it to about MAX_TEXTURE_SIDE.

    Args:
      data: bytes of a picture file.
      notes: list to which "unreadable texture" is appended if the picture cannot be used, and the
        format, if it is a known one that is not read.
      alpha_is_used: False for the texture of an opaque material: its alpha is replaced by 255. The
        reduction weights colours by their alpha, so it would lose those below an alpha of 0.

    Returns:
      uint8 [height, width, 4], sRGB and alpha; None if the picture is corrupt or of another format.

    Raises:
      limits.LimitError: the picture has too many pixels.
    """
    try:
        image = open_image(data)
        # JPEG can decode straight to a smaller size.
        image.draft(None, (MAX_TEXTURE_SIDE, MAX_TEXTURE_SIDE))
        rgba = _convert(image)
        if not alpha_is_used:
            rgba.putalpha(255)
        factor = max(rgba.size) // MAX_TEXTURE_SIDE
        return np.asarray(rgba.reduce(factor) if factor > 1 else rgba)
    except limits.LimitError:
        raise
    except _CORRUPT:
        notes.append(UNREADABLE_TEXTURE)
        unread = [name for start, name in _UNREAD.items() if data.startswith(start)]
        if data[4:12] == b"ftypavif":
            unread = ["AVIF"]
        notes.extend(f"{name} pictures are not read" for name in unread)
        return None


def _convert(image: Image.Image) -> Image.Image:
    """Decodes a picture to RGBA; 16-bit grey is scaled to 8 bits instead of clipped."""
    if image.mode.startswith(("I", "F")):
        values = np.asarray(image, np.float64)
        is_16_bit = image.mode.startswith("I;16") or image.format == "PNG"
        scale = 255 / 65535 if is_16_bit or values.max(initial=0) > 255 else 1
        image = Image.fromarray(np.rint(np.clip(values * scale, 0, 255)).astype(np.uint8))
    return image.convert("RGBA")


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
        return _convert(ImageOps.exif_transpose(image))
    except _CORRUPT as error:
        raise ValueError(f"unreadable picture: {error}") from error


def _check(image: Image.Image) -> None:
    """Checks the format and the size. ValueError for a picture that must not be decoded."""
    if image.format not in FORMATS:
        raise ValueError(f"format {image.format}; expected one of {', '.join(FORMATS)}")
    limits.PIXELS.check(image.width * image.height)
