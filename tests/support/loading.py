# SPDX-License-Identifier: Apache-2.0
"""Loads the bytes of a mesh or point cloud file as the tools do."""

import numpy as np

from data_prep.geometry import meshes, surface
from data_prep.geometry.assets import Assets
from mrd_jax.search import inspection


def load(data, file_type, **files):
    """Returns the content of a file.

    Args:
      data: bytes or text of the file.
      file_type: suffix of the file.
      files: bytes of other files; in names, "_" stands for a dot.
    """
    by_name = {name.replace("_", "."): content for name, content in files.items()}

    def read(path):
        if path not in by_name:
            raise FileNotFoundError(path)
        return by_name[path]

    data = data.encode() if isinstance(data, str) else data
    references = Assets(read, folder="")
    return meshes.load(data, file_type=file_type, references=references, fill=0.4)


def extent(content):
    """Returns the sides of the bounding box."""
    points = content.xyz
    if content.surface is not None:
        points = content.surface.triangles.reshape(-1, 3)
    return np.ptp(points.astype(np.float64), axis=0)


def triangles(content):
    """Returns the corners [faces, 3, 3] in the coordinates of the file."""
    return content.surface.triangles + content.surface.origin


def colours(content, *, points=2000):
    """Returns sRGB colours [points, 3], 0 to 255, of a surface sampled by area or of a cloud."""
    if content.surface is None:
        scale = 1 if content.rgb.dtype == np.uint8 else 255
        return content.rgb * np.float64(scale)
    rng = np.random.default_rng(0)
    return surface.sample_points(content.surface, points=points, rng=rng)[1].astype(np.float64)


def facts(path, data):
    """Writes a file and returns what `inspect` says of it."""
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return inspection.inspect_file(path).facts
