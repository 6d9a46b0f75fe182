# SPDX-License-Identifier: Apache-2.0
"""A square in an OBJ file, painted by an MTL file, and the colours that are read from it."""

import numpy as np
import tiny_catalogue
from tiny_catalogue import png

from data_prep.geometry import surface as surfaces

# A square with the texture upright, in the plane z = 0.
SQUARE = """mtllib a.mtl
v 0 0 0
v 1 0 0
v 1 1 0
v 0 1 0
vt 0 0
vt 1 0
vt 1 1
vt 0 1
usemtl paint
f 1/1 2/2 3/3 4/4
"""
A, B, C, D = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
FOUR = png([[A, B], [C, D]])
DARK = (10, 20, 30)
PLAIN = png(np.full((2, 2, 3), DARK))
# Points of the square in the order of the texels: the upper left first.
QUARTERS = ((0.2, 0.8), (0.8, 0.8), (0.2, 0.2), (0.8, 0.2))


def content(mtl, *, files=None, obj=SQUARE):
    """Loads the square; `mtl` has the lines below newmtl, or whole materials."""
    text = mtl if isinstance(mtl, bytes) or "newmtl" in mtl.lower() else f"newmtl paint\n{mtl}\n"
    return tiny_catalogue.content({"a.obj": obj, "a.mtl": text} | (files or {}), "a.obj")


def rgba_at(loaded, *points):
    """Returns the colours at points of the square."""
    corners = loaded.surface.triangles.astype(np.float64) + loaded.surface.origin
    weights, faces = [], []
    for point in points:
        mixes = [
            np.linalg.solve(np.vstack([triangle[:, :2].T, np.ones(3)]), [*point, 1])
            for triangle in corners
        ]
        faces.append(next(face for face, mix in enumerate(mixes) if (mix >= -1e-9).all()))
        weights.append(mixes[faces[-1]])
    found = surfaces.colours_at(loaded.surface, np.array(faces), weights=np.array(weights))
    return [tuple(row) for row in found.tolist()]


def quarters(mtl, **options):
    """Returns the colours of the quarters, and the notes."""
    loaded = content(mtl, **options)
    return [rgba[:3] for rgba in rgba_at(loaded, *QUARTERS)], loaded.notes
