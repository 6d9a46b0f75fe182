# SPDX-License-Identifier: Apache-2.0
"""Sampling of a record's images: rendered views, and pictures of the shape itself."""

from collections.abc import Sequence

import numpy as np


def draw(
    kinds: Sequence[str], *, rng: np.random.Generator, picture_probability: float
) -> int | None:
    """Draws an image of a record.

    Args:
      kinds: kind of each image of the record, "render" or "picture".
      rng: generator of this sample.
      picture_probability: probability of a picture for a record that has both kinds; if it is
        negative, all images are equally likely.

    Returns:
      Position of the image; None if the record has no image.
    """
    kind_draw, image_draw = rng.random(2)
    positions = list(range(len(kinds)))
    if picture_probability >= 0:
        wanted = "picture" if kind_draw < picture_probability else "render"
        positions = [i for i, kind in enumerate(kinds) if kind == wanted] or positions
    return positions[int(image_draw * len(positions))] if positions else None


def probabilities(kinds: Sequence[str], *, picture_probability: float) -> np.ndarray:
    """Returns the probability with which `draw` returns each image, [images] float64.

    Args:
      kinds: kind of each image of the record.
      picture_probability: as in `draw`.
    """
    is_picture = np.array([kind == "picture" for kind in kinds], dtype=bool)
    pictures, images = int(is_picture.sum()), len(kinds)
    if picture_probability < 0 or pictures in (0, images):
        return np.full(images, 1 / max(images, 1))
    picture = picture_probability / pictures
    return np.where(is_picture, picture, (1 - picture_probability) / (images - pictures))
