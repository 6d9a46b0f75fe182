# SPDX-License-Identifier: Apache-2.0
"""Triangulation of polygons: fans, concave polygons, holes by bridges, and degenerate ones."""

import numpy as np
import pytest

from data_prep.foreign import limits
from data_prep.geometry.readers import polygons

# Polygons in the plane, counterclockwise, and their areas by hand.
SHAPES = {
    "triangle": ([(0, 0), (2, 0), (0, 2)], 2),
    "square": ([(0, 0), (1, 0), (1, 1), (0, 1)], 1),
    "hexagon": ([(2, 0), (4, 1), (4, 3), (2, 4), (0, 3), (0, 1)], 12),
    "arrow": ([(0, 0), (4, 2), (0, 4), (1, 2)], 6),
    "L": ([(0, 0), (4, 0), (4, 1), (1, 1), (1, 4), (0, 4)], 7),
    "U": ([(0, 0), (3, 0), (3, 3), (2, 3), (2, 1), (1, 1), (1, 3), (0, 3)], 7),
    "plus": (
        [(1, 0), (2, 0), (2, 1), (3, 1), (3, 2), (2, 2), (2, 3), (1, 3), (1, 2), (0, 2), (0, 1),
         (1, 1)],
        5,
    ),
    "collinear corners": ([(0, 0), (1, 0), (2, 0), (2, 1), (2, 2), (1, 1), (0, 2)], 3),
    "hole by a bridge": (
        [(0, 0), (4, 0), (4, 4), (0, 4), (0, 0), (1, 1), (1, 3), (3, 3), (3, 1), (1, 1)],
        12,
    ),
}  # fmt: skip
# The plane's axes in space: the main axis of the normal is z, x, y, and none of them.
PLANES = {
    "z": ((1, 0, 0), (0, 1, 0)),
    "x": ((0, 1, 0), (0, 0, 1)),
    "y": ((0, 0, 1), (1, 0, 0)),
    "oblique": ((1 / 3, 2 / 3, 2 / 3), (2 / 3, 1 / 3, -2 / 3)),
}


def areas(triangles):
    edges = triangles[:, 1:] - triangles[:, :1]
    return np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1) / 2


def cut(corners, plane="z", *, scale=1.0, offset=0.0, start=0, turned=False):
    """Triangulates one polygon; returns its triangles [n - 2, 3, 3] in space."""
    flat = np.roll(np.array(corners, float), -start, axis=0)[:: -1 if turned else 1]
    vertices = flat @ np.array(PLANES[plane]) * scale + offset
    found = polygons.triangulate(vertices, np.arange(len(flat))[None])
    assert (found.polygon == 0).all()
    return vertices[found.corners]


@pytest.mark.parametrize("turned", [False, True], ids=["counterclockwise", "clockwise"])
@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("shape", SHAPES)
def test_triangles_cover_a_polygon_once_from_every_first_corner(shape, plane, turned):
    corners, area = SHAPES[shape]
    for start in range(len(corners)):
        triangles = cut(corners, plane, start=start, turned=turned)
        assert len(triangles) == len(corners) - 2
        assert areas(triangles).sum() == pytest.approx(area)


@pytest.mark.parametrize(
    "place", [{"scale": 1e-9}, {"scale": 1e9}, {"offset": (5e5, 5.4e6, 100)}], ids=str
)
def test_concave_polygons_at_any_scale_and_far_from_the_origin(place):
    corners, area = SHAPES["U"]
    total = areas(cut(corners, start=3, **place)).sum()
    assert total == pytest.approx(area * place.get("scale", 1) ** 2, rel=1e-6)


def test_triangles_of_a_concave_polygon_keep_its_orientation():
    for start in range(6):
        triangles = cut(SHAPES["L"][0], start=start)
        edges = triangles[:, 1:] - triangles[:, :1]
        assert (np.cross(edges[:, 0], edges[:, 1])[:, 2] >= 0).all()


def test_a_convex_polygon_becomes_a_fan_and_a_quad_ends_at_its_first_corner():
    vertices = np.array([[np.cos(t), np.sin(t), 0] for t in np.arange(5) * 2 * np.pi / 5])
    found = polygons.triangulate(vertices, np.arange(5)[None])
    np.testing.assert_array_equal(found.corners, [[0, 1, 2], [0, 2, 3], [0, 3, 4]])
    found = polygons.triangulate(vertices, np.arange(4)[None])
    np.testing.assert_array_equal(found.corners, [[0, 1, 2], [2, 3, 0]])


def test_polygons_of_all_sizes_together():
    flat = [SHAPES[name][0] for name in ("triangle", "L", "square", "arrow", "U")]
    corners = [*flat[:2], [(0, 0), (1, 0)], *flat[2:], [(5, 5)]]
    counts = [len(polygon) for polygon in corners]
    points = np.array(sum(corners, []), float)
    vertices = np.column_stack([points, np.zeros(len(points))])
    found = polygons.triangulate(vertices, np.arange(len(points)), counts=counts)
    np.testing.assert_array_equal(np.bincount(found.polygon), [1, 4, 0, 2, 2, 6])
    got = np.bincount(found.polygon, areas(vertices[found.corners]))
    np.testing.assert_allclose(got, [2, 7, 0, 1, 6, 7])


def test_a_spiral_of_many_corners_is_covered_once():
    # Every turn is at an angle of its own; the area is that of the shoelace formula.
    angle = np.linspace(0, 8 * np.pi, 150)
    arm = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (1 + angle[:, None])
    flat = np.concatenate([arm, arm[::-1] * 0.9])
    x, y = flat.T
    shoelace = abs(np.sum(x * np.roll(y, -1) - np.roll(x, -1) * y)) / 2
    assert areas(cut(flat)).sum() == pytest.approx(shoelace)


@pytest.mark.parametrize(
    ("corners", "bound"),
    [
        pytest.param([(0, 0), (2, 2), (2, 0), (0, 2)], 4, id="crossing"),
        pytest.param([(0, 0), (1, 1), (2, 2), (3, 3), (1, 1)], 0, id="line"),
        pytest.param([(1, 1)] * 6, 0, id="point"),
        pytest.param([(np.nan, 0), (4, 0), (0, 4), (1, 1)], np.inf, id="not a number"),
        pytest.param([(1e300, 0), (-1e300, 1e300), (0, -1e300), (1, 1)], np.inf, id="huge"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_degenerate_polygons_give_as_many_triangles_as_others(corners, bound):
    triangles = cut(corners)
    assert len(triangles) == len(corners) - 2
    assert not areas(triangles).sum() > bound + 1e-9


def test_no_polygons_and_polygons_of_two_corners_give_no_triangles():
    vertices = np.zeros((3, 3))
    assert len(polygons.triangulate(vertices, np.zeros(0, int), counts=[]).corners) == 0
    assert len(polygons.triangulate(vertices, np.array([[0, 1], [1, 2]])).corners) == 0


def test_the_number_of_triangles_and_of_concave_corners_is_limited(monkeypatch):
    flat = np.array(SHAPES["L"][0], float)
    vertices = np.column_stack([np.roll(flat, -4, axis=0), np.zeros(6)])
    monkeypatch.setenv(limits.CONCAVE_CORNERS.variable, "35")
    with pytest.raises(limits.LimitError, match="36 squared corners of concave polygons"):
        polygons.triangulate(vertices, np.arange(6)[None])
    monkeypatch.setenv(limits.FACES.variable, "3")
    with pytest.raises(limits.LimitError, match="4 faces, at most 3"):
        polygons.triangulate(vertices, np.arange(6)[None])
