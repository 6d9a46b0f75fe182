# SPDX-License-Identifier: Apache-2.0
"""Colours of the points of glTF, by the same rules as those of triangles."""

from typing import Any

import numpy as np

from data_prep.geometry import scene, surface
from data_prep.geometry.readers.gltf import materials
from data_prep.geometry.readers.gltf.document import Document

# Points whose colours are in memory at a time.
_BLOCK = 1_000_000


def colours(
    document: Document,
    primitive: dict[str, Any],
    *,
    indices: np.ndarray,
    attributes: dict[str, np.ndarray],
) -> np.ndarray | None:
    """Returns the colours of points: base colour of the material times vertex colours.

    Args:
      document: open file.
      primitive: object of the JSON.
      indices: integers [points], the vertex of each point.
      attributes: attributes of the vertices by name.

    Returns:
      sRGB uint8 [points, 3]; None if the points have no colour of their own.
    """
    blocks = []
    for start in range(0, len(indices), _BLOCK):
        block = indices[start : start + _BLOCK]
        # A point is a triangle whose corners coincide.
        faces = np.repeat(block[:, None], 3, axis=1)
        look = materials.appearance(document, primitive, faces=faces, attributes=attributes)
        if look.get("texture") is None and look.get("colours") is None:
            return None
        part = scene.Part(np.zeros((len(block), 3, 3)), **look)
        joined = surface.join([part], fill=1, notes=[])
        weights = np.full((len(block), 3), 1 / 3)
        rgba = surface.colours_at(joined, np.arange(len(block)), weights=weights)
        blocks.append(rgba[:, :3])
    return np.concatenate(blocks)
