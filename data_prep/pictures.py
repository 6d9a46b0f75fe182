# SPDX-License-Identifier: Apache-2.0
"""User-supplied pictures, prepared for a teacher."""

from PIL import Image

from data_prep.geometry import render

# Longer side in pixels: CLIP models take inputs of 224 to 448 pixels.
MAX_SIDE = 512


def read(data: bytes) -> Image.Image:
    """Decodes a picture, applies its EXIF orientation, lays it on white and limits its size.

    Args:
      data: bytes of one of `images.FORMATS`.

    Returns:
      RGB picture whose longer side has at most `MAX_SIDE` pixels.

    Raises:
      limits.LimitError: the picture has too many pixels.
      ValueError: the bytes are not a readable picture.
    """
    picture = Image.fromarray(render.on_white(data))
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return picture
