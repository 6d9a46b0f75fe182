# SPDX-License-Identifier: Apache-2.0
"""Meshes of another library, in files that it writes and reads itself."""

import io

import numpy as np
import pytest
import trimesh
from loading import extent, load

from data_prep.geometry import surface

NAMES = ("box", "sphere", "ring")


def mesh(name):
    """Returns one of NAMES, turned about an oblique axis and away from the origin."""
    made = {
        "box": lambda: trimesh.creation.box((1, 2, 3)),
        "sphere": lambda: trimesh.creation.icosphere(subdivisions=2, radius=2.5),
        "ring": lambda: trimesh.creation.annulus(r_min=1, r_max=2, height=0.5),
    }[name]()
    made.apply_transform(trimesh.transformations.rotation_matrix(0.7, [1, 2, 3]))
    made.apply_translation([10, -20, 30])
    return made


def check(name, file_type, **options):
    """Checks extent, centre and area of a mesh against those that the other library reads."""
    data = mesh(name).export(file_type=file_type, **options)
    data = data.encode() if isinstance(data, str) else data
    other = trimesh.load(io.BytesIO(data), file_type=file_type.removesuffix("_ascii"), force="mesh")
    content = load(data, file_type.removesuffix("_ascii"))
    np.testing.assert_allclose(extent(content), other.extents, rtol=1e-5)
    np.testing.assert_allclose(content.surface.origin, other.bounds.mean(axis=0), rtol=1e-5)
    area = surface.face_areas(content.surface).sum()
    assert area == pytest.approx(other.area, rel=1e-5)
    assert len(content.surface.triangles) == len(other.faces)
