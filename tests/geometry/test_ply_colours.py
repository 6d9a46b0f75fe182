# SPDX-License-Identifier: Apache-2.0
"""PLY: every form of colours, and Gaussian splats."""

import numpy as np
import ply_files
import pytest
from loading import colours, load
from ply_files import CORNERS, FACES, XYZ, cloud, ply

from data_prep.geometry import surface as surfaces

FORMS = list(ply_files.FORMATS)
RGB = ("red", "green", "blue")
# A colour of which every channel differs, as integers of 8 bits.
ORANGE = (255, 102, 51)
FACE_IGNORED = "face colours beside vertex colours, ignored"
VERTEX_IGNORED = "uniform vertex colours beside face colours, ignored"


def columns(kind, values, names=RGB):
    """Returns the columns of a colour for `ply_files.cloud`."""
    return [(kind, name, value) for name, value in zip(names, values, strict=True)]


def check(content, want=ORANGE, *, atol=0.51, notes=()):
    """Checks that all points have a colour."""
    np.testing.assert_allclose(colours(content), [want] * len(content.xyz), atol=atol)
    assert content.notes == notes


def at_corners(content, face=0):
    """Returns the RGBA at the corners of a face."""
    found = surfaces.colours_at(content.surface, np.full(3, face), weights=np.eye(3))
    return [tuple(row) for row in found.tolist()]


# Clouds.


@pytest.mark.parametrize(
    ("kind", "full"),
    [
        ("uchar", 255),
        ("uint8", 255),
        ("ushort", 65535),
        ("uint16", 255),
        ("int", 255),
        ("uint", 255),
        ("short", 255),
        ("int", 65535),
        ("float", 1),
        ("float", 255),
        ("float", 65535),
        ("double", 1),
        ("double", 255),
    ],
)
@pytest.mark.parametrize("form", FORMS)
def test_colours_of_every_type_and_range(form, kind, full):
    values = np.array(ORANGE) / 255 * full
    values = values.round().astype(int).tolist() if kind not in ("float", "double") else values
    check(load(cloud(columns(kind, values), form=form), "ply"))


@pytest.mark.parametrize("form", FORMS)
def test_signed_bytes_are_taken_as_unsigned(form):
    signed = np.array(ORANGE, np.uint8).view(np.int8).tolist()
    assert min(signed) < 0
    check(load(cloud(columns("char", signed), form=form), "ply"))


@pytest.mark.parametrize(
    "names",
    [
        RGB,
        ("Red", "Green", "Blue"),
        ("r", "g", "b"),
        ("diffuse_red", "diffuse_green", "diffuse_blue"),
        ("diffuse_r", "diffuse_g", "diffuse_b"),
        ("vertex_red", "vertex_green", "vertex_blue"),
        ("color_red", "color_green", "color_blue"),
        ("scalar_red", "scalar_green", "scalar_blue"),
        ("ambient_red", "ambient_green", "ambient_blue"),
    ],
)
@pytest.mark.parametrize(("kind", "full"), [("uchar", 255), ("float", 1)])
def test_names_of_colours(names, kind, full):
    values = [value / 255 * full if full == 1 else value for value in ORANGE]
    check(load(cloud(columns(kind, values, names)), "ply"))


def test_the_colour_of_the_best_name_counts():
    ambient = columns("uchar", (1, 2, 3), ("ambient_red", "ambient_green", "ambient_blue"))
    diffuse = columns("uchar", ORANGE, ("diffuse_red", "diffuse_green", "diffuse_blue"))
    check(load(cloud([*ambient, *diffuse]), "ply"))


def test_colours_in_the_order_blue_green_red():
    check(load(cloud(columns("uchar", ORANGE[::-1], RGB[::-1])), "ply"))


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_floats_of_0_and_1_only_are_black_and_white(value):
    check(load(cloud(columns("float", [value] * 3)), "ply"), (255 * value,) * 3)


def test_integers_of_0_and_1_are_almost_black():
    check(load(cloud(columns("uchar", (0, 1, 1))), "ply"), (0, 1, 1))


def test_floats_slightly_above_1_are_clipped():
    check(load(cloud(columns("float", (1.02, 0.4, 0.2))), "ply"))


def test_colours_that_are_not_finite_are_black_and_noted():
    values = [[np.nan, *[1.0] * 7], 0.4, 0.2]
    content = load(cloud(columns("float", values)), "ply")
    np.testing.assert_allclose(colours(content)[:2], [(0, 102, 51), ORANGE], atol=0.51)
    assert content.notes == ("colours that are not finite, taken as black",)


@pytest.mark.parametrize("values", [(-1, 0, 1), (1e6, 0, 0)])
def test_colours_of_an_unknown_range_are_noted_and_ignored(values):
    content = load(cloud(columns("float", values)), "ply")
    assert content.rgb is None
    assert content.notes == ("colours of an unknown range, ignored",)


@pytest.mark.parametrize("names", [["red"], ["red", "green"], ["red", "greeb", "blue"]])
def test_an_incomplete_colour_is_noted_and_ignored(names):
    content = load(cloud([("uchar", name, 200) for name in names]), "ply")
    assert (content.rgb, content.notes) == (None, ("colours that lack a channel, ignored",))


@pytest.mark.parametrize("name", ["intensity", "scalar_Intensity", "gray", "reflectance"])
def test_intensity_is_no_colour_and_noted(name):
    content = load(cloud([("float", name, 0.5)]), "ply")
    assert content.rgb is None
    assert content.notes == ("intensity is no colour, ignored",)
    check(load(cloud([("float", name, 0.5), *columns("uchar", ORANGE)]), "ply"))


def test_alpha_and_normals_of_a_cloud_have_no_effect():
    more = [("uchar", "alpha", 0), *columns("float", (0, 0, 1), ("nx", "ny", "nz"))]
    check(load(cloud([*columns("uchar", ORANGE), *more]), "ply"))


# Gaussian splats.

HARMONIC = 0.5 / np.pi**0.5  # the constant spherical harmonic


def splats(opacity, values=ORANGE):
    coefficients = (np.array(values) / 255 - 0.5) / HARMONIC
    names = ("f_dc_0", "f_dc_1", "f_dc_2")
    rest = [("float", name, 0.1) for name in ("f_rest_0", "scale_0", "rot_0")]
    return cloud([*columns("float", coefficients, names), ("float", "opacity", opacity), *rest])


def test_splats_have_the_colour_of_their_constant_term():
    check(load(splats(3.0), "ply"))


def test_colours_of_splats_are_clipped():
    check(load(splats(3.0, (400, 102, -50)), "ply"), (255, 102, 0))


def test_invisible_splats_are_dropped_and_counted():
    # An opacity of 2% has the logit -3.89.
    opacity = [3.0, -3.8, -4.0, -20.0, 0.0, float("nan"), 1.0, 1.0]
    content = load(splats(opacity), "ply")
    assert len(content.xyz) == len(content.rgb) == 5
    check(content, notes=("invisible Gaussian splats, dropped: 3",))


def test_splats_that_are_all_invisible_are_kept():
    check(load(splats(-20.0), "ply"))


def test_stated_colours_win_over_splats():
    names = ("f_dc_0", "f_dc_1", "f_dc_2")
    data = cloud([*columns("float", (9, 9, 9), names), *columns("uchar", ORANGE)])
    check(load(data, "ply"))


# Meshes.

TRIANGLES = [([0, 1, 2],), ([0, 2, 3],)]
COLOURED = (*XYZ, *(("uchar", name) for name in RGB))


def mesh(vertex_colours=None, face_colours=None, *, form="ascii", alpha=False, kind="uchar"):
    """Returns two triangles with colours [5, n] of the vertices or [2, n] of the faces."""
    names = [*RGB, "alpha"] if alpha else RGB
    more = tuple((kind, name) for name in names)
    rows, sides = CORNERS, TRIANGLES
    if vertex_colours is not None:
        rows = [(*p, *c) for p, c in zip(CORNERS, vertex_colours, strict=True)]
    if face_colours is not None:
        sides = [(*f, *c) for f, c in zip(TRIANGLES, face_colours, strict=True)]
    vertex = ("vertex", XYZ + more * (vertex_colours is not None), rows)
    face = ("face", FACES + more * (face_colours is not None), sides)
    return ply(vertex, face, form=form)


DIFFERENT = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (1, 2, 3), (4, 5, 6)]
TWO = [(200, 0, 0), (0, 200, 0)]


@pytest.mark.parametrize("form", FORMS)
def test_colours_of_vertices_are_interpolated_in_srgb(form):
    content = load(mesh(DIFFERENT, form=form), "ply")
    assert at_corners(content) == [(*rgb, 255) for rgb in DIFFERENT[:3]]
    mixed = surfaces.colours_at(content.surface, np.array([0]), weights=np.array([[0.5, 0.5, 0]]))
    np.testing.assert_allclose(mixed, [(127.5, 127.5, 0, 255)], atol=0.5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("kind", "full"), [("uchar", 255), ("ushort", 65535), ("float", 1)])
def test_colours_of_faces(form, kind, full):
    cast = float if full == 1 else round
    rows = [tuple(cast(value / 255 * full) for value in rgb) for rgb in TWO]
    if kind == "ushort":
        rows[1] = (0, full, 0)
    content = load(mesh(face_colours=rows, form=form, kind=kind), "ply")
    want = [(200, 0, 0, 255), (0, 255 if kind == "ushort" else 200, 0, 255)]
    assert [at_corners(content, face) for face in (0, 1)] == [[rgba] * 3 for rgba in want]
    assert content.notes == ()


def test_colours_of_faces_belong_to_all_triangles_of_a_polygon():
    quad = ("face", (*FACES, *(("uchar", n) for n in RGB)), [([0, 1, 2, 3], *ORANGE)])
    content = load(ply(("vertex", XYZ, CORNERS), quad), "ply")
    assert {rgba[:3] for face in (0, 1) for rgba in at_corners(content, face)} == {ORANGE}


def test_alpha_of_vertices_makes_holes():
    rows = [(*ORANGE, 0), (*ORANGE, 0), (*ORANGE, 0), (*ORANGE, 255), (*ORANGE, 255)]
    content = load(mesh(rows, alpha=True), "ply")
    assert [rgba[3] for rgba in at_corners(content, 1)] == [0, 0, 255]


def test_alpha_of_0_everywhere_is_taken_as_opaque():
    content = load(mesh([(*ORANGE, 0)] * 5, alpha=True), "ply")
    assert at_corners(content) == [(*ORANGE, 255)] * 3
    assert content.notes == ("everything is invisible, taken as opaque",)


def test_colours_of_vertices_win_over_those_of_faces():
    content = load(mesh(DIFFERENT, TWO), "ply")
    assert at_corners(content)[0] == (255, 0, 0, 255)
    assert content.notes == (FACE_IGNORED,)


def test_uniform_colours_of_vertices_give_way_to_those_of_faces():
    content = load(mesh([(255, 255, 255)] * 5, TWO), "ply")
    assert at_corners(content, 1) == [(0, 200, 0, 255)] * 3
    assert content.notes == (VERTEX_IGNORED,)


def test_a_mesh_without_colours_has_none():
    content = load(mesh(), "ply")
    assert not content.surface.coloured.any()
