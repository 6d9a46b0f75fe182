# SPDX-License-Identifier: Apache-2.0
"""Points and views of a mesh, for the sources that are made of meshes."""

import numpy as np

from data_prep import shapes, timing
from data_prep.geometry import meshes, render


def sample(
    surface: meshes.Surface, *, points: int, seed: int, shape_id: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draws the cloud of a shape.

    Args:
      surface: z up.
      points: of the cloud.
      seed: of the draw, together with shape_id.
      shape_id: of the shape.

    Returns:
      xyz float32 [points, 3] in the unit sphere and rgb uint8 [points, 3], in random order.

    Raises:
      shapes.SkipShape: nothing of the surface is visible.
    """
    with timing.stage("sample"):
        try:
            xyz, rgb = meshes.sample_points(
                surface, points=points, rng=shapes.generator(seed, shape_id)
            )
        except meshes.MeshError as error:
            raise shapes.SkipShape(str(error)) from error
        return shapes.normalise(xyz), rgb


def views(surface: meshes.Surface, *, count: int, size: int) -> tuple[list[bytes], list[str]]:
    """Renders a shape.

    Args:
      surface: z up.
      count: of the cameras, as `render.render_views` has them.
      size: side of the views in pixels.

    Returns:
      encoded views without the blank ones, and "blank view" for each of those.
    """
    with timing.stage("render"):
        pictures = render.render_views(surface, views=count, size=size)
    with timing.stage("encode"):
        encoded = [render.encode(picture) for picture in pictures]
    return encoded, ["blank view"] * (count - len(pictures))
