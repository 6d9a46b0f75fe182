# SPDX-License-Identifier: Apache-2.0
"""PLY: formats, types, elements and faces."""

import generated_meshes
import numpy as np
import ply_files
import pytest
from loading import extent, load, triangles
from ply_files import CORNERS, FACES, SIDES, XYZ, ply

from data_prep.geometry import surface as surfaces

FORMS = list(ply_files.FORMATS)
# The base of the pyramid has area 4, each side 2 * sqrt(10) / 2.
AREA = 4 + 4 * 10**0.5


def vertices(rows=CORNERS, properties=XYZ, name="vertex"):
    return (name, properties, rows)


def faces(rows=SIDES, properties=FACES, name="face"):
    return (name, properties, rows)


def area(content):
    return surfaces.face_areas(content.surface).sum()


def check_pyramid(content, notes=()):
    np.testing.assert_allclose(extent(content), [2, 2, 3])
    assert area(content) == pytest.approx(AREA)
    assert len(triangles(content)) == 6
    assert content.notes == notes


# Formats and types.


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"], ids=["LF", "CRLF", "CR"])
@pytest.mark.parametrize("form", FORMS)
def test_faces_of_mixed_sizes_in_every_format_and_with_every_line_break(form, newline):
    check_pyramid(load(ply(vertices(), faces(), form=form, newline=newline), "ply"))


@pytest.mark.parametrize("kind", [k for k in ply_files.CODES if k not in ("char", "int8")])
@pytest.mark.parametrize("form", FORMS)
def test_coordinates_of_every_type(form, kind):
    properties = tuple((kind, name) for name in "xyz")
    check_pyramid(load(ply(vertices(properties=properties), faces(), form=form), "ply"))


@pytest.mark.parametrize("count", ["char", "uchar", "short", "uint16", "int", "uint32"])
@pytest.mark.parametrize("item", ["uchar", "int8", "ushort", "int16", "uint", "int32"])
@pytest.mark.parametrize("form", FORMS)
def test_indices_of_every_type(form, count, item):
    properties = ((count, item, "vertex_index"),)
    check_pyramid(load(ply(vertices(), faces(properties=properties), form=form), "ply"))


@pytest.mark.parametrize("name", ["vertex_indices", "vertex_index", "Vertex_Indices", "vertices"])
def test_names_of_indices(name):
    check_pyramid(load(ply(vertices(), faces(properties=(("uchar", "int", name),))), "ply"))


@pytest.mark.parametrize("form", FORMS[1:])
def test_integers_of_64_bits_and_floats_of_16_bits(form):
    order = ply_files.FORMATS[form]
    head = f"ply\nformat {form} 1.0\nelement vertex 5\nproperty float16 x\nproperty int64 y\n"
    head += "property uint64 z\nend_header\n"
    rows = np.array(CORNERS, [("x", order + "f2"), ("y", order + "i8"), ("z", order + "u8")])
    content = load(head.encode() + rows.tobytes(), "ply")
    np.testing.assert_array_equal(content.xyz, CORNERS)


def test_coordinates_of_float64_keep_their_digits():
    far = (448_262.301, 5_411_932.702, 312.403)
    rows = [tuple(np.add(corner, far)) for corner in CORNERS]
    properties = tuple(("double", name) for name in "xyz")
    for form in FORMS:
        content = load(ply(vertices(rows, properties), faces(), form=form), "ply")
        np.testing.assert_allclose(extent(content), [2, 2, 3], rtol=1e-6)
        np.testing.assert_allclose(content.surface.origin, np.add(far, [1, 1, 1.5]), rtol=1e-15)


HEADERS = {
    "capitals": lambda text: text.replace("ply", "PLY", 1).replace("element", "ELEMENT"),
    "comments": lambda text: text.replace("element face", "comment\ncomment a b\nelement face"),
    "information": lambda text: text.replace("element face", "obj_info num_cols 7\nelement face"),
    "tabs and blanks": lambda text: text.replace("float x", "\tfloat   x \t"),
    "an unknown keyword": lambda text: text.replace("element face", "foo 7\nelement face"),
    "blank lines": lambda text: text.replace("element face", "\n\nelement face"),
    "a version of 1.1": lambda text: text.replace("1.0", "1.1", 1),
    "byte order mark": lambda text: "\ufeff" + text,
    "no last line break": lambda text: text.rstrip(),
    "blank lines in the body": lambda text: text.replace("2 2 0\n", "2 2 0\n\n \n"),
    "comments in the body": lambda text: text.replace("2 2 0\n", "2 2 0 # corner\n# next\n"),
    "rows over several lines": lambda text: text.replace("2 2 0\n", "2 2\n0\n"),
    "rows on one line": lambda text: text.replace("2 2 0\n", "2 2 0 "),
    "exponents": lambda text: text.replace("2 2 0\n", "2e0 +2.0E+00 .0\n"),
    "decimal commas": lambda text: text.replace("2 2 0\n", "2,0 2,00 0,0\n"),
}


@pytest.mark.parametrize("case", HEADERS)
def test_text_of_every_form(case):
    rows = [tuple(map(int, corner)) for corner in CORNERS]
    text = ply(vertices(rows), faces()).decode()
    changed = HEADERS[case](text)
    assert changed != text
    check_pyramid(load(changed, "ply"))


# Elements and properties.

UNUSED = (("double", "quality"), ("uchar", "short", "ids"), ("char", "flag"))
TAGS = ("tag", UNUSED, [(0.5, [1, 2, 3], 1), (1.5, [], 2), (2.5, [7], 3)])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("position", [0, 1, 2])
def test_unknown_elements_are_skipped_wherever_they_stand(form, position):
    elements = [vertices(), faces()]
    elements.insert(position, TAGS)
    check_pyramid(load(ply(*elements, form=form), "ply"))


@pytest.mark.parametrize("form", FORMS)
def test_faces_may_stand_before_the_vertices(form):
    check_pyramid(load(ply(faces(), vertices(), form=form), "ply"))


@pytest.mark.parametrize("form", FORMS)
def test_unknown_properties_are_skipped_wherever_they_stand(form):
    properties = (("uchar", "flag"), XYZ[0], ("short", "s"), *XYZ[1:], ("uchar", "int", "ids"))
    rows = [(7, x, -3, y, z, [1] * i) for i, (x, y, z) in enumerate(CORNERS)]
    sides = [(0.5, [9] * i, *side, i) for i, side in enumerate(SIDES)]
    more = (("float", "quality"), ("uchar", "char", "ids"), *FACES, ("int", "group"))
    content = load(ply(vertices(rows, properties), faces(sides, more), form=form), "ply")
    check_pyramid(content)


def test_the_order_of_coordinates_is_that_of_their_names():
    rows = [(z, x, y) for x, y, z in CORNERS]
    check_pyramid(load(ply(vertices(rows, (XYZ[2], XYZ[0], XYZ[1])), faces()), "ply"))


@pytest.mark.parametrize("form", FORMS)
def test_faces_of_fewer_than_three_corners_are_counted(form):
    content = load(ply(vertices(), faces([*SIDES, ([0, 1],), ([],)]), form=form), "ply")
    check_pyramid(content, ("faces of fewer than three corners, ignored: 2",))


def test_concave_faces_have_their_area():
    corners = [(1, 1, 0), (1, 4, 0), (0, 4, 0), (0, 0, 0), (4, 0, 0), (4, 1, 0)]
    content = load(ply(vertices(corners), faces([(list(range(6)),)])), "ply")
    assert area(content) == pytest.approx(7)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("rows", "want"),
    [
        ([([0, 1, 2, 3, 4],)], [(0, 1, 2), (2, 1, 3), (2, 3, 4)]),
        ([([0, 1, 2, -1, 2, 3, 4],)], [(0, 1, 2), (2, 3, 4)]),
        ([([0, 1, 2, -1, 1, 2, 3, 4],)], [(0, 1, 2), (1, 2, 3), (3, 2, 4)]),
        ([([0, 1, 2, -1],)], [(0, 1, 2)]),
        ([([0, 1, 2, 2, 3, 4],)], [(0, 1, 2), (3, 2, 4)]),
        ([([0, 1, 2],), ([2, 3, 4],)], [(0, 1, 2), (2, 3, 4)]),
        ([([0, 1, -1, 2],), ([2, 3, 4],)], [(2, 3, 4)]),
    ],
    ids=["strip", "two strips", "odd start", "end", "degenerate", "two rows", "too short"],
)
def test_strips_of_triangles(form, rows, want):
    strips = ("tristrips", (("int", "int", "vertex_indices"),), rows)
    content = load(ply(vertices(), strips, form=form), "ply")
    corners = np.array(CORNERS, float)
    np.testing.assert_array_equal(triangles(content), corners[np.array(want)])


def test_edges_of_a_file_without_faces_are_noted():
    edges = ("edge", (("int", "vertex1"), ("int", "vertex2")), [(0, 1), (1, 2)])
    content = load(ply(vertices(), edges), "ply")
    np.testing.assert_array_equal(content.xyz, CORNERS)
    assert content.notes == ("edges, ignored",)
    assert load(ply(vertices(), faces(), edges), "ply").notes == ()


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("elements", [[], [faces([])]], ids=["no element", "no faces"])
def test_a_file_without_faces_is_a_cloud(form, elements):
    content = load(ply(vertices(), *elements, form=form), "ply")
    np.testing.assert_array_equal(content.xyz, CORNERS)
    assert (content.surface, content.rgb, content.notes) == (None, None, ())


@pytest.mark.parametrize("name", ["vertices", "point", "points", "VERTEX"])
def test_names_of_the_element_of_points(name):
    content = load(ply(vertices(name=name)), "ply")
    np.testing.assert_array_equal(content.xyz, CORNERS)


@pytest.mark.parametrize("form", FORMS)
def test_points_that_are_not_finite_are_dropped_and_counted(form):
    rows = [*CORNERS, (float("nan"), 0, 0), (0, float("inf"), 0)]
    content = load(ply(vertices(rows), form=form), "ply")
    np.testing.assert_array_equal(content.xyz, CORNERS)
    assert content.notes == ("points that are not finite, dropped: 2",)


@pytest.mark.parametrize("form", FORMS)
def test_faces_with_a_corner_that_is_not_finite_are_dropped_and_counted(form):
    rows = [*CORNERS, (float("nan"), 0, 0)]
    content = load(ply(vertices(rows), faces([*SIDES, ([0, 1, 5],)]), form=form), "ply")
    check_pyramid(content, ("faces that are not finite, dropped: 1",))


def test_nan_as_windows_writes_it():
    text = ply(vertices([*CORNERS, (7, 7, 7)])).replace(b"7 7 7", b"-1.#IND00 1.#QNAN 7")
    assert load(text, "ply").notes == ("points that are not finite, dropped: 1",)


@pytest.mark.parametrize("form", ["ply", "ply_ascii"])
@pytest.mark.parametrize("name", generated_meshes.NAMES)
def test_extent_centre_and_area_agree_with_another_library(name, form):
    options = {"encoding": "ascii"} if form == "ply_ascii" else {}
    generated_meshes.check(name, "ply", **options)
