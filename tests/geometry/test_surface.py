# SPDX-License-Identifier: Apache-2.0
"""Surfaces: centring in float64, colours of points, wrap modes, and invisible files."""

import numpy as np
import pytest

from data_prep.geometry import colour_spaces, surface
from data_prep.geometry.scene import CLAMP, MIRROR, REPEAT, MeshError, Part, Texture, plain

TRIANGLE = np.array([[[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]])
CENTRE = np.full((1, 3), 1 / 3)
# Rows from the top: red and green above blue and white.
FOUR = np.array([[[255, 0, 0], [0, 255, 0]], [[0, 0, 255], [255, 255, 255]]], np.uint8)
FOUR = np.concatenate([FOUR, np.full((2, 2, 1), 255, np.uint8)], axis=2)


def join(*parts, notes=None, **options):
    return surface.join(parts, fill=0.4, notes=[] if notes is None else notes, **options)


def colour(joined, weights, face=0):
    return surface.colours_at(joined, np.array([face]), weights=np.array([weights]))[0].tolist()


@pytest.mark.parametrize("scale", [1e-12, 1, 1e12])
@pytest.mark.parametrize("place", [0, 1e6])
def test_corners_are_exact_far_from_the_origin_and_at_any_scale(scale, place):
    triangles = (TRIANGLE * [1, 2, 3] + [place, -place, place / 2]) * scale
    joined = join(Part(triangles))
    error = np.abs(joined.triangles + joined.origin - triangles).max()
    # float32 of numbers below 1, and float64 of the place.
    assert error <= scale * (2**-24 + 3 * place * 2**-52)
    assert surface.face_areas(joined)[0] == pytest.approx(scale**2, rel=1e-6)


def test_origin_is_the_centre_of_the_box_and_turns_with_the_surface():
    joined = join(Part(TRIANGLE + [10, 20, 30]))
    assert joined.origin.tolist() == [10.5, 20.5, 30]
    upright = surface.rotate_upright(joined)
    assert upright.origin.tolist() == [10.5, -30, 20.5]
    rotated = join(Part(TRIANGLE + [10, 20, 30]), rotation=surface.Y_UP_TO_Z_UP)
    np.testing.assert_allclose(upright.triangles, rotated.triangles, atol=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e300])
def test_coordinates_that_are_not_finite_are_an_error(bad):
    triangles = TRIANGLE.copy()
    triangles[0, 0, 0] = bad
    with pytest.raises(MeshError, match="non-finite coordinates"):
        join(Part(triangles))


def test_srgb_colours_of_corners_are_mixed_as_they_are():
    joined = join(Part(TRIANGLE, colours=np.eye(4, dtype=np.float32)[None, :3] + [0, 0, 0, 1]))
    assert colour(joined, CENTRE[0]) == [85, 85, 85, 255]
    assert colour(joined, [1, 0, 0]) == [255, 0, 0, 255]
    assert colour(joined, [0.5, 0.5, 0]) == [128, 128, 0, 255]


def test_linear_colours_of_corners_are_mixed_and_multiplied_as_linear():
    colours = np.ones((1, 3, 4), np.float32)
    colours[0, 0, :3], colours[0, 1:, :3] = 1, 0
    half = plain(*colour_spaces.to_srgb(np.full(3, 0.5)))
    joined = join(Part(TRIANGLE, texture=half, colours=colours, colours_are_linear=True))
    # A third of a half: the sRGB level of the linear value 1/6 is 255 (1.055 / 6^(1/2.4) - 0.055).
    level = round(255 * (1.055 * (1 / 6) ** (1 / 2.4) - 0.055))
    assert colour(joined, CENTRE[0])[:3] == pytest.approx([level] * 3, abs=1)


def test_every_level_survives_the_conversion_to_linear_and_back():
    levels = np.arange(256, dtype=np.uint8)
    again = np.rint(255 * colour_spaces.to_srgb(colour_spaces.to_linear(levels)))
    np.testing.assert_array_equal(again, levels)
    assert colour_spaces.to_linear(np.uint8(188)) == pytest.approx(0.5029, abs=1e-4)


def test_parts_keep_their_own_kind_of_colour():
    red = np.tile(np.float32([1, 0, 0, 1]), (1, 3, 1))
    joined = join(
        Part(TRIANGLE, texture=plain(0, 1, 0)),
        Part(TRIANGLE + 1, colours=red),
        Part(TRIANGLE + 2),
        Part(TRIANGLE + 3, colours=red / 2, colours_are_linear=True),
    )
    found = [colour(joined, CENTRE[0], face)[:3] for face in range(4)]
    assert found == [[0, 255, 0], [255, 0, 0], [102, 102, 102], [188, 0, 0]]
    assert joined.coloured.tolist() == [True, True, False, True]


@pytest.mark.parametrize(
    ("wrap", "u", "column"),
    [
        (REPEAT, 1.25, 0), (REPEAT, -0.25, 1), (REPEAT, 2.75, 1),
        (CLAMP, 1.25, 1), (CLAMP, -3, 0), (CLAMP, 0.25, 0),
        (MIRROR, 1.25, 1), (MIRROR, 1.75, 0), (MIRROR, -0.25, 0), (MIRROR, 2.25, 0),
    ],
)  # fmt: skip
def test_texture_continues_by_its_wrap_mode(wrap, u, column):
    uv = np.tile([u, 0.75], (1, 3, 1))
    joined = join(Part(TRIANGLE, uv=uv, texture=Texture(FOUR, (wrap, REPEAT))))
    assert colour(joined, CENTRE[0]) == FOUR[0, column].tolist()
    transposed = join(Part(TRIANGLE, uv=uv[..., ::-1], texture=Texture(FOUR, (REPEAT, wrap))))
    assert colour(transposed, CENTRE[0]) == FOUR[1 - column, 1].tolist()


def invisible_parts():
    holes = Texture(np.array([[[255, 0, 0, 0]]], np.uint8))
    colours = np.tile(np.float32([1, 0, 0, 0]), (1, 3, 1))
    return {
        "opacity": Part(TRIANGLE, texture=plain(1, 0, 0), opacity=0.0),
        "texture": Part(TRIANGLE, texture=holes),
        "colours": Part(TRIANGLE, colours=colours),
    }


@pytest.mark.parametrize("kind", ["opacity", "texture", "colours"])
def test_file_of_which_everything_is_invisible_is_taken_as_opaque(kind):
    notes = []
    joined = join(invisible_parts()[kind], notes=notes)
    assert notes == [surface.ALL_INVISIBLE]
    _, rgb = surface.sample_points(joined, points=50, rng=np.random.default_rng(0))
    assert (rgb == [255, 0, 0]).all()


@pytest.mark.parametrize("kind", ["opacity", "texture", "colours"])
def test_invisible_part_beside_a_visible_one_is_never_sampled(kind):
    notes = []
    joined = join(invisible_parts()[kind], Part(TRIANGLE + 5, texture=plain(0, 0, 1)), notes=notes)
    assert notes == []
    _, rgb = surface.sample_points(joined, points=200, rng=np.random.default_rng(0))
    assert (rgb == [0, 0, 255]).all()


def test_surface_of_which_almost_nothing_is_visible_is_an_error():
    texels = np.zeros((100, 100, 4), np.uint8)
    texels[0, :20] = 255  # one five hundredth
    uv = np.array([[[0.0, 0], [1, 0], [0, 1]], [[1.0, 1], [0, 1], [1, 0]]])
    triangles = np.concatenate([TRIANGLE, np.array([[[1.0, 1, 0], [0, 1, 0], [1, 0, 0]]])])
    joined = join(Part(triangles, uv=uv, texture=Texture(texels)))
    with pytest.raises(MeshError, match="its textures leave less than 3% of it"):
        surface.sample_points(joined, points=1000, rng=np.random.default_rng(0))
