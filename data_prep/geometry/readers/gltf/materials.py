# SPDX-License-Identifier: Apache-2.0
"""Stand-in until the materials are read: everything is white."""

from typing import Any

import numpy as np

from data_prep.geometry import scene
from data_prep.geometry.readers.gltf.document import Document


def appearance(
    document: Document,
    primitive: dict[str, Any],
    *,
    faces: np.ndarray,
    attributes: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Returns a white texture."""
    del document, primitive, faces, attributes
    return {"texture": scene.plain(1, 1, 1)}
