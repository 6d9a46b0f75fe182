# SPDX-License-Identifier: Apache-2.0
"""Point sampling and rendering for sources of meshes."""

from collections.abc import Sequence

import numpy as np

from data_prep import shapes, timing
from data_prep.geometry import render, scene, viewpoints
from data_prep.geometry.surface import Surface, sample_points


def sample(
    surface: Surface, *, points: int, seed: int, shape_id: str, notes: Sequence[str] = ()
) -> tuple[np.ndarray, np.ndarray]:
    """Samples a point cloud from a surface.

    Args:
      surface: surface with z up.
      points: number of points to sample.
      seed: seed of the sampling, combined with `shape_id`.
      shape_id: id of the shape.
      notes: what was ignored while the file was read; an error ends with it.

    Returns:
      xyz float32 [points, 3] in the unit sphere and rgb uint8 [points, 3], in random order.

    Raises:
      shapes.SkipShape: the surface has no visible area.
    """
    with timing.stage("sample"):
        try:
            xyz, rgb = sample_points(surface, points=points, rng=shapes.generator(seed, shape_id))
        except scene.MeshError as error:
            raise shapes.SkipShape("; ".join([str(error), *notes])) from error
        return shapes.normalise(xyz), rgb


def views(surface: Surface, *, count: int, size: int) -> tuple[list[bytes], list[str]]:
    """Renders views of a surface.

    Args:
      surface: surface with z up.
      count: number of cameras, see `viewpoints.angles`.
      size: height and width of the views in pixels.

    Returns:
      The encoded views that are not blank, and one fault "blank view" for each blank one.
    """
    with timing.stage("render"):
        cameras = viewpoints.angles(count)
        pictures = render.render_views(surface, cameras=cameras, size=size)
    with timing.stage("encode"):
        encoded = [render.encode(picture) for picture in pictures]
    return encoded, ["blank view"] * (count - len(pictures))
