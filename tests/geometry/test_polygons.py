# SPDX-License-Identifier: Apache-2.0
"""Triangulation of polygons: fans of convex ones, ears of concave ones."""

import numpy as np
import pytest

from data_prep.geometry.readers import polygons

# An L of area 7, a star of ten corners, and a comb whose fan overlaps itself.
ELL = [(4, 0), (4, 1), (1, 1), (1, 4), (0, 4), (0, 0)]
STAR = [
    (np.cos(angle) * radius, np.sin(angle) * radius)
    for angle, radius in zip(np.linspace(0, 2 * np.pi, 11)[:-1], [2, 0.7] * 5, strict=True)
]
COMB = [
    (0, 0),
    (7, 0),
    (7, 3),
    (6, 3),
    (6, 1),
    (4, 1),
    (4, 3),
    (3, 3),
    (3, 1),
    (1, 1),
    (1, 3),
    (0, 3),
]


def shoelace(corners):
    x, y = np.array(corners, float).T
    return abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


def areas(points, found):
    a, b, c = (points[found.corners[:, i]] for i in range(3))
    return np.linalg.norm(np.cross(b - a, c - a), axis=1) / 2


@pytest.mark.parametrize("corners", [ELL, STAR, COMB])
@pytest.mark.parametrize("is_reversed", [False, True])
@pytest.mark.parametrize("start", [0, 2, 5])
@pytest.mark.parametrize("turn", [0, 0.4])
def test_triangles_of_a_concave_polygon_have_its_area(corners, is_reversed, start, turn):
    corners = np.roll(corners[::-1] if is_reversed else corners, start, axis=0)
    flat = np.column_stack([corners, np.zeros(len(corners))])
    rotation = np.array(
        [[1, 0, 0], [0, np.cos(turn), -np.sin(turn)], [0, np.sin(turn), np.cos(turn)]]
    )
    points = flat @ rotation.T + [1e6, 0, 0]
    found = polygons.triangulate(points, np.arange(len(points))[None])
    assert len(found.corners) == len(points) - 2
    # Triangles that overlap or leave the polygon would have more area.
    assert areas(points, found).sum() == pytest.approx(shoelace(corners), rel=1e-6)


def test_quads_and_convex_polygons_are_fans_in_the_order_of_the_faces():
    points = np.array([[0.0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0], [-0.5, 0.5, 0]])
    indices = np.array([0, 1, 2, 0, 1, 2, 3, 0, 1, 2, 3, 4])
    found = polygons.triangulate(points, indices, counts=np.array([3, 4, 5]))
    assert found.polygon.tolist() == [0, 1, 1, 2, 2, 2]
    assert indices[found.corners].tolist()[:3] == [[0, 1, 2], [0, 1, 2], [2, 3, 0]]
    assert areas(points[indices], found).sum() == pytest.approx(0.5 + 1 + 1.25)


def test_polygons_without_area_and_with_few_corners_do_no_harm():
    points = np.array([[0.0, 0, 0], [1, 0, 0], [2, 0, 0], [3, 0, 0], [0, 1, 0]])
    indices = np.array([0, 1, 2, 3, 0, 1, 0, 1, 4])
    found = polygons.triangulate(points, indices, counts=np.array([4, 2, 3]))
    assert found.polygon.tolist() == [0, 0, 2]
    assert areas(points[indices], found).tolist() == [0, 0, 0.5]


def test_many_concave_polygons_of_mixed_sizes():
    shapes = [ELL, STAR, COMB] * 50
    points = np.concatenate(
        [np.column_stack([s, np.full(len(s), i)]) for i, s in enumerate(shapes)]
    )
    counts = np.array([len(s) for s in shapes])
    found = polygons.triangulate(points, np.arange(len(points)), counts=counts)
    total = np.bincount(found.polygon, areas(points, found))
    assert total == pytest.approx([shoelace(s) for s in shapes])
