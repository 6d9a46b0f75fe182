# SPDX-License-Identifier: Apache-2.0
"""Sentences around a name, so that one word is embedded as a caption would be.

Averaging a name over many sentences is what ULIP and OpenShape do with 64 of their own; the
wording here is ours. It speaks of shapes, furniture and everyday things, in the manner of the
captions that image-and-text models saw in training.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from data_prep import teachers

TEMPLATES = (
    "{}",
    "this is {}",
    "one {}",
    "a single {}",
    "some kind of {}",
    "an object called {}",
    "the thing shown is {}",
    "an example of {}",
    "an everyday {}",
    "an ordinary {}",
    "a simple {}",
    "a detailed {}",
    "a modern {}",
    "an old {}",
    "a small {}",
    "a large {}",
    "a plain grey {}",
    "a colourful {}",
    "a wooden or metal {}",
    "a whole {} from top to bottom",
    "a picture of {}",
    "a clean picture of one {}",
    "a cut-out picture of {}",
    "a catalogue picture of {}",
    "a shop picture of {} for sale",
    "a small icon that shows {}",
    "a studio shot of {} on white",
    "{} on a white background",
    "{} in front of an empty backdrop",
    "{} standing by itself",
    "{} seen from the front",
    "{} seen from the side",
    "{} seen from behind",
    "{} seen from above",
    "{} seen at an angle",
    "a three-quarter view of {}",
    "a low-resolution view of {}",
    "a close look at {}",
    "a computer image of {}",
    "a computer-made {}",
    "a rendered {}",
    "a shaded rendering of {}",
    "an untextured rendering of {}",
    "a rendering of {} in soft light",
    "a virtual {}",
    "a digital {}",
    "a 3D shape of {}",
    "a 3D object: {}",
    "a 3D model that looks like {}",
    "a 3D asset of {} for a game",
    "a 3D scan of {}",
    "a coarse 3D copy of {}",
    "a triangle mesh of {}",
    "a textured mesh of {}",
    "a surface made of many points in the form of {}",
    "coloured points sampled from {}",
    "a CAD drawing of {}",
    "a scale model of {}",
    "a miniature {}",
    "the geometry of {}",
    "the outline of {}",
    "{} for a room plan",
    "{} to put in a house",
    "furniture or equipment: {}",
)


# For the names of single shapes. There are many, and each would cost 64 texts; classes are few.
NAME_TEMPLATES = TEMPLATES[::8]


def prompt_average(
    teacher: teachers.Teacher, names: Sequence[str], *, templates: Sequence[str] = TEMPLATES
) -> np.ndarray:
    """Embed names as their mean direction over templates.

    Args:
      teacher: whose text encoder is used.
      names: class or shape names, in any case.
      templates: each with one {} for the name.

    Returns:
      float32 [len(names), dim], unit norm: every prompt is normalised before the mean, so that
      no template weighs more than another.
    """
    texts = [template.format(name) for name in names for template in templates]
    features = _normalise(np.asarray(teacher.encode_texts(texts), np.float32))
    grouped = features.reshape(len(names), len(templates), features.shape[-1])
    return _normalise(grouped.mean(axis=1))


def _normalise(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
