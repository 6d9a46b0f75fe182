# SPDX-License-Identifier: Apache-2.0
"""Viewpoints of rendered views: their angles, and the axes of their cameras."""

import functools
import itertools

import numpy as np

# Degrees from the z axis, as in OpenShape's renders: from above, level, from below.
POLAR = (60.0, 90.0, 120.0)


def angles(views: int) -> list[tuple[float, float]]:
    """Returns polar and azimuth angles in degrees of cameras that are spread over the sphere.

    Twelve are rings of four from above, level and below. The level ring shows front, sides and back
    (models face -y); the others look from the corners. Fewer are those of the twelve that repel
    each other least, as charges do, the first of them included.

    Raises:
      ValueError: views is not in 0..12.
    """
    if not 0 <= views <= 4 * len(POLAR):
        raise ValueError(f"views is {views}, expected 0 to {4 * len(POLAR)}")
    rings = []
    for polar in POLAR:
        first = -90.0 if polar == 90.0 else -45.0
        rings += [(polar, first + 90.0 * quarter) for quarter in range(4)]
    return [rings[i] for i in _spread(tuple(rings), count=views)]


@functools.cache
def _spread(rings: tuple[tuple[float, float], ...], *, count: int) -> tuple[int, ...]:
    """Returns the `count` cameras, the first included, with the smallest sum of 1 / distance."""
    places = np.stack([basis(*ring)[2] for ring in rings])
    distances = np.linalg.norm(places[:, None] - places, axis=-1)
    np.fill_diagonal(distances, np.inf)
    subsets = itertools.combinations(range(len(rings)), count)
    # Rounded, so that the choice among symmetric ones does not depend on the CPU.
    return min(
        (chosen for chosen in subsets if 0 in chosen or not count),
        key=lambda chosen: np.round((1 / distances[np.ix_(chosen, chosen)]).sum(), 3),
    )


def basis(polar: float, azimuth: float) -> np.ndarray:
    """Returns [3, 3] with the rows right, up and backwards (from the object to the camera)."""
    polar, azimuth = np.radians(polar), np.radians(azimuth)
    back = np.array(
        [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)]
    )
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    return np.stack([right, np.cross(back, right), back]).astype(np.float32)
