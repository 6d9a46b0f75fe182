# SPDX-License-Identifier: Apache-2.0
"""Colours of surfaces: mixes of the corners, wrap modes, holes, and coordinates of any size."""

import numpy as np
import pytest

from data_prep.foreign import limits
from data_prep.geometry import render, scene, viewpoints
from data_prep.geometry.scene import CLAMP, MIRROR, REPEAT, MeshError, Part, Texture
from data_prep.geometry.surface import (
    ALL_INVISIBLE,
    HOLE_ALPHA,
    colours_at,
    face_areas,
    join,
    sample_points,
)

TRIANGLE = np.array([[[0, 0, 0], [1, 0, 0], [0, 1, 0]]], np.float64)
# Red, green and blue corners.
CORNERS = np.concatenate([np.eye(3), np.ones((3, 1))], axis=1)[None].astype(np.float32)


def surface_of(*parts, notes=None, **options):
    return join(parts, fill=0.4, notes=[] if notes is None else notes, **options)


def colour(surface, weights, face=0):
    return colours_at(surface, np.array([face]), weights=np.array([weights]))[0].tolist()


def sample(surface, points=2000):
    return sample_points(surface, points=points, rng=np.random.default_rng(0))


def to_srgb(linear):
    return np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)


def to_linear(srgb):
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


@pytest.mark.parametrize("is_linear", [False, True])
def test_corner_colours_are_mixed_in_their_own_space(is_linear):
    surface = surface_of(Part(TRIANGLE, colours=CORNERS, colours_are_linear=is_linear))
    weights = np.random.default_rng(0).dirichlet([1, 1, 1], 500)
    got = colours_at(surface, np.zeros(500, int), weights=weights)
    mixed = to_srgb(weights) if is_linear else weights
    np.testing.assert_allclose(got[:, :3], 255 * mixed, atol=0.501)
    np.testing.assert_array_equal(got[:, 3], 255)
    assert surface.coloured.tolist() == [True]


def test_corner_colours_of_one_value_keep_every_level():
    levels = np.arange(256) / 255
    corners = np.ones((256, 3, 4), np.float32)
    corners[..., :3] = levels[:, None, None]
    for is_linear, expected in ((False, levels), (True, to_srgb(levels))):
        triangles = np.repeat(TRIANGLE, 256, axis=0)
        part = Part(triangles, colours=corners, colours_are_linear=is_linear)
        got = colours_at(surface_of(part), np.arange(256), weights=np.full((256, 3), 1 / 3))
        np.testing.assert_array_equal(got[:, :3], np.rint(255 * expected)[:, None].repeat(3, 1))


@pytest.mark.parametrize("is_linear", [False, True])
def test_corner_colours_multiply_the_texture_in_their_space(is_linear):
    texture = scene.plain(200 / 255, 100 / 255, 50 / 255)
    part = Part(TRIANGLE, texture=texture, colours=CORNERS, colours_are_linear=is_linear)
    weights = np.array([0.5, 0.3, 0.2])
    texel = np.array([200, 100, 50]) / 255
    product = to_srgb(to_linear(texel) * weights) if is_linear else texel * weights
    got = colour(surface_of(part), weights)
    np.testing.assert_allclose(got[:3], 255 * product, atol=0.501)


def test_parts_of_all_kinds_keep_their_colours_beside_each_other():
    texture = Texture(np.uint8([[[10, 20, 30, 255], [40, 50, 60, 255]]]))
    uv = np.full((1, 3, 2), 0.75)
    surface = surface_of(
        Part(TRIANGLE),
        Part(TRIANGLE, colours=CORNERS),
        Part(TRIANGLE, uv=uv, texture=texture),
        Part(TRIANGLE, colours=CORNERS, colours_are_linear=True),
        Part(TRIANGLE, texture=scene.plain(1, 0, 0)),
    )
    weights = [0.5, 0.5, 0]
    got = [colour(surface, weights, face=face) for face in range(5)]
    assert got[0] == [102, 102, 102, 255]
    assert got[1] == [128, 128, 0, 255]
    assert got[2] == [40, 50, 60, 255]
    assert got[3] == [188, 188, 0, 255]
    assert got[4] == [255, 0, 0, 255]
    assert surface.coloured.tolist() == [False, True, True, True, True]


def test_a_sampled_point_has_the_colour_of_its_position():
    xyz, rgb = sample(surface_of(Part(TRIANGLE, colours=CORNERS)))
    x, y = (xyz[:, :2] + 0.5).T.astype(np.float64)
    np.testing.assert_allclose(rgb, 255 * np.stack([1 - x - y, x, y], axis=1), atol=0.6)
    assert (rgb.max(axis=0) > 240).all()


def test_interpolated_alpha_leaves_a_hole():
    colours = CORNERS.copy()
    colours[0, :, 3] = [1, 0, 0]
    xyz, _ = sample(surface_of(Part(TRIANGLE, colours=colours)))
    # The weight of the first corner is the alpha: 1/2 at x + y = 1/2.
    assert (xyz[:, :2] + 0.5).sum(axis=1).max() == pytest.approx(0.5, abs=0.01)


def test_alpha_above_one_moves_the_end_of_the_hole_and_is_clipped():
    colours = CORNERS.copy()
    colours[0, :, 3] = [5, 0, 0]
    surface = surface_of(Part(TRIANGLE, colours=colours))
    assert colour(surface, [1, 0, 0])[3] == 255
    alpha = [colour(surface, [w, 1 - w, 0])[3] for w in (0.09, 0.11)]
    assert alpha[0] < HOLE_ALPHA <= alpha[1]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 7, -7])
def test_channels_outside_of_their_range_are_clipped(bad):
    colours = CORNERS.copy()
    colours[0, 0] = [bad, 0.5, 0.5, 1]
    expected = 255 if bad > 0 else 0
    assert colour(surface_of(Part(TRIANGLE, colours=colours)), [1, 0, 0])[0] == expected


@pytest.mark.parametrize(
    ("mode", "expected"),
    [(REPEAT, [1, 2, 3, 0, 1, 2]), (CLAMP, [0, 0, 3, 3, 3, 3]), (MIRROR, [2, 1, 3, 3, 2, 1])],
)
def test_wrap_modes(mode, expected):
    # Columns 0 to 3 have red values 0 to 3; rows are counted from the bottom.
    texels = np.zeros((4, 4, 4), np.uint8) + np.uint8([0, 0, 0, 255])
    texels[..., 0] = np.arange(4)
    texels[..., 1] = np.arange(4)[::-1, None]
    positions = np.array([-0.625, -0.375, 0.875, 1.125, 1.375, 1.625])
    for axis in (0, 1):
        uv = np.full((6, 3, 2), 0.375)
        uv[..., axis] = positions[:, None]
        wrap = (mode, REPEAT) if axis == 0 else (REPEAT, mode)
        part = Part(np.repeat(TRIANGLE, 6, axis=0), uv=uv, texture=Texture(texels, wrap))
        got = colours_at(surface_of(part), np.arange(6), weights=np.full((6, 3), 1 / 3))
        assert got[:, axis].tolist() == expected
        assert set(got[:, 1 - axis]) == {1}


def test_parts_share_the_texels_of_one_texture(monkeypatch):
    texels = np.random.default_rng(0).integers(0, 256, (8, 8, 4), np.uint8) | np.uint8(
        [0, 0, 0, 255]
    )
    uv = np.array([[[-0.3, 0.1]] * 3])
    parts = [Part(TRIANGLE, uv=uv, texture=Texture(texels, (w, w))) for w in (REPEAT, CLAMP)] * 20
    other = Part(TRIANGLE, texture=Texture(texels[:1, :1].copy()))
    monkeypatch.setenv(limits.TEXELS.variable, "65")
    surface = surface_of(*parts, other)
    assert len(surface.texels) == 65
    got = [colour(surface, [0.2, 0.3, 0.5], face=face) for face in (38, 39, 40)]
    assert got == [texels[7, 5].tolist(), texels[7, 0].tolist(), texels[0, 0].tolist()]
    monkeypatch.setenv(limits.TEXELS.variable, "64")
    with pytest.raises(limits.LimitError, match="too large: 65 pixels of textures"):
        surface_of(*parts, other)


HOLES = Texture(np.uint8([[[9, 8, 7, 0]]]))
HOLLOW = np.concatenate([CORNERS[..., :3], np.zeros((1, 3, 1), np.float32)], axis=2)


@pytest.mark.parametrize(
    ("part", "expected"),
    [
        (Part(TRIANGLE, texture=HOLES), [9, 8, 7, 255]),
        (Part(TRIANGLE, texture=scene.plain(1, 0, 0), opacity=0.0), [255, 0, 0, 255]),
        (Part(TRIANGLE, colours=HOLLOW), [128, 128, 0, 255]),
        (Part(TRIANGLE, colours=HOLLOW, texture=HOLES, opacity=0.0), [4, 4, 0, 255]),
    ],
)
def test_if_everything_is_invisible_it_is_opaque_with_a_note(part, expected):
    notes = []
    surface = surface_of(part, part, notes=notes)
    assert notes == [ALL_INVISIBLE]
    assert colour(surface, [0.5, 0.5, 0]) == expected
    assert surface.opacity.tolist() == [1, 1]
    assert len(sample(surface, 50)[0]) == 50
    # Beside a visible part, it stays hidden.
    notes = []
    beside = surface_of(part, Part(TRIANGLE + 2, texture=scene.plain(0, 0, 1)), notes=notes)
    assert notes == []
    assert set(map(tuple, sample(beside, 200)[1])) == {(0, 0, 255)}


@pytest.mark.parametrize(
    "place",
    [
        (1.0, [0, 0, 0]),
        (1.0, [500_000.25, 5_400_000.75, 300]),  # UTM coordinates in metres
        (1e-3, [500_000.25, 5_400_000.75, 300]),
        (1e12, [3e12, -2e12, 0]),
        (1e-12, [0, 0, 0]),
        (1e-12, [1e-6, 1e-6, 0]),
    ],
)
def test_coordinates_of_any_size_and_place_keep_shape_and_colours(place):
    scale, offset = place
    part = Part(TRIANGLE * scale + offset, colours=CORNERS)
    surface = surface_of(part)
    # The rounding of float64 at the offset, relative to the size.
    error = 4 * np.spacing(np.abs(offset).max()) / scale + 1e-6
    np.testing.assert_allclose(surface.origin, np.array([0.5, 0.5, 0]) * scale + offset, rtol=1e-12)
    assert face_areas(surface) / scale**2 == pytest.approx([0.5], rel=4 * error)
    xyz, rgb = sample(surface)
    x, y = (xyz[:, :2].astype(np.float64) / scale + 0.5).T
    np.testing.assert_allclose(
        rgb, 255 * np.stack([1 - x - y, x, y], axis=1), atol=0.6 + 500 * error
    )
    assert rgb.max() > 240


def test_a_vertex_coloured_triangle_is_rendered_in_its_interpolated_colours():
    # Facing the front camera, which looks along y with x to the right: red left, green right.
    corners = np.array([[[-1.0, 0, -1], [1, 0, -1], [0, 0, 1]]])
    front = viewpoints.angles(12)[4:5]
    views = {
        name: render.render_views(
            surface_of(Part(corners, colours=colours)), cameras=front, size=200
        )[0]
        for name, colours in (("coloured", CORNERS), ("white", np.ones_like(CORNERS)))
    }
    # The light does not depend on the colour, so the quotient is the colour.
    seen = views["coloured"].astype(float) / views["white"] * 255
    rows, columns = np.nonzero(views["white"][..., 0] < 255)
    top, bottom, left, right = rows.min(), rows.max() + 1, columns.min(), columns.max() + 1
    for x, z in ((-0.5, -0.8), (0.5, -0.8), (0.0, 0.5), (0.0, -0.3), (0.2, -0.5)):
        row = int(bottom - (z + 1) / 2 * (bottom - top))
        column = int(left + (x + 1) / 2 * (right - left))
        blue = (z + 1) / 2
        green = (x + 1 - blue) / 2
        expected = 255 * np.array([1 - blue - green, green, blue])
        np.testing.assert_allclose(seen[row, column], expected, atol=6)


def test_coordinates_that_are_not_finite_are_refused():
    with pytest.raises(MeshError, match="non-finite coordinates"):
        surface_of(Part(TRIANGLE * np.nan))
