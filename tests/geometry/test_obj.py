# SPDX-License-Identifier: Apache-2.0
"""OBJ: the text, the indices, polygons, points, and what is ignored."""

import generated_meshes
import numpy as np
import pytest
import tiny_catalogue
from loading import colours, extent, load, triangles
from obj_files import BLUE, CORNERS, GREEN, LEFT, RED, RIGHT, TRIANGLE, TWO, UV, read, rgb, rgb_of

from data_prep.foreign import limits
from data_prep.geometry import surface as surfaces
from data_prep.geometry.scene import MeshError

# The text.

ENCODED = {
    "plain": TWO.encode(),
    "byte order mark": b"\xef\xbb\xbf" + TWO.encode(),
    "UTF-16": TWO.encode("utf-16"),
    "UTF-16, big-endian": b"\xfe\xff" + TWO.encode("utf-16-be"),
    "carriage returns and line feeds": TWO.replace("\n", "\r\n").encode(),
    "carriage returns": TWO.replace("\n", "\r").encode(),
    "tabs": TWO.replace(" ", "\t").encode(),
    "many blanks": TWO.replace(" ", "  \t ").replace("\n", " \n").encode(),
    "indented": TWO.replace("v ", "  v ").replace("f ", "\tf ").encode(),
    "no last line break": TWO.rstrip().encode(),
    "zero bytes at the end": TWO.encode() + bytes(7),
    "blank lines": TWO.replace("\n", "\n\n").encode(),
    "comments": b"# f 1 2 9\n#v 7 7 7\n" + TWO.encode() + b"# end",
    "comments behind numbers": TWO.replace("\n", " # 7 7\n").encode(),
    "comments without a blank": TWO.replace("\n", "#7\n").encode(),
    "comments in Latin-1": b"# M\xf6bel\n" + TWO.encode(),
    "object in Latin-1": b"o M\xf6bel\ng M\xf6bel\ns off\n" + TWO.encode(),
    "continued lines": TWO.replace("1 2", "1 \\\n2").replace("v 3 0", "v 3 \\\r\n 0").encode(),
    "a backslash in a comment": TWO.encode() + b"# C:\\dir\\\n",
    "exponents": TWO.replace("v 3 0", "v 3e0 0.0E+00").encode(),
    "plus signs": TWO.replace("v 3 0", "v +3. +.0").encode(),
    "old keyword of faces": TWO.replace("f ", "fo ").encode(),
    "normals": TWO.encode() + b"vn 0 0 1\nvn 0 0 nan\n",
    "weights of 1": TWO.replace(" 0\n", " 0 1.0\n").encode(),
    "faces above the vertices": (LEFT + RIGHT + CORNERS).encode(),
}  # fmt: skip


@pytest.mark.parametrize("form", ENCODED)
def test_text_of_every_form_gives_the_same_triangles(form):
    content = load(ENCODED[form], "obj")
    want = [[[0, 0, 0], [1, 0, 0], [0, 2, 0]], [[2, 0, 0], [3, 0, 0], [2, 2, 0]]]
    np.testing.assert_allclose(triangles(content), want, atol=1e-6)
    assert content.notes == ()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (TRIANGLE.replace("v 1 ", "v one ") + LEFT, "a number that cannot be read: 'one'"),
        (TRIANGLE.replace("v 1 ", "v 1,5 ") + LEFT, "a number with a decimal comma; .*: '1,5'"),
        (TRIANGLE.replace("v 1 ", "v 1-2 ") + LEFT, "a number that cannot be read: '1-2'"),
        (TRIANGLE + "v 1 2\n" + LEFT, "a vertex of fewer than three coordinates"),
        (TRIANGLE + "f 1 2 three\n", "a corner of a face that cannot be read: 'three'"),
        (TRIANGLE + "f 1 2 3.5\n", r"a corner of a face that cannot be read: '3\.5'"),
        (TRIANGLE + "f 1 2 3-1\n", "a corner of a face that cannot be read"),
        (TRIANGLE + "f 1 2 " + "9" * 30 + "\n", "a corner of a face that cannot be read: '99"),
        (TRIANGLE + "f 1 2 -\n", "a corner of a face that cannot be read: '-'"),
        (TRIANGLE + "f 0 1 2\n", "a face names vertex 0; the first one is 1"),
        (TRIANGLE + "f 1//1 /2 3\n", "a face names vertex 0; the first one is 1"),
        (TRIANGLE + "f 1 2 4\n", "a face names a vertex that does not exist: 4 of 3"),
        (TRIANGLE + "f -4 2 3\n", "a face names a vertex that does not exist: -4 of 3"),
        (LEFT, "a face names a vertex that does not exist: 1 of 0"),
        ("hello world\n", "not an OBJ file; it starts with 'hello world'"),
        ("# nothing\n", "no faces and no points"),
        (b"v 0 0 0\n\0\0\0 x", "binary data; expected text"),
    ],
)
def test_errors_name_the_cause(text, error):
    with pytest.raises(MeshError, match=f"^{error}"):
        load(text, "obj")


@pytest.mark.parametrize("word", ["nan", "1.#QNAN0", "-1.#IND000", "1.#INF", "inf", "1e999"])
def test_faces_with_a_corner_that_is_not_finite_are_dropped_and_counted(word):
    content = load(TWO.replace("v 3", f"v {word}"), "obj")
    np.testing.assert_allclose(extent(content), [1, 2, 0])
    assert content.notes == ("faces that are not finite, dropped: 1",)


# Indices.


@pytest.mark.parametrize(
    "faces",
    [
        "f 1/1 2/2 3/3",
        "f 1//1 2//1 3//1",
        "f 1/1/1 2/2/1 3/3/1",
        "f 1/1/1/9 2/2/1/9 3/3/1/9",
        "f 1/1 2//1 3/3/1",
        "f 1 2/2 3//1",
        "f 1/ 2/ 3/",
        "f 1// 2// 3//",
        "f 1/1/ 2/2/ 3/3/",
        "f -3/-3 -2/-2 -1/-1",
        "f -3//-1 2//-1 -1//-1",
        "f +1 +2 +3",
        "f 01/01 02/2 3/0003",
    ],
)
def test_corners_of_every_form(faces):
    content = load(TRIANGLE + UV + "vn 0 0 1\n" + faces + "\n", "obj")
    np.testing.assert_array_equal(triangles(content), [[[0, 0, 0], [1, 0, 0], [0, 2, 0]]])


def test_negative_indices_count_back_from_the_vertices_above_the_face():
    blocks = CORNERS.splitlines(keepends=True)
    text = "".join(blocks[:3]) + "f -3 -2 -1\n" + "".join(blocks[3:]) + "f -3 -2 -1\n"
    np.testing.assert_array_equal(triangles(load(text, "obj")), triangles(load(TWO, "obj")))


def test_negative_texture_indices_count_back_from_the_coordinates_above_the_face():
    pixels = tiny_catalogue.png([[RED, GREEN]])
    head = "mtllib m.mtl\nusemtl wood\n" + CORNERS
    text = head + "vt 0.2 0\nf 1/-1 2/-1 3/-1\nvt 0.8 0\nf 4/-1 5/-1 6/-1\n"
    content = read(text, w_png=pixels)
    assert [rgb_of(content, face) for face in range(2)] == [RED, GREEN]


def test_negative_indices_beyond_the_vertices_above_the_face_are_an_error():
    with pytest.raises(MeshError, match="does not exist: -4 of 6"):
        load(CORNERS.replace("v 2 0 0", "f -4 1 2\nv 2 0 0"), "obj")


def test_texture_coordinates_that_do_not_exist_leave_the_colour_of_the_material():
    content = read("mtllib m.mtl\nusemtl wood\n" + TRIANGLE + UV + "f 1/1 2/2 3/7\n")
    assert rgb(content) == {BLUE}
    assert content.notes == (
        "texture coordinates that do not exist, ignored",
        "texture on faces without texture coordinates, ignored",
    )


def test_the_second_and_third_texture_coordinate_are_optional():
    pixels = tiny_catalogue.png([[GREEN], [RED]])  # v = 0 is the lower row
    text = (
        "mtllib m.mtl\nusemtl wood\n" + TRIANGLE + "vt 0.5\nvt 0 0 0\nvt 1 0.1 7\nf 1/1 2/2 3/3\n"
    )
    content = read(text, w_png=pixels)
    assert rgb(content) == {RED}
    assert content.notes == ()


# Polygons.


@pytest.mark.parametrize(
    ("corners", "area"),
    [
        ("0 0, 4 0, 4 4, 0 4", 16),
        ("0 0, 4 0, 4 1, 1 1, 1 4, 0 4", 7),
        ("1 1, 1 4, 0 4, 0 0, 4 0, 4 1", 7),
        ("0 0, 4 2, 0 4, 1 2", 6),
        ("0 0, 3 0, 3 3, 2 3, 2 1, 1 1, 1 3, 0 3", 7),
    ],
    ids=["square", "L", "L from its inner corner", "arrow", "U"],
)
def test_concave_polygons_have_their_area(corners, area):
    points = corners.split(", ")
    text = "".join(f"v {x.split()[0]} 0 {x.split()[1]}\n" for x in points)
    indices = " ".join(str(i + 1) for i in range(len(points)))
    content = load(f"{text}f {indices}\n", "obj")
    assert surfaces.face_areas(content.surface).sum() == pytest.approx(area)


def test_faces_of_one_and_two_corners_are_noted():
    content = load(TWO + "f 1\nf 1 2\n", "obj")
    assert len(triangles(content)) == 2
    assert content.notes == ("faces of fewer than three corners, ignored: 2",)


# Points.


def test_a_file_of_vertices_only_is_a_cloud():
    content = load(CORNERS, "obj")
    assert content.surface is None
    assert content.rgb is None
    np.testing.assert_array_equal(content.xyz[3], [2, 0, 0])
    assert content.notes == ()


@pytest.mark.parametrize("tail", ["p 1 2 3\n", "vn 0 0 1\n", "o cloud\n", "usemtl none\n"])
def test_points_normals_and_names_leave_a_cloud_a_cloud(tail):
    content = load(CORNERS + tail, "obj")
    assert content.xyz.shape == (6, 3)
    assert content.notes == ()


@pytest.mark.parametrize("scale", [1, 255])
def test_colours_of_a_cloud(scale):
    rows = [f"v {i} 0 0 {scale} {scale * 0.2} 0" for i in range(4)]
    content = load("\n".join(rows), "obj")
    np.testing.assert_allclose(colours(content), [(255, 51, 0)] * 4, atol=1e-4)


def test_a_cloud_of_lines_is_noted():
    content = load(CORNERS + "l 1 2 3\nl 4 5\n", "obj")
    assert content.xyz.shape == (6, 3)
    assert content.notes == ("lines, ignored",)


def test_points_that_are_not_finite_are_dropped_and_counted():
    content = load(CORNERS + "v nan 0 0\nv 1 inf 0\n", "obj")
    assert content.xyz.shape == (6, 3)
    assert content.notes == ("points that are not finite, dropped: 2",)


# What is ignored.


FREE_FORM = "free-form curves and surfaces, ignored"


@pytest.mark.parametrize(
    ("lines", "note"),
    [
        ("l 1 2\nl 2 3\n", "lines, ignored"),
        ("cstype bspline\ndeg 3\ncurv 0 1 1 2\nparm u 0 1\nend\n", FREE_FORM),
        ("vp 0.5 1\nsurf 0 1 0 1 1 2 3\ntrim 0 1 1\n", FREE_FORM),
        ("call other.obj\n", "call or csh, ignored"),
        ("p 1 2\n", "points beside faces, ignored"),
        ("foo 1\nbar\n", "lines of unknown kinds, ignored: 2"),
        ("mg 1 0.5\nbevel on\nc_interp off\nd_interp on\nlod 3\nshadow_obj x\ntrace_obj x\n", None),
        ("g a b\no name\ns 1\ns off\n", None),
    ],
)  # fmt: skip
def test_statements_that_are_ignored_are_noted(lines, note):
    content = load(TWO + lines, "obj")
    assert len(triangles(content)) == 2
    assert content.notes == ((note,) if note else ())


# Limits, and another reader.


@pytest.mark.parametrize(
    ("limit", "maximum", "text"),
    [
        (limits.VERTICES, 5, TWO),
        (limits.FACES, 1, TWO),
        (limits.FACES, 3, CORNERS + "f 1 2 3 4 5 6\n"),
        (limits.PARTS, 2, TWO + "usemtl a\n" + LEFT + "usemtl b\n" + LEFT + "usemtl c\n" + LEFT),
    ],
)
def test_counts_are_limited(limit, maximum, text, monkeypatch):
    monkeypatch.setenv(limit.variable, str(maximum))
    with pytest.raises(MeshError, match=f"^too large: .* at most {maximum} are read"):
        load(text, "obj")


@pytest.mark.parametrize("name", generated_meshes.NAMES)
def test_extent_centre_and_area_agree_with_another_library(name):
    generated_meshes.check(name, "obj")
