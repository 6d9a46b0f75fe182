# SPDX-License-Identifier: Apache-2.0
"""Pictures of strangers, as a teacher may look at them."""

from PIL import Image

from data_prep.geometry import render

# Longer side in pixels: CLIP models look at 224 to 448.
MAX_SIDE = 512


def read(data: bytes) -> Image.Image:
    """A picture on white, upright as its camera was held, and of moderate size.

    Args:
      data: bytes of one of `materials.FORMATS`.

    Returns:
      RGB, the longer side at most `MAX_SIDE`.

    Raises:
      limits.LimitError: it has too many pixels.
      ValueError: the bytes are not a readable picture.
    """
    picture = Image.fromarray(render.on_white(data))
    picture.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return picture
