# SPDX-License-Identifier: Apache-2.0
"""Polygons of the solids of VRML: boxes, spheres, cylinders, cones, grids and extrusions."""

import dataclasses
import math

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.readers.vrml import extrusions
from data_prep.geometry.readers.vrml.nodes import Node

# Segments of a circle: its polygon is within 0.3% of the radius.
_SEGMENTS = 48


@dataclasses.dataclass(frozen=True)
class Solid:
    """Polygons of a solid.

    Attributes:
      points: float64 [points, 3].
      uv: [points, 2], texture coordinates, origin at the lower left.
      index: int64 [n], points of the polygons; -1 ends a polygon.
    """

    points: np.ndarray
    uv: np.ndarray
    index: np.ndarray


def read(node: Node) -> Solid:
    """Returns the polygons of a node of one of the types in `SOLIDS`."""
    return SOLIDS[node.kind](node)


def _box(node: Node) -> Solid:
    """Returns a box around the origin; VRML 1.0 calls it Cube, and names its sides."""
    size = node.vector("size", 2, 2, 2)
    if node.kind == "Cube":
        size = np.array([node.vector(side, 2)[0] for side in ("width", "height", "depth")])
    # Right and up as seen from outside, for the front, back, right, left, top and bottom.
    rights = np.array([[1, 0, 0], [-1, 0, 0], [0, 0, -1], [0, 0, 1], [1, 0, 0], [1, 0, 0]])
    ups = np.array([[0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 0, -1], [0, 0, 1]])
    uv = np.array([[0, 0], [1, 0], [1, 1], [0, 1]])
    signs = 2 * uv - 1
    corners = np.cross(rights, ups)[:, None] + signs[:, :1] * rights[:, None]
    corners = corners + signs[:, 1:] * ups[:, None]
    index = np.pad(np.arange(24).reshape(6, 4), ((0, 0), (0, 1)), constant_values=-1)
    return Solid(corners.reshape(-1, 3) * size / 2, np.tile(uv, (6, 1)), index.reshape(-1))


def _grid(points: np.ndarray, uv: np.ndarray) -> Solid:
    """Returns the quadrilaterals of a grid of points [rows, columns, 3], uv [rows, columns, 2]."""
    rows, columns = points.shape[:2]
    number = np.arange(rows * columns).reshape(rows, columns)
    quads = [number[:-1, :-1], number[:-1, 1:], number[1:, 1:], number[1:, :-1]]
    index = np.stack([*quads, np.full_like(quads[0], -1)], axis=-1)
    return Solid(points.reshape(-1, 3), uv.reshape(-1, 2), index.reshape(-1))


def _revolved(profile: np.ndarray) -> Solid:
    """Returns the surface that a profile [n, 2] of radius and height makes around the y axis.

    u goes around from the back by the left, v along the profile.
    """
    u = np.linspace(0, 1, _SEGMENTS + 1)
    angle = math.pi + 2 * math.pi * u
    ring = np.stack([np.sin(angle), np.zeros_like(angle), np.cos(angle)], axis=1)
    points = profile[:, None, :1] * ring
    points[..., 1] = profile[:, None, 1]
    v = np.linspace(0, 1, len(profile))
    return _grid(points, np.stack(np.meshgrid(u, v), axis=-1))


def _disc(radius: float, height: float, *, sign: int) -> Solid:
    """Returns a disc around the y axis that faces up (sign 1) or down (sign -1)."""
    angle = sign * np.linspace(0, 2 * math.pi, _SEGMENTS, endpoint=False)
    flat = np.stack([np.cos(angle), -np.sin(angle)], axis=1)
    points = np.insert(radius * flat, 1, height, axis=1)
    uv = 0.5 + 0.5 * flat * (1, -sign)
    return Solid(points, uv, np.append(np.arange(_SEGMENTS), -1))


def _joined(solids: list[Solid]) -> Solid:
    """Joins solids."""
    index, first = [], 0
    for solid in solids:
        index.append(np.where(solid.index < 0, -1, solid.index + first))
        first += len(solid.points)
    if not solids:
        return Solid(np.zeros((0, 3)), np.zeros((0, 2)), np.zeros(0, np.int64))
    points, uv = ([getattr(s, name) for s in solids] for name in ("points", "uv"))
    return Solid(np.concatenate(points), np.concatenate(uv), np.concatenate(index))


def _sphere(node: Node) -> Solid:
    angle = np.linspace(-math.pi / 2, math.pi / 2, _SEGMENTS // 2 + 1)
    return _revolved(node.vector("radius", 1)[0] * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def _cylinder(node: Node) -> Solid:
    radius, half = node.vector("radius", 1)[0], node.vector("height", 2)[0] / 2
    side = _revolved(np.array([[radius, -half], [radius, half]]))
    top, bottom = _disc(radius, half, sign=1), _disc(radius, -half, sign=-1)
    return _shown(node, {"side": side, "top": top, "bottom": bottom})


def _cone(node: Node) -> Solid:
    radius, half = node.vector("bottomRadius", 1)[0], node.vector("height", 2)[0] / 2
    side = _revolved(np.array([[radius, -half], [0, half]]))
    return _shown(node, {"side": side, "bottom": _disc(radius, -half, sign=-1)})


def _shown(node: Node, pieces: dict[str, Solid]) -> Solid:
    """Returns the pieces of a solid that its flags, or its field `parts` (VRML 1.0), show."""
    parts = [word.upper() for word in node.words("parts")]
    shown = []
    for name, piece in pieces.items():
        listed = not parts or "ALL" in parts or any(part.startswith(name.upper()) for part in parts)
        if listed and node.flag(name, True):
            shown.append(piece)
    return _joined(shown)


def _elevation_grid(node: Node) -> Solid:
    columns, rows = (int(node.vector(f"{axis}Dimension", 0)[0]) for axis in "xz")
    heights = node.numbers("height")
    if columns < 2 or rows < 2 or columns > len(heights) or rows > len(heights) // columns:
        raise scene.MeshError("a grid with fewer heights than its size says")
    limits.FACES.check(2 * columns * rows)
    points = np.zeros((rows, columns, 3))
    points[..., 0] = node.vector("xSpacing", 1)[0] * np.arange(columns)
    points[..., 1] = heights[: rows * columns].reshape(rows, columns)
    points[..., 2] = node.vector("zSpacing", 1)[0] * np.arange(rows)[:, None]
    u, v = np.linspace(0, 1, columns), np.linspace(0, 1, rows)
    return _grid(points, np.stack(np.meshgrid(u, v), axis=-1))


def _extrusion(node: Node) -> Solid:
    rings = extrusions.rings(node)
    u, v = np.linspace(0, 1, rings.shape[1]), np.linspace(0, 1, len(rings))
    pieces = [_grid(rings, np.stack(np.meshgrid(u, v), axis=-1))]
    outline = extrusions.cross_section(node)
    closed = np.array_equal(outline[0], outline[-1])
    size = np.ptp(outline, axis=0).max() or 1
    flat = (outline - outline.min(axis=0)) / size
    last = len(outline) - closed
    if not np.allclose(rings[0], rings[-1]):
        for name, ring in (("beginCap", rings[0]), ("endCap", rings[-1])):
            if node.flag(name, True) and last > 2:
                index = np.append(np.arange(last), -1)
                pieces.append(Solid(ring[:last], flat[:last], index))
    return _joined(pieces)


SOLIDS = {
    "Box": _box,
    "Cube": _box,
    "Sphere": _sphere,
    "Cylinder": _cylinder,
    "Cone": _cone,
    "ElevationGrid": _elevation_grid,
    "Extrusion": _extrusion,
}
