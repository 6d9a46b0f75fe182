# SPDX-License-Identifier: Apache-2.0
"""Prompt templates and prompt averaging of class and shape names.

ULIP and OpenShape average a name over 64 templates. The wording of the templates here is ours; it
resembles the captions that image-text models are trained on, for shapes and everyday objects.
Fingerprints of features contain the templates, so a changed template invalidates cached features.
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

# Templates for names of shapes, which are too many to encode 64 texts for each of them.
NAME_TEMPLATES = TEMPLATES[::8]


def prompt_average(
    teacher: teachers.Teacher, names: Sequence[str], *, templates: Sequence[str] = TEMPLATES
) -> np.ndarray:
    """Embeds names as the normalised mean of their normalised prompt features.

    Args:
      teacher: teacher whose text encoder is used.
      names: class or shape names.
      templates: prompt templates with one {} for the name.

    Returns:
      float32 [len(names), dim], unit norm. Every prompt has the same weight in the mean.
    """
    texts = [template.format(name) for name in names for template in templates]
    features = _normalise(np.asarray(teacher.encode_texts(texts), np.float32))
    grouped = features.reshape(len(names), len(templates), features.shape[-1])
    return _normalise(grouped.mean(axis=1))


def _normalise(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)
