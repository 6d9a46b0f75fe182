# SPDX-License-Identifier: Apache-2.0
"""Surfaces: joined and centred in float64, coloured by texels and corners, and sampled."""

import numpy as np
import pytest
import tiny_catalogue
import trimesh

from data_prep.foreign import limits
from data_prep.geometry import surface as surfaces
from data_prep.geometry.scene import CLAMP, MIRROR, REPEAT, MeshError, Part, Texture, plain

TRIANGLE = np.array([[[0.0, 0, 0], [1, 0, 0], [0, 2, 0]]])
CENTRE = np.full((1, 3), 1 / 3)
R, G, B, W = (255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255), (255, 255, 255, 255)
FOUR = np.array([[R, G], [B, W]], np.uint8)
INVISIBLE = "everything is invisible, taken as opaque"


def join(*parts, **options):
    """Joins parts; returns the surface and the notes."""
    notes = []
    return surfaces.join(parts, fill=0.4, notes=notes, **options), notes


def colours_of_corners(*colours, linear=False, **options):
    """Returns a triangle with colours [3, 3 or 4] of its corners."""
    rgba = np.ones((1, 3, 4), np.float32)
    rgba[0, :, : len(colours[0])] = colours
    return Part(TRIANGLE, colours=rgba, colours_are_linear=linear, **options)


def at(surface, weights=CENTRE, face=0):
    """Returns the colours of a face at barycentric coordinates."""
    faces = np.full(len(weights), face)
    return surfaces.colours_at(surface, faces, weights=np.asarray(weights)).tolist()


def at_uv(u, v, wrap=(REPEAT, REPEAT), texels=FOUR):
    """Returns the colour of a texture at one coordinate."""
    part = Part(TRIANGLE, uv=np.tile([u, v], (1, 3, 1)), texture=Texture(texels, wrap))
    return tuple(at(join(part)[0])[0])


# Origin and precision.

CUBE = trimesh.creation.box((1, 2, 3)).triangles
PLACES = {
    "origin": (1, (0, 0, 0)),
    "UTM": (1, (448_262.3, 5_411_932.7, 312.4)),
    "Earth-centred": (1, (4_201_000.5, 172_460.25, 4_780_100.75)),
    "millimetres in UTM": (1e-3, (448_262.3, 5_411_932.7, 312.4)),
    "1e12": (1e12, (0, 0, 0)),
    "1e12, far": (1e12, (5e14, -3e14, 1e14)),
    "1e-12": (1e-12, (0, 0, 0)),
    "1e-12, far": (1e-12, (5e-10, -3e-10, 1e-10)),
    "1e30": (1e30, (0, 0, 0)),
    "1e-30": (1e-30, (0, 0, 0)),
}


@pytest.mark.parametrize("place", PLACES)
def test_triangles_keep_their_shape_at_any_scale_and_far_from_the_origin(place):
    scale, centre = PLACES[place]
    surface, notes = join(Part(CUBE * scale + centre))
    np.testing.assert_allclose(surface.origin, centre, rtol=1e-9, atol=1e-9 * scale)
    # Rounding is that of float64 at the size of the coordinates, or of float32 at that of the cube.
    tolerance = scale * 2e-7 + np.abs(centre).max() * 3e-16
    np.testing.assert_allclose(surface.triangles, CUBE * scale, rtol=0, atol=tolerance)
    assert surface.triangles.dtype == np.float32
    assert notes == []


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1, 1e6, 1e12])
def test_points_are_sampled_at_any_scale(scale):
    surface, _ = join(Part(CUBE * scale))
    xyz, _ = surfaces.sample_points(surface, points=5000, rng=np.random.default_rng(0))
    np.testing.assert_allclose(np.ptp(xyz, axis=0) / scale, [1, 2, 3], rtol=1e-2)
    assert surfaces.face_areas(surface).sum() == pytest.approx(22 * scale**2)


def test_the_origin_is_the_centre_of_the_box_of_all_parts():
    surface, _ = join(Part(TRIANGLE + [10, 0, 0]), Part(TRIANGLE + [0, 0, 4]))
    np.testing.assert_array_equal(surface.origin, [5.5, 1, 2])
    np.testing.assert_array_equal(surface.part, [0, 1])
    np.testing.assert_array_equal(surface.triangles[0] + surface.origin, TRIANGLE[0] + [10, 0, 0])


def test_a_rotation_applies_before_the_origin_is_chosen():
    far = TRIANGLE + [0, 5_000_000.25, 0]
    surface, _ = join(Part(far), rotation=surfaces.Y_UP_TO_Z_UP)
    # y becomes z, and z becomes -y.
    np.testing.assert_array_equal(surface.origin, [0.5, 0, 5_000_001.25])
    np.testing.assert_array_equal(surface.triangles[0, 2], [-0.5, 0, 1])


def test_upright_surfaces_are_those_that_were_joined_with_the_rotation():
    part = Part(CUBE + [100.5, 200.25, 300])
    late = surfaces.rotate_upright(join(part)[0])
    early, _ = join(part, rotation=surfaces.Y_UP_TO_Z_UP)
    np.testing.assert_array_equal(late.triangles, early.triangles)
    np.testing.assert_array_equal(late.origin, early.origin)


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e39, 1e308])
def test_coordinates_beyond_float32_are_an_error(value):
    with pytest.raises(MeshError, match="^non-finite coordinates$"):
        join(Part(np.where(TRIANGLE == 2, value, TRIANGLE)))


# Colours of parts.


def test_a_part_without_colours_has_the_fill():
    surface, _ = join(Part(TRIANGLE), Part(TRIANGLE, texture=plain(1, 0.2, 0)))
    assert at(surface, face=0) == [[102, 102, 102, 255]]
    assert at(surface, face=1) == [[255, 51, 0, 255]]
    assert surface.coloured.tolist() == [False, True]
    assert surface.corner_colours is None


def test_parts_with_and_without_colours_of_corners_keep_their_own():
    surface, _ = join(
        Part(TRIANGLE),
        colours_of_corners(*[(0, 1, 0)] * 3),
        Part(TRIANGLE, texture=plain(1, 0, 0)),
        colours_of_corners(*[(0.5, 1, 1)] * 3, texture=plain(1, 0.2, 0)),
        colours_of_corners(*[(0.5, 1, 1)] * 3, texture=plain(1, 0.2, 0), linear=True),
    )
    got = [at(surface, face=face)[0][:3] for face in range(5)]
    # 0.5 in linear light is 188 of 255.
    assert got == [[102] * 3, [0, 255, 0], [255, 0, 0], [128, 51, 0], [188, 51, 0]]
    assert surface.tint.tolist() == [0, 1, 0, 1, 2]
    assert surface.coloured.tolist() == [False, True, True, True, True]


def test_colours_of_faces_in_one_call_are_those_of_single_calls():
    surface, _ = join(
        colours_of_corners((1, 0, 0), (0, 1, 0), (0, 0, 1), linear=True),
        Part(TRIANGLE, uv=np.array([[[0, 0], [1, 0], [0, 1]]]), texture=Texture(FOUR)),
        colours_of_corners((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    )
    rng = np.random.default_rng(0)
    faces, weights = rng.integers(0, 3, 60), rng.dirichlet(np.ones(3), 60)
    together = surfaces.colours_at(surface, faces, weights=weights)
    for face, weight, rgba in zip(faces, weights, together.tolist(), strict=True):
        assert at(surface, weight[None], face=face) == [rgba]


@pytest.mark.parametrize(
    ("linear", "half", "quarter"), [(False, 128, 64), (True, 188, 137)], ids=["sRGB", "linear"]
)
def test_colours_of_corners_are_interpolated_in_their_own_space(linear, half, quarter):
    part = colours_of_corners((1, 1, 1), (0, 0, 0), (0, 0, 0), linear=linear)
    weights = [[1, 0, 0], [0.5, 0.5, 0], [0.25, 0.5, 0.25], [0, 1, 0]]
    # The sRGB curve gives 0.7354 for 1/2 and 0.5371 for 1/4.
    got = [rgba[0] for rgba in at(join(part)[0], weights)]
    assert got == [255, half, quarter, 0]


@pytest.mark.parametrize(
    ("linear", "want"), [(False, [100, 50, 0]), (True, [146, 71, 0])], ids=["sRGB", "linear"]
)
def test_colours_of_corners_multiply_the_texel_in_their_own_space(linear, want):
    texels = np.array([[(200, 100, 0, 255)]], np.uint8)
    part = colours_of_corners(*[(0.5, 0.5, 0.5)] * 3, linear=linear, texture=Texture(texels))
    # By hand: 200 is 0.5776 in linear light, and 0.2888 is 146; 100 is 0.1274, and 0.0637 is 71.
    assert at(join(part)[0])[0][:3] == want


def test_alpha_of_corners_is_interpolated_and_multiplies_that_of_the_texel():
    texels = np.array([[(200, 100, 0, 200)]], np.uint8)
    part = colours_of_corners(*[(1, 1, 1, a) for a in (1, 0.5, 2)], texture=Texture(texels))
    assert [rgba[3] for rgba in at(join(part)[0], np.eye(3))] == [200, 100, 255]


def test_colours_beyond_their_range_are_clipped_and_nan_is_black():
    part = colours_of_corners(*[(1.5, -1, np.nan)] * 3)
    assert at(join(part)[0]) == [[255, 0, 0, 255]]


# Texture coordinates.


@pytest.mark.parametrize(
    ("u", "v", "want"), [(0.1, 0.9, R), (0.9, 0.9, G), (0.1, 0.1, B), (0.9, 0.1, W)]
)
def test_the_origin_of_texture_coordinates_is_the_lower_left(u, v, want):
    assert at_uv(u, v) == want


@pytest.mark.parametrize(
    ("wrap", "by_u"),
    [
        # Columns at u of -1.2, -0.8, -0.2, 0.2, 0.8, 1.2, 1.8, 2.2: 0 is red, 1 is green.
        pytest.param(REPEAT, (1, 0, 1, 0, 1, 0, 1, 0), id="repeat"),
        pytest.param(CLAMP, (0, 0, 0, 0, 1, 1, 1, 1), id="clamp"),
        pytest.param(MIRROR, (1, 1, 0, 0, 1, 1, 0, 0), id="mirror"),
    ],
)
def test_wrap_modes_of_u_and_of_v(wrap, by_u):
    values = (-1.2, -0.8, -0.2, 0.2, 0.8, 1.2, 1.8, 2.2)
    row = np.array([[R, G]], np.uint8)
    for value, column in zip(values, by_u, strict=True):
        assert at_uv(value, 0.5, (wrap, REPEAT), row) == (R, G)[column]
        # v counts from below: the first column becomes the lower row.
        assert at_uv(0.5, value, (REPEAT, wrap), row.transpose(1, 0, 2)[::-1]) == (R, G)[column]


@pytest.mark.parametrize("wrap", [REPEAT, CLAMP, MIRROR])
@pytest.mark.parametrize("value", [0.0, 1.0, -1.0, 2.0, -1e-9, 1e9, -1e30])
def test_every_coordinate_has_a_texel(wrap, value):
    assert at_uv(value, value, (wrap, wrap)) in (R, G, B, W)


def test_a_clamped_part_leaves_a_repeated_one_alone():
    uv = np.tile([1.2, 0.5], (1, 3, 1))
    row = np.array([[R, G]], np.uint8)
    surface, _ = join(
        Part(TRIANGLE, uv=uv, texture=Texture(row)),
        Part(TRIANGLE, uv=uv, texture=Texture(row, (CLAMP, CLAMP))),
    )
    assert [tuple(at(surface, face=face)[0]) for face in (0, 1)] == [R, G]


def test_coordinates_that_are_not_finite_are_noted_and_taken_as_0():
    uv = np.array([[[np.nan, 0], [np.inf, 0], [1e300, 0]]])
    surface, notes = join(Part(TRIANGLE, uv=uv, texture=Texture(FOUR)))
    assert at(surface) == [list(B)]
    assert notes == ["texture coordinates that are not finite, taken as 0"]


def test_parts_with_the_same_texels_share_them():
    uv = np.zeros((1, 3, 2))
    texture = Texture(FOUR)
    surface, _ = join(*[Part(TRIANGLE, uv=uv, texture=texture)] * 3)
    assert len(surface.texels) == 4
    assert surface.offset.tolist() == [0, 0, 0]


# Visibility.


def clear(alpha):
    """Returns a texture of one texel with an alpha."""
    return Texture(np.array([[(200, 100, 0, alpha)]], np.uint8))


HIDDEN = {
    "opacity": [Part(TRIANGLE, texture=plain(1, 0, 0), opacity=0)],
    "opacity of 1%": [Part(TRIANGLE, texture=plain(1, 0, 0), opacity=0.01)],
    "texels": [Part(TRIANGLE, texture=clear(0))],
    "texels of alpha 127": [Part(TRIANGLE, texture=clear(127))],
    "corners": [colours_of_corners(*[(1, 0, 0, 0)] * 3)],
    "corners and opacity": [colours_of_corners(*[(1, 0, 0, 0)] * 3), Part(TRIANGLE, opacity=0)],
    "texels times corners": [colours_of_corners(*[(1, 0, 0, 0.6)] * 3, texture=clear(200))],
    "all but faces without area": [Part(TRIANGLE, texture=clear(0)), Part(TRIANGLE * 0)],
}


@pytest.mark.parametrize("case", HIDDEN)
def test_a_surface_of_which_nothing_is_visible_is_taken_as_opaque(case):
    surface, notes = join(*HIDDEN[case])
    assert notes == [INVISIBLE]
    xyz, rgb = surfaces.sample_points(surface, points=100, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(xyz.shape, (100, 3))
    assert at(surface)[0][3] == 255
    got = {tuple(row) for row in rgb.tolist()}
    visible = [face for face, area in enumerate(surfaces.face_areas(surface)) if area]
    assert got == {tuple(at(surface, face=face)[0][:3]) for face in visible}


VISIBLE = {
    "opacity of 2%": [Part(TRIANGLE, texture=plain(1, 0, 0), opacity=0.03)],
    "texels of alpha 128": [Part(TRIANGLE, texture=clear(128))],
    "one part": [Part(TRIANGLE, opacity=0), Part(TRIANGLE)],
    "texels times corners": [colours_of_corners(*[(1, 0, 0, 0.6)] * 3, texture=clear(255))],
    "one corner": [colours_of_corners((1, 0, 0, 1), (1, 0, 0, 0), (1, 0, 0, 0))],
}


@pytest.mark.parametrize("case", VISIBLE)
def test_a_surface_of_which_something_is_visible_keeps_its_holes(case):
    surface, notes = join(*VISIBLE[case])
    assert notes == []
    want = [part.opacity for part in VISIBLE[case]]
    np.testing.assert_allclose(surface.opacity, want)


def test_no_point_lies_on_a_hidden_part_or_in_a_hole():
    texels = np.array([[(255, 0, 0, 255), (9, 9, 9, 0)]], np.uint8)
    uv = np.array([[[0, 0], [1, 0], [0, 1]]])
    hidden = Part(TRIANGLE + [5, 0, 0], opacity=0, texture=plain(0, 0, 1))
    surface, _ = join(Part(TRIANGLE, uv=uv, texture=Texture(texels)), hidden)
    xyz, rgb = surfaces.sample_points(surface, points=1000, rng=np.random.default_rng(0))
    assert (xyz + surface.origin)[:, 0].max() <= 0.5
    assert (rgb == (255, 0, 0)).all()


def test_a_surface_without_area_cannot_be_sampled():
    surface, notes = join(Part(TRIANGLE * [1, 0, 0]))
    assert notes == []
    with pytest.raises(MeshError, match="^no visible area$"):
        surfaces.sample_points(surface, points=10, rng=np.random.default_rng(0))


def test_a_surface_of_very_few_visible_texels_is_refused_and_not_searched_for_ever():
    texels = np.zeros((64, 64, 4), np.uint8)
    texels[0, :20] = 255
    uv = np.array([[[0, 0], [1, 0], [0, 1]]])
    surface, notes = join(Part(TRIANGLE, uv=uv, texture=Texture(texels)))
    assert notes == []
    with pytest.raises(MeshError, match="less than 3% of it"):
        surfaces.sample_points(surface, points=1000, rng=np.random.default_rng(0))


# Sampling.


def test_points_are_uniform_by_area():
    surface, _ = join(Part(TRIANGLE * 2), Part(TRIANGLE + [10, 0, 0]))
    xyz, _ = surfaces.sample_points(surface, points=20_000, rng=np.random.default_rng(0))
    xyz = xyz + surface.origin
    first = xyz[:, 0] < 5
    # Areas 4 and 1; the mean of a uniform triangle is its centroid.
    assert first.mean() == pytest.approx(0.8, abs=0.01)
    np.testing.assert_allclose(xyz[first].mean(axis=0), [2 / 3, 4 / 3, 0], atol=0.03)


def test_points_depend_on_the_seed_only():
    surface, _ = join(Part(CUBE))

    def sample(seed):
        return surfaces.sample_points(surface, points=50, rng=np.random.default_rng(seed))[0]

    np.testing.assert_array_equal(sample(0), sample(0))
    assert not np.array_equal(sample(0), sample(1))


def test_sampled_colours_of_a_black_and_white_triangle_are_spread():
    surface, _ = join(colours_of_corners((1, 1, 1), (0, 0, 0), (0, 0, 0)))
    _, rgb = surfaces.sample_points(surface, points=20_000, rng=np.random.default_rng(0))
    # A barycentric coordinate of a uniform point has mean 1/3 and variance 1/18.
    np.testing.assert_allclose(rgb.mean(axis=0), 255 / 3, atol=2)
    np.testing.assert_allclose(rgb.std(axis=0), 255 * np.sqrt(1 / 18), atol=2)


# Limits.


@pytest.mark.parametrize(
    ("limit", "maximum", "message"),
    [
        (limits.FACES, 23, "24 faces"),
        (limits.PARTS, 1, "2 parts"),
        (limits.TEXELS, 4, "5 pixels of textures"),
    ],
)
def test_sizes_are_limited(limit, maximum, message, monkeypatch):
    monkeypatch.setenv(limit.variable, str(maximum))
    uv = np.zeros((12, 3, 2))
    parts = [Part(CUBE, uv=uv, texture=Texture(FOUR)), Part(CUBE, texture=plain(1, 0, 0))]
    with pytest.raises(limits.LimitError, match=f"^too large: {message}"):
        join(*parts)


def test_a_mesh_far_from_the_origin_is_read_as_one_at_the_origin():
    near = "v 0 0 0\nv 0.001 0 0\nv 0 0.002 0\nf 1 2 3\n"
    far = "v 448262.3 5411932.7 312.4\nv 448262.301 5411932.7 312.4\nv 448262.3 5411932.702 312.4\n"
    contents = [
        tiny_catalogue.content({"a.obj": text}, "a.obj") for text in (near, far + "f 1 2 3\n")
    ]
    # Coordinates of seven digits have steps of 1e-9 in float64.
    triangles = [content.surface.triangles for content in contents]
    np.testing.assert_allclose(*triangles, atol=2e-9)
