# SPDX-License-Identifier: Apache-2.0
"""Brings images to the size of a model, as OpenCLIP does for evaluation."""

import numpy as np
import PIL.Image

from data_prep.teachers.open_clip import configs

_FILTERS = {
    "bicubic": PIL.Image.Resampling.BICUBIC,
    "bilinear": PIL.Image.Resampling.BILINEAR,
}


def prepare(image: PIL.Image.Image, preprocessing: configs.Preprocessing) -> np.ndarray:
    """Resizes an RGB image, then crops or pads it around its centre.

    Args:
      image: RGB image.
      preprocessing: size, resize mode, interpolation and colour of the padding.

    Returns:
      uint8 [size, size, 3].
    """
    size = preprocessing.size
    resized = image.resize(
        _new_size(image.size, size, preprocessing.resize_mode),
        _FILTERS[preprocessing.interpolation],
    )
    square = PIL.Image.new("RGB", (size, size), (preprocessing.fill_color,) * 3)
    square.paste(resized, tuple(_start(length, size) for length in resized.size))
    return np.asarray(square, np.uint8)


def _new_size(old: tuple[int, int], size: int, mode: str) -> tuple[int, int]:
    """Returns the width and height of the resized image, rounded as OpenCLIP rounds them."""
    if mode == "squash":
        return size, size
    if mode == "longest":
        longest = max(old)
        return round(old[0] / (longest / size)), round(old[1] / (longest / size))
    shortest = min(old)
    return tuple(size if n == shortest else int(size * n / shortest) for n in old)  # type: ignore[return-value]


def _start(length: int, size: int) -> int:
    """Returns where an edge starts in the square: after the padding, or before what is cropped."""
    if length < size:
        return (size - length) // 2
    return -round((length - size) / 2)
