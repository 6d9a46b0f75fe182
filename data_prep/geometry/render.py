# SPDX-License-Identifier: Apache-2.0
"""Renders views of a surface without a graphics library: Embree rays, shading in numpy."""

import dataclasses
import io
from collections.abc import Callable, Sequence

import numpy as np
from embreex import mesh_construction, rtcore_scene
from PIL import Image

from data_prep.geometry import images, normals, viewpoints
from data_prep.geometry.surface import Surface, colours_at

# Distance to an object of radius 1; the field of view follows from the outline of the object.
CAMERA_DISTANCE = 3.0
# Fraction of the picture's side that the longer side of the object fills.
FILL = 0.92
# A view with a smaller covered fraction is blank (flat objects seen edge on).
BLANK_COVERAGE = 0.005
# Light: ambient, a headlight at the camera and a key light from the upper left.
AMBIENT, HEADLIGHT, KEYLIGHT = 0.42, 0.30, 0.36
KEY_DIRECTION = np.array([-0.5, 0.7, 0.5]) / np.linalg.norm([-0.5, 0.7, 0.5])
# Pixels that differ from a neighbour by more than this, of 1, are traced with all rays.
CONTRAST = 0.03
# Largest number of surfaces that a ray passes through (leaves, glass).
MAX_LAYERS = 8
# Remaining light at which a ray ends.
MIN_LIGHT = 0.02


@dataclasses.dataclass(frozen=True)
class _Scene:
    """Surface that rays are traced against.

    Attributes:
      embree: scene with the triangles of the surface.
      surface: coloured surface.
      shading: float32 [faces, 3, 3], shading normals of the corners.
      opacity: float32 [faces], opacity of the part of each face, divided by the largest alpha.
    """

    embree: rtcore_scene.EmbreeScene
    surface: Surface
    shading: np.ndarray
    opacity: np.ndarray


def render_views(
    surface: Surface, *, cameras: Sequence[tuple[float, float]], size: int, samples: int = 2
) -> list:
    """Renders the views that are not blank.

    Args:
      surface: surface with z up, of any size and position.
      cameras: polar and azimuth angles in degrees, see `viewpoints.angles`.
      size: side of the square pictures in pixels.
      samples: rays per pixel side; thin textures need 2 (4 rays).

    Returns:
      List of at most one array per camera, uint8 [size, size, 3] on white.
    """
    low, high = surface.triangles.min(axis=(0, 1)), surface.triangles.max(axis=(0, 1))
    triangles = surface.triangles - (low + high) / 2
    triangles /= max(float(np.linalg.norm(triangles, axis=-1).max()), 1e-30)
    embree = rtcore_scene.EmbreeScene()
    # The scene does not keep a reference to the mesh.
    mesh = mesh_construction.TriangleMesh(embree, triangles)
    order, first = normals.group_corners(triangles)
    scene = _Scene(
        embree=embree,
        surface=surface,
        shading=normals.corner_normals(triangles, order=order, first=first),
        opacity=(surface.opacity / np.float32(255))[surface.part],
    )
    corners = triangles.reshape(-1, 3)[order[first]]
    pictures = []
    for polar, azimuth in cameras:
        basis = viewpoints.basis(polar, azimuth)
        centre, half, box = _frame(corners, basis, size=size)

        def trace(x: np.ndarray, y: np.ndarray, basis: np.ndarray = basis) -> np.ndarray:
            return _trace(scene, basis, _directions(basis, x, y))

        inside = _antialiased(trace, box, centre=centre, step=2 * half / size, samples=samples)
        if (1 - inside[3]).sum() >= BLANK_COVERAGE * size**2:
            picture = np.full((size, size, 3), 255, np.uint8)
            top, bottom, left, right = box
            colour = np.clip(inside[:3], 0, 1).transpose(1, 2, 0) * 255
            picture[size // 2 + top : size // 2 + bottom, size // 2 + left : size // 2 + right] = (
                np.rint(colour)
            )
            pictures.append(picture)
    del mesh
    return pictures


def encode(picture: np.ndarray) -> bytes:
    """Encodes uint8 [height, width, 3] as JPEG: quality 92, colour at full resolution."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "JPEG", quality=92, subsampling=0)
    return buffer.getvalue()


def on_white(data: bytes) -> np.ndarray:
    """Decodes a picture, applies its EXIF orientation, and lays it on white.

    Args:
      data: bytes of one of `images.FORMATS`, with or without alpha.

    Returns:
      uint8 [height, width, 3].

    Raises:
      limits.LimitError: the picture has too many pixels.
      ValueError: the bytes are not a readable image.
    """
    picture = images.decode(images.open_image(data))
    try:
        white = Image.new("RGBA", picture.size, (255, 255, 255, 255))
        return np.asarray(Image.alpha_composite(white, picture).convert("RGB"))
    except MemoryError as error:
        raise ValueError(f"a picture of {picture.size} pixels needs more memory") from error


def _frame(
    corners: np.ndarray, basis: np.ndarray, *, size: int
) -> tuple[np.ndarray, float, tuple[int, int, int, int]]:
    """Fits the picture to the outline of the object in the view of a camera.

    Returns:
      Centre [2] and half side of the picture in the plane at distance 1, and the bounding box of
      the outline in pixels relative to the centre of the picture: top, bottom, left, right.
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
    """Averages samples x samples rays per pixel; traces only one where neighbours do not differ.

    Args:
      trace: function from x [rays] and y [rays] to RGB and remaining light, float32 [4, rays].
      box: pixels relative to the centre of the picture: top, bottom, left, right.
      centre: [2], position of the centre of the picture.
      step: side of a pixel.
      samples: rays per pixel side.

    Returns:
      float32 [4, height, width].
    """
    top, bottom, left, right = box
    height, width = bottom - top, right - left
    offsets = (np.arange(samples, dtype=np.float32) + 0.5) / samples
    # Positions of the rays, [pixels, samples] along each axis.
    columns = centre[0] + (np.arange(left, right, dtype=np.float32)[:, None] + offsets) * step
    rows = centre[1] - (np.arange(top, bottom, dtype=np.float32)[:, None] + offsets) * step
    values = trace(np.tile(columns[:, 0], height), np.repeat(rows[:, 0], width))
    busy = np.flatnonzero(_differs_nearby(values.reshape(4, height, width)))
    if samples > 1 and len(busy):
        row, column = np.divmod(busy, width)
        x = np.tile(columns[column], samples)[:, 1:]  # [busy, rays]
        y = np.repeat(rows[row], samples, axis=1)[:, 1:]
        others = trace(x.ravel(), y.ravel()).reshape(4, len(busy), -1)
        values[:, busy] = (values[:, busy] + others.sum(axis=2)) / samples**2
    return values.reshape(4, height, width)


def _differs_nearby(values: np.ndarray) -> np.ndarray:
    """Returns whether each pixel differs from one of its neighbours.

    Args:
      values: [channels, height, width].

    Returns:
      bool [height, width].
    """
    high = low = np.pad(values, ((0, 0), (1, 1), (1, 1)), mode="edge")
    for axis in (1, 2):
        before, here, after = (
            (slice(None),) * axis + (slice(start, stop),)
            for start, stop in ((0, -2), (1, -1), (2, None))
        )
        high = np.maximum(np.maximum(high[before], high[here]), high[after])
        low = np.minimum(np.minimum(low[before], low[here]), low[after])
    return (high - low).max(axis=0) > CONTRAST


def _directions(basis: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns unit directions float32 [rays, 3] through points of the plane at distance 1."""
    length = np.sqrt(x * x + y * y + 1)
    x, y, z = x / length, y / length, -1 / length
    right, up, back = basis
    directions = np.empty((len(x), 3), np.float32)
    # By axis: a matrix product of three columns is slower, and its rounding depends on the CPU.
    for axis in range(3):
        directions[:, axis] = x * right[axis] + y * up[axis] + z * back[axis]
    return directions


def _trace(scene: _Scene, basis: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Traces rays through up to MAX_LAYERS surfaces to the white background.

    Returns:
      float32 [4, rays]: RGB, and the fraction of it that comes from the background.
    """
    values = np.zeros((4, len(directions)), np.float32)
    light = values[3]
    light[:] = 1
    alive, rays = np.arange(len(directions)), directions
    origins = np.tile(CAMERA_DISTANCE * basis[2], (len(directions), 1))
    for _ in range(MAX_LAYERS):
        hits = scene.embree.run(origins, rays, query="INTERSECT", output=True)
        hit = np.flatnonzero(hits["primID"] >= 0)
        if not len(hit):
            break
        faces, u, v = (hits[name].take(hit) for name in ("primID", "u", "v"))
        rays, alive = rays.take(hit, axis=0), alive.take(hit)
        weights = np.stack([1 - u - v, u, v], axis=-1)
        rgba = colours_at(scene.surface, faces, weights=weights)
        remaining = light.take(alive)
        amount = rgba[:, 3] * scene.opacity.take(faces) * remaining
        corners = scene.shading.take(faces, axis=0)
        bright = _shade(corners, weights, rays, basis) * amount / np.float32(255)
        for channel in range(3):
            values[channel, alive] += rgba[:, channel] * bright
        remaining -= amount
        light[alive] = remaining
        active = np.flatnonzero(remaining > MIN_LIGHT)
        if not len(active):
            break
        alive, rays = alive[active], rays[active]
        step = hits["tfar"][hit[active]] + np.float32(1e-4)
        origins = origins[hit[active]] + rays * step[:, None]
    values[:3] += light
    return values


def _shade(
    corners: np.ndarray, weights: np.ndarray, rays: np.ndarray, basis: np.ndarray
) -> np.ndarray:
    """Returns the brightness float32 [rays] of surfaces that are lit on both sides.

    Args:
      corners: [rays, 3, 3], shading normals of the corners of the face that each ray hits.
      weights: [rays, 3], barycentric coordinates of the hits.
      rays: [rays, 3], unit directions.
      basis: [3, 3], rows of the camera.
    """
    x, y, z = (
        corners[:, 0, axis] * weights[:, 0]
        + corners[:, 1, axis] * weights[:, 1]
        + corners[:, 2, axis] * weights[:, 2]
        for axis in range(3)
    )
    facing = -(x * rays[:, 0] + y * rays[:, 1] + z * rays[:, 2])
    length = np.sqrt(x * x + y * y + z * z + np.float32(1e-12))
    light = KEY_DIRECTION.astype(np.float32) @ basis
    key = (x * light[0] + y * light[1] + z * light[2]) * np.sign(facing)
    lamps = np.float32(HEADLIGHT) * np.abs(facing) + np.float32(KEYLIGHT) * np.maximum(key, 0)
    return np.minimum(np.float32(AMBIENT) + lamps / length, 1)
