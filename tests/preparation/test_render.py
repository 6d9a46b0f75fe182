# SPDX-License-Identifier: Apache-2.0
"""Rendered views of a surface: positions, colours, shading."""

import io

import numpy as np
import pytest
import tiny_catalogue
from PIL import Image

from data_prep.geometry import meshes, normals, render, viewpoints

FRONT, LEFT, BACK = 4, 5, 6  # of the twelve cameras, the level ring
COLOURS = "newmtl red\nKd 1 0 0\nnewmtl green\nKd 0 1 0\nnewmtl blue\nKd 0 0 1\n"
COLOURS += "newmtl white\nKd 1 1 1\nnewmtl glass\nKd 1 0 0\nd 0.25\n"


def boxes(*parts):
    """Returns a surface of (size, centre, colour) boxes in z-up coordinates."""
    files = {"b.obj": tiny_catalogue.boxes(*parts), "box.mtl": COLOURS}
    surface, _ = tiny_catalogue.surface(files, "b.obj", rotation=np.eye(3))
    return surface


def views(surface, size=32, **options):
    return render.render_views(surface, cameras=viewpoints.angles(12), size=size, **options)


def mean_position(picture, channel):
    """Returns the mean (row, column) of the pixels in which a colour dominates."""
    others = [c for c in range(3) if c != channel]
    rows, columns = np.nonzero(picture[..., channel] > picture[..., others].max(axis=-1) + 60.0)
    return rows.mean(), columns.mean()


def brute_force_hits(triangles, directions, *, origin):
    """Returns the nearest triangle of every ray, or -1, by solving for each pair."""
    nearest = np.full(len(directions), np.inf)
    index = np.full(len(directions), -1)
    for number, (a, b, c) in enumerate(triangles.astype(np.float64)):
        matrix = np.stack(
            [
                np.broadcast_to(b - a, directions.shape),
                np.broadcast_to(c - a, directions.shape),
                -directions,
            ],
            axis=-1,
        )
        solvable = np.abs(np.linalg.det(matrix)) > 1e-12
        u, v, t = np.linalg.solve(matrix[solvable], (origin - a)[None, :, None])[..., 0].T
        inside = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0)
        hit = np.flatnonzero(solvable)[inside]
        closer = t[inside] < nearest[hit]
        nearest[hit[closer]], index[hit[closer]] = t[inside][closer], number
    return index


def test_twelve_cameras_have_three_polar_angles_and_four_sides():
    angles = viewpoints.angles(12)
    assert [polar for polar, _ in angles] == [60] * 4 + [90] * 4 + [120] * 4
    for ring in range(3):
        azimuths = sorted(azimuth % 360 for _, azimuth in angles[4 * ring : 4 * ring + 4])
        assert np.diff(azimuths).tolist() == [90, 90, 90]
    with pytest.raises(ValueError, match="views is 13, expected 0 to 12"):
        viewpoints.angles(13)


def test_views_are_not_mirrored():
    surface = boxes(
        ((1, 1, 1), (0, 0, 2), "red"),
        ((1, 1, 1), (3, 0, 0), "green"),
        ((1, 1, 1), (0, 0, 0), "blue"),
    )
    front, back = (views(surface)[i] for i in (FRONT, BACK))
    # From the front (-y) x grows to the right.
    assert mean_position(front, 0)[0] < mean_position(front, 2)[0]
    assert mean_position(front, 1)[1] > mean_position(front, 2)[1]
    assert mean_position(back, 0)[0] < mean_position(back, 2)[0]
    assert mean_position(back, 1)[1] < mean_position(back, 2)[1]


def test_near_parts_hide_far_parts():
    surface = boxes(((1, 1, 1), (0, -2, 0), "red"), ((1, 1, 1), (0, 2, 0), "green"))
    front, back = (views(surface)[i] for i in (FRONT, BACK))
    assert tuple(front[16, 16] > 100) == (True, False, False)
    assert tuple(back[16, 16] > 100) == (False, True, False)


def test_object_is_centred_and_fills_the_picture():
    for picture in views(boxes(((1, 1, 5), (7, 0, 0), "red")), size=64):
        rows, columns = np.nonzero((picture < 250).any(axis=-1))
        assert rows.max() - rows.min() + 1 == pytest.approx(0.92 * 64, abs=2)
        assert rows.max() + rows.min() == pytest.approx(63, abs=2)
        assert columns.max() + columns.min() == pytest.approx(63, abs=2)


def test_views_do_not_depend_on_size_and_position_of_the_object():
    small = views(boxes(((1, 2, 3), (0, 0, 0), "red")))
    large = views(boxes(((64, 128, 192), (4096, 0, 0), "red")))
    for one, other in zip(small, large, strict=True):
        assert np.abs(one.astype(int) - other).mean() < 1


def test_rays_hit_the_nearest_triangle():
    surface = boxes(((1, 1, 1), (0, 0, 0), "red"), ((2, 0.5, 0.5), (0.2, -0.6, 0.3), "green"))
    triangles = (
        surface.triangles - (surface.triangles.min((0, 1)) + surface.triangles.max((0, 1))) / 2
    )
    triangles /= np.linalg.norm(triangles, axis=-1).max()
    polar, azimuth = np.radians(60), np.radians(-45)
    back = np.array(
        [np.sin(polar) * np.cos(azimuth), np.sin(polar) * np.sin(azimuth), np.cos(polar)]
    )
    right = np.array([-np.sin(azimuth), np.cos(azimuth), 0])
    up = np.cross(back, right)
    seen = triangles.reshape(-1, 3) @ np.stack([right, up, back]).T
    plane = seen[:, :2] / (render.CAMERA_DISTANCE - seen[:, 2:])
    low, high = plane.min(axis=0), plane.max(axis=0)
    axis = ((np.arange(24) + 0.5) / 12 - 1) * (high - low).max() / 2 / render.FILL
    x, y = np.meshgrid(axis, -axis)
    x, y = x.ravel() + (low + high)[0] / 2, y.ravel() + (low + high)[1] / 2
    directions = x[:, None] * right + y[:, None] * up - back
    index = brute_force_hits(triangles, directions, origin=render.CAMERA_DISTANCE * back)
    colours = surface.texels[surface.part, :3]
    want = np.where(index[:, None] < 0, 255, colours[index])
    picture = views(surface, size=24, samples=1)[0].reshape(-1, 3)
    # Shading darkens but keeps the colour; the background stays white.
    np.testing.assert_array_equal(picture > 60, want > 60)
    assert (picture[index < 0] == 255).all()
    assert (index >= 0).sum() > 100


def test_brightness_is_the_sum_of_ambient_headlight_and_key_light():
    # A white wall in front of the camera: the ray in the middle is perpendicular to it.
    picture = views(boxes(((1, 0.01, 1), (0, 0, 0), "white")), size=65, samples=1)[FRONT]
    key = np.array([-0.5, 0.7, 0.5]) / np.linalg.norm([-0.5, 0.7, 0.5])
    want = 0.42 + 0.30 * 1 + 0.36 * key[2]
    assert picture[32, 32] == pytest.approx(round(255 * want), abs=1)


def test_background_is_visible_through_glass():
    # A sheet with two glass sides of opacity 0.25 each, in front of the white background.
    sheet = boxes(((1, 0.01, 1), (0, 0, 0), "glass"))
    solid = boxes(((1, 0.01, 1), (0, 0, 0), "red"))
    glass, full = (views(s, size=33, samples=1)[FRONT][16, 16] / 255 for s in (sheet, solid))
    through = 0.75 * 0.75
    np.testing.assert_allclose(glass, full * (1 - through) + through, atol=0.01)


def test_parts_behind_holes_of_a_texture_are_visible():
    wall = "v 0 0 0\nv 1 0 0\nv 1 0 1\nv 0 0 1\nvt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\nusemtl leaf\n"
    wall += "f 9/1 10/2 11/3\nf 9/1 11/3 12/4\n"
    hole = np.array([[[255, 0, 0, 255], [255, 0, 0, 0]]])  # left half solid, right half open
    files = {
        "w.obj": tiny_catalogue.boxes(((1, 0.1, 1), (0.5, 0.5, 0.5), "green")) + wall,
        "box.mtl": COLOURS + "newmtl leaf\nmap_Kd t.png\n",
        "t.png": tiny_catalogue.png(hole),
    }
    surface, _ = tiny_catalogue.surface(files, "w.obj", rotation=np.eye(3))
    front = views(surface)[FRONT]
    assert tuple(front[16, 10] > 100) == (True, False, False)
    assert tuple(front[16, 20] > 100) == (False, True, False)


def test_blank_views_of_a_flat_sheet_are_dropped():
    floor, _ = tiny_catalogue.surface(
        {"square.obj": tiny_catalogue.SQUARE, "square.mtl": "newmtl paint\nKd 0 0 0\n"}
    )
    assert len(views(floor)) == 8  # blank in the level ring


def test_only_edges_are_averaged_over_four_rays(monkeypatch):
    surface = boxes(((1, 1, 1), (0, 0, 0), "red"), ((2, 0.1, 0.1), (0.2, -0.6, 0.3), "blue"))
    picture = views(surface)[0].astype(int)
    coarse = views(surface, samples=1)[0].astype(int)
    monkeypatch.setattr(render, "CONTRAST", -1.0)  # every pixel is traced with all rays
    full = views(surface)[0].astype(int)
    assert np.abs(picture - full).max() <= 0.03 * 255 + 1
    assert np.abs(coarse - full).max() > 100
    assert len(np.unique(full.reshape(-1, 3), axis=0)) > len(
        np.unique(coarse.reshape(-1, 3), axis=0)
    )


def normals_of(triangles):
    order, first = normals.group_corners(triangles)
    return normals.corner_normals(triangles, order=order, first=first)


def test_box_corners_are_flat_and_small_bends_smooth():
    box = boxes(((1, 1, 1), (0, 0, 0), "red")).triangles
    face = np.cross(box[:, 1] - box[:, 0], box[:, 2] - box[:, 0])
    face /= np.linalg.norm(face, axis=-1, keepdims=True)
    np.testing.assert_allclose(normals_of(box), np.repeat(face[:, None], 3, 1), atol=1e-6)

    angles = np.linspace(0, 2 * np.pi, 33)
    ring = np.stack([np.cos(angles), np.sin(angles), 0 * angles], axis=-1).astype(np.float32)
    upper = ring + np.float32([0, 0, 1])
    pipe = np.concatenate(
        [
            np.stack([ring[:-1], ring[1:], upper[:-1]], 1),
            np.stack([ring[1:], upper[1:], upper[:-1]], 1),
        ]
    )
    outward = pipe * [1, 1, 0]
    assert np.abs(normals_of(pipe) - outward).max() < 1e-6


def test_degenerate_faces_have_zero_normals():
    line = np.float32([[[0, 0, 0], [1, 0, 0], [2, 0, 0]]])
    np.testing.assert_array_equal(normals_of(line), np.zeros((1, 3, 3)))


def test_encoded_views_decode_nearly_unchanged():
    picture = np.zeros((16, 24, 3), np.uint8)
    picture[:, 8:] = (200, 30, 60)
    with Image.open(io.BytesIO(render.encode(picture))) as image:
        assert image.mode == "RGB"
        assert np.abs(np.asarray(image).astype(int) - picture).max() < 16


def test_pictures_are_laid_on_white():
    pixels = [[(255, 0, 0, 255), (255, 0, 0, 0), (0, 0, 0, 51)]]
    got = render.on_white(tiny_catalogue.png(pixels))
    np.testing.assert_array_equal(got, [[(255, 0, 0), (255, 255, 255), (204, 204, 204)]])
    with pytest.raises(ValueError, match="unreadable picture"):
        render.on_white(b"no picture")


def test_exif_orientation_is_applied():
    image = Image.fromarray(np.array([[(255, 0, 0), (0, 0, 255)]], np.uint8))
    exif = Image.Exif()
    exif[274] = 6  # orientation: a quarter turn clockwise
    buffer = io.BytesIO()
    image.save(buffer, "PNG", exif=exif)
    np.testing.assert_array_equal(
        render.on_white(buffer.getvalue()), [[(255, 0, 0)], [(0, 0, 255)]]
    )


def test_rendering_is_reproducible():
    surface = boxes(((1, 2, 3), (0, 0, 0), "red"))
    for one, other in zip(views(surface), views(surface), strict=True):
        np.testing.assert_array_equal(one, other)
    assert isinstance(surface, meshes.Surface)
