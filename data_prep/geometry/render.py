# SPDX-License-Identifier: Apache-2.0
"""Views of a surface without any graphics library: Embree rays, shading in numpy."""

import io
from collections.abc import Callable

import numpy as np
from embreex import mesh_construction, rtcore_scene
from PIL import Image

from data_prep.geometry import materials, meshes, normals

# Degrees from the z axis, as in OpenShape's renders: from above, level, from below.
POLAR = (60.0, 90.0, 120.0)
# Of the unit-radius object; the field of view then follows from the object's outline.
CAMERA_DISTANCE = 3.0
# Part of the picture's side that the object's longer side fills.
FILL = 0.92
# A view with less of it covered is blank (flat objects seen edge on).
BLANK_COVERAGE = 0.005
# Light: ambient, a lamp beside the camera and a key light from the upper left of it.
AMBIENT, HEADLIGHT, KEYLIGHT = 0.42, 0.30, 0.36
KEY_DIRECTION = np.array([-0.5, 0.7, 0.5]) / np.linalg.norm([-0.5, 0.7, 0.5])
# Neighbouring pixels that differ by more than this (of 1) are traced with all their rays.
CONTRAST = 0.03
# Surfaces behind one another that a ray may pass (leaves, glass).
MAX_LAYERS = 8
# Light left in a ray at which it stops.
MIN_LIGHT = 0.02


def camera_angles(views: int) -> list[tuple[float, float]]:
    """Polar and azimuth angles in degrees: rings of four from above, level and below.

    The level ring sees front, sides and back (models face -y); the others look from the corners.

    Raises:
      ValueError: views is not in 0..12.
    """
    if not 0 <= views <= 4 * len(POLAR):
        raise ValueError(f"views is {views}, expected 0 to {4 * len(POLAR)}")
    angles = []
    for polar in POLAR:
        first = -90.0 if polar == 90.0 else -45.0
        angles += [(polar, first + 90.0 * quarter) for quarter in range(4)]
    return angles[:views]


def render_views(surface: meshes.Surface, *, views: int, size: int, samples: int = 2) -> list:
    """Renders the views that are not blank.

    Args:
      surface: the surface, z up, any size and place.
      views: how many of the standard cameras to use.
      size: side of the square pictures in pixels.
      samples: rays per pixel side; 2 (4 rays) is what thin textures need.

    Returns:
      List of at most `views` arrays, uint8 [size, size, 3] on white.
    """
    low, high = surface.triangles.min(axis=(0, 1)), surface.triangles.max(axis=(0, 1))
    triangles = surface.triangles - (low + high) / 2
    triangles /= max(float(np.linalg.norm(triangles, axis=-1).max()), 1e-30)
    scene = rtcore_scene.EmbreeScene()
    # The scene keeps no reference of its own to the mesh.
    mesh = mesh_construction.TriangleMesh(scene, triangles)
    order, first = normals.same_place(triangles)
    shading = normals.corner_normals(triangles, order=order, first=first)
    corners = triangles.reshape(-1, 3)[order[first]]
    pictures = []
    for polar, azimuth in camera_angles(views):
        basis = _camera_basis(polar, azimuth)
        centre, half, box = _frame(corners, basis, size=size)

        def trace(x: np.ndarray, y: np.ndarray, basis: np.ndarray = basis) -> np.ndarray:
            return _trace(scene, surface, shading, basis, _directions(basis, x, y))

        inside = _antialiased(trace, box, centre=centre, step=2 * half / size, samples=samples)
        if (1 - inside[..., 3]).sum() >= BLANK_COVERAGE * size**2:
            picture = np.full((size, size, 3), 255, np.uint8)
            top, bottom, left, right = box
            colour = np.clip(inside[..., :3], 0, 1) * 255
            picture[size // 2 + top : size // 2 + bottom, size // 2 + left : size // 2 + right] = (
                np.rint(colour)
            )
            pictures.append(picture)
    del mesh
    return pictures


def encode(picture: np.ndarray) -> bytes:
    """JPEG bytes of uint8 [height, width, 3]; quality 92, colour at full resolution."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def on_white(data: bytes) -> np.ndarray:
    """Decodes a picture, turns it as its camera was held, and lays it on white.

    Args:
      data: bytes of one of `materials.FORMATS`, with or without alpha.

    Returns:
      uint8 [height, width, 3].

    Raises:
      limits.LimitError: it has too many pixels.
      ValueError: the bytes are not a readable image.
    """
    picture = materials.decode(materials.open_image(data))
    try:
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
    except MemoryError as error:
        raise ValueError(f"a picture of {picture.size} pixels needs more memory") from error


def _camera_basis(polar: float, azimuth: float) -> np.ndarray:
    """[3, 3]: rows right, up and backwards (from the object to the camera)."""
    polar, azimuth = np.radians(polar), np.radians(azimuth)
    back = np.array(
        [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)]
    )
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0.0])
    return np.stack([right, np.cross(back, right), back]).astype(np.float32)


def _frame(
    corners: np.ndarray, basis: np.ndarray, *, size: int
) -> tuple[np.ndarray, float, tuple[int, int, int, int]]:
    """Fits the picture to the object's outline as this camera sees it.

    Returns:
      Centre [2] and half side of the picture in the plane at distance 1, and the pixels that the
      outline's box covers: top, bottom, left, right, counted from the picture's centre.
    """
    seen = corners @ basis.T
    plane = seen[:, :2] / (CAMERA_DISTANCE - seen[:, 2:])
    low, high = plane.min(axis=0), plane.max(axis=0)
    half = max(float((high - low).max()) / 2, 1e-6) / FILL
    reach = np.minimum((high - low) / (4 * half) * size + 2, size // 2).astype(int)
    return (low + high) / 2, half, (-reach[1], reach[1], -reach[0], reach[0])


def _antialiased(
    trace: Callable[[np.ndarray, np.ndarray], np.ndarray],
    box: tuple[int, int, int, int],
    *,
    centre: np.ndarray,
    step: float,
    samples: int,
) -> np.ndarray:
    """Mean of samples x samples rays a pixel; the others follow the first only where it differs.

    Args:
      trace: positions [rays] and [rays] -> RGB and light left, float32 [rays, 4].
      box: pixels from the picture's centre: top, bottom, left, right.
      centre: [2], position of the picture's centre.
      step: side of a pixel.
      samples: rays per pixel side.

    Returns:
      float32 [height, width, 4].
    """
    top, bottom, left, right = box
    rows, columns = np.mgrid[top:bottom, left:right].astype(np.float32).reshape(2, -1)
    offsets = (np.arange(samples, dtype=np.float32) + 0.5) / samples
    x = centre[0] + (columns[:, None] + np.tile(offsets, samples)) * step  # [pixels, rays]
    y = centre[1] - (rows[:, None] + np.repeat(offsets, samples)) * step
    values = trace(x[:, 0], y[:, 0])
    shape = (bottom - top, right - left, 4)
    busy = np.flatnonzero(_differs_nearby(values.reshape(shape)))
    if samples > 1 and len(busy):
        others = trace(x[busy, 1:].ravel(), y[busy, 1:].ravel()).reshape(len(busy), -1, 4)
        values[busy] = (values[busy] + others.sum(axis=1)) / samples**2
    return values.reshape(shape)


def _differs_nearby(values: np.ndarray) -> np.ndarray:
    """Which pixels differ from one in the 3x3 around them; bool [height, width]."""
    padded = np.pad(values, ((1, 1), (1, 1), (0, 0)), mode="edge")
    high, low = (
        extreme(extreme(padded[:-2], padded[1:-1]), padded[2:])
        for extreme in (np.maximum, np.minimum)
    )
    high = np.maximum(np.maximum(high[:, :-2], high[:, 1:-1]), high[:, 2:])
    low = np.minimum(np.minimum(low[:, :-2], low[:, 1:-1]), low[:, 2:])
    return (high - low > CONTRAST).any(axis=-1)


def _directions(basis: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Unit directions float32 [rays, 3] through points of the plane at distance 1."""
    local = np.stack([x, y, np.full_like(x, -1)], axis=-1).astype(np.float32)
    local /= np.sqrt(np.square(x) + np.square(y) + 1).astype(np.float32)[:, None]
    return local @ basis


def _trace(
    scene: rtcore_scene.EmbreeScene,
    surface: meshes.Surface,
    shading: np.ndarray,
    basis: np.ndarray,
    directions: np.ndarray,
) -> np.ndarray:
    """Follows rays through up to MAX_LAYERS surfaces to the white background.

    Returns:
      float32 [rays, 4]: RGB, and the part of it that the background gave.
    """
    light = np.ones(len(directions), np.float32)
    colour = np.zeros((len(directions), 3), np.float32)
    alive, rays = slice(None), directions
    origins = np.tile(CAMERA_DISTANCE * basis[2], (len(directions), 1))
    for _ in range(MAX_LAYERS):
        hits = scene.run(origins, rays, query="INTERSECT", output=True)
        hit = np.flatnonzero(hits["primID"] >= 0)
        faces, u, v = hits["primID"][hit], hits["u"][hit], hits["v"][hit]
        rays = rays[hit]
        alive = hit if isinstance(alive, slice) else alive[hit]
        weights = np.stack([1 - u - v, u, v], axis=-1)
        rgba = meshes.colours_at(surface, faces, weights=weights)
        alpha = rgba[:, 3] * (surface.opacity[surface.part[faces]] / np.float32(255))
        normal = np.matmul(weights[:, None], shading[faces])[:, 0]
        amount = alpha * light[alive]
        bright = _shade(normal, rays, basis) * amount / np.float32(255)
        colour[alive] += rgba[:, :3] * bright[:, None]
        light[alive] -= amount
        on = np.flatnonzero(light[alive] > MIN_LIGHT)
        if not len(on):
            break
        alive, rays = alive[on], rays[on]
        step = hits["tfar"][hit[on]] + np.float32(1e-4)
        origins = origins[hit[on]] + rays * step[:, None]
    return np.concatenate([colour + light[:, None], light[:, None]], axis=1)


def _shade(normal: np.ndarray, rays: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Brightness float32 [rays] of surfaces with these normals, lit on both sides."""
    facing = -(normal * rays).sum(axis=1)
    length = np.sqrt((normal * normal).sum(axis=1) + np.float32(1e-12))
    key = normal @ (KEY_DIRECTION.astype(np.float32) @ basis) * np.sign(facing)
    lamps = np.float32(HEADLIGHT) * np.abs(facing) + np.float32(KEYLIGHT) * np.maximum(key, 0)
    return np.minimum(np.float32(AMBIENT) + lamps / length, 1)
