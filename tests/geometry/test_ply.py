# SPDX-License-Identifier: Apache-2.0
"""PLY files: formats, headers, elements in any order, polygons, strips, textures and damage."""

import numpy as np
import ply_files
import pytest
from loading import colours, extent, load, triangles
from ply_files import CORNERS, FACES, FORMATS, SIDES, XYZ, cloud, ply
from tiny_catalogue import png

from data_prep.geometry.readers import ply_body
from data_prep.geometry.scene import MeshError

VERTEX = ("vertex", XYZ, CORNERS)
FACE = ("face", FACES, SIDES)
# Area of the pyramid: a square of 2 x 2, and four triangles of base 2 and height sqrt(1 + 9).
AREA = 4 + 4 * np.sqrt(10)


def area(content):
    corners = triangles(content)
    edges = corners[:, 1:] - corners[:, :1]
    return np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1).sum() / 2


def assert_is_pyramid(content):
    assert len(triangles(content)) == 6
    np.testing.assert_allclose(extent(content), (2, 2, 3))
    assert area(content) == pytest.approx(AREA)


@pytest.mark.parametrize("form", FORMATS)
def test_faces_of_mixed_sizes_are_read_in_all_formats(form):
    content = load(ply(VERTEX, FACE, form=form), "ply")
    assert_is_pyramid(content)
    assert content.notes == ()


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_header_lines_end_in_any_way(form, newline):
    # The first byte of a binary body is 0x0a, as a line feed.
    corners = [(8.0 + 2**-20 * 10, 0, 0), (0, 1, 0), (0, 0, 1)]
    data = ply(
        ("vertex", XYZ, corners), ("face", FACES, [([0, 1, 2],)]), form=form, newline=newline
    )
    if form == "binary_little_endian":
        assert data[data.index(b"end_header") + len("end_header" + newline)] == 10
    got = triangles(load(data, "ply"))[0]
    np.testing.assert_allclose(got, corners, atol=1e-5)


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("index_type", ["char", "uchar", "int16", "ushort", "int32", "uint"])
@pytest.mark.parametrize("length_type", ["uchar", "uint8", "short", "int"])
def test_all_integer_types_of_lists_are_read(form, index_type, length_type):
    faces = ("face", [(length_type, index_type, "vertex_index")], SIDES)
    assert_is_pyramid(load(ply(VERTEX, faces, form=form), "ply"))


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("kind", ["char", "uint8", "short", "uint16", "int", "float32", "double"])
def test_all_types_of_coordinates_are_read(form, kind):
    vertex = ("vertex", [(kind, name) for name in "xyz"], CORNERS)
    assert_is_pyramid(load(ply(vertex, FACE, form=form), "ply"))


@pytest.mark.parametrize("form", FORMATS)
def test_unknown_elements_and_properties_in_any_order_are_skipped(form):
    lists = (("uchar", "float", "weights"), ("short", "id"), ("int", "uchar", "name"))
    unknown = ("patch", lists, [([0.5], 3, [65, 66]), ([], 4, []), ([1.5, 2.5], 5, [67])])
    properties = [("float", "z"), ("uchar", "quality"), ("float", "x"), ("double", "y")]
    vertex = ("vertex", properties, [(z, 9, x, y) for x, y, z in CORNERS])
    sides = [(7, *side, [0.5] * i, 1.5) for i, side in enumerate(SIDES)]
    face = (
        *("face", [("int", "flags"), *FACES, ("uchar", "float", "w"), ("float", "q")], sides),
    )  # fmt: skip
    content = load(ply(unknown, face, unknown, vertex, unknown, form=form), "ply")
    assert_is_pyramid(content)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"ply\nformat", b"ply  \nobj_info made by hand\nformat"),
        (b"element", b"comment element vertex 99\nelement"),
        (b"element", b"Created by a program that forgot the word for a remark\nelement"),
        (b"ascii 1.0\n", b"ascii 1.0   \t\n\n"),
        (b"property float x", b"property   FLOAT32  X "),
        (b"end_header", b"  end_header  "),
        (b"ply\n", b"\xef\xbb\xbfply\n"),
        (b"\n0 3 0\n", b"\n0 3 0\n"),
        (b"\n1 1 3\n", b"\n1 1 3   # the tip\n"),
        (b"\n1 1 3\n", b"\n\n\n  1\t1 3\n\n"),
        (b"\n1 1 3\n", b"\n1,0 1,0 3,0\n"),
    ],
)
def test_headers_and_comments_of_other_programs_are_read(old, new):
    data = ply(VERTEX, FACE)
    assert old in data or old == b"\n0 3 0\n"
    assert_is_pyramid(load(data.replace(old, new, 1), "ply"))


def test_words_and_columns_that_the_header_does_not_declare_are_ignored():
    data = ply(VERTEX, FACE).replace(b"\n1 1 3\n", b"\n1 1 3 the tip\n")
    data = data.replace(b"\n2 0 0\n", b"\n2 0 0 0.5 0.5\n")
    content = load(data, "ply")
    assert_is_pyramid(content)
    assert content.notes == (ply_body.DATA_IGNORED,)


@pytest.mark.parametrize("form", FORMATS)
def test_data_behind_the_last_element_is_ignored(form):
    rest = b"17 18 19\n" if form == "ascii" else bytes(range(1, 99))
    content = load(ply(VERTEX, FACE, form=form) + rest, "ply")
    assert_is_pyramid(content)
    assert content.notes == (ply_body.DATA_IGNORED,)


def test_rows_that_are_broken_over_lines_are_read():
    data = ply(VERTEX, FACE).replace(b"\n4 0 3 2 1\n", b"\n4 0 3\n2 1\n")
    assert_is_pyramid(load(data, "ply"))


def test_text_in_utf_16_is_read():
    assert_is_pyramid(load(ply(VERTEX, FACE).decode().encode("utf-16"), "ply"))


def test_concave_polygon_covers_its_own_area():
    # An L of three unit squares whose fan around the first corner leaves it.
    corners = [(2, 0, 0), (2, 1, 0), (1, 1, 0), (1, 2, 0), (0, 2, 0), (0, 0, 0)]
    content = load(ply(("vertex", XYZ, corners), ("face", FACES, [([*range(6)],)])), "ply")
    assert area(content) == pytest.approx(3)


@pytest.mark.parametrize("form", FORMATS)
def test_strips_of_triangles_are_cut_at_minus_one(form):
    # Two strips of a row of unit squares, and a degenerate triangle that joins two parts.
    corners = [(x, y, 0) for x in range(6) for y in (0, 1)]
    strips = [([0, 1, 2, 3, -1, 4, 5, 6, 7, 7, 8, 8, 9, 10, 11],), ([0, 1],)]
    properties = [("int", "int", "vertex_indices")]
    data = ply(("vertex", XYZ, corners), ("tristrips", properties, strips), form=form)
    content = load(data, "ply")
    # Squares 0, 2 and 4; and 6 7 7 8 8 9 of two degenerate steps.
    assert area(content) == pytest.approx(3)
    normals = np.cross(*np.moveaxis(np.diff(triangles(content), axis=1), 1, 0))
    assert len(normals) == 6 and len(np.unique(np.sign(normals[:, 2]))) == 1


def test_faces_of_fewer_than_three_corners_are_noted():
    faces = [*SIDES, ([0, 1],), ([3],), ([],)]
    content = load(ply(VERTEX, ("face", FACES, faces)), "ply")
    assert_is_pyramid(content)
    assert content.notes == ("faces of fewer than three corners, ignored: 3",)


def test_double_coordinates_far_from_the_origin_are_kept():
    vertex = ("vertex", [("double", name) for name in "xyz"])
    corners = [(x + 4_000_000.125, y + 500_000, z) for x, y, z in CORNERS]
    for form in FORMATS:
        content = load(ply((*vertex, corners), FACE, form=form), "ply")
        assert_is_pyramid(content)
        points = load(ply((*vertex, corners), form=form), "ply")
        assert points.xyz.dtype == np.float64
        np.testing.assert_array_equal(points.xyz, corners)


def test_edges_without_faces_are_a_cloud():
    edges = ("edge", [("int", "vertex1"), ("int", "vertex2")], [(0, 1), (1, 2)])
    content = load(ply(VERTEX, edges), "ply")
    assert len(content.xyz) == 5 and content.notes == ("edges, ignored",)


def test_faces_and_points_that_are_not_finite_are_dropped_and_counted():
    corners = [*CORNERS[:4], (1, float("nan"), 3)]
    for form in FORMATS:
        content = load(ply(("vertex", XYZ, corners), FACE, form=form), "ply")
        assert area(content) == pytest.approx(4)
        assert content.notes == ("faces that are not finite, dropped: 4",)
        points = load(ply(("vertex", XYZ, corners), form=form), "ply")
        assert len(points.xyz) == 4
        assert points.notes == ("points that are not finite, dropped: 1",)
    nothing = [(float("nan"),) * 3] * 5
    with pytest.raises(MeshError, match="^non-finite coordinates$"):
        load(ply(("vertex", XYZ, nothing), FACE), "ply")


@pytest.mark.parametrize("word", ["nan", "NaN", "-nan", "-1.#IND", "1.#QNAN", "-nan(ind)"])
def test_all_spellings_of_nan_are_read(word):
    data = ply(("vertex", XYZ, [(0, 0, 0), (1, 0, 0), (0, 1, 0), (9, 9, 9)]))
    content = load(data.replace(b"9 9 9", b"9 %b 9" % word.encode()), "ply")
    assert len(content.xyz) == 3


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize(
    ("keep", "message"),
    [(2.4, "vertex elements found: 2 of 5"), (7.2, "face elements found: 2 of 5")],
)
def test_truncated_file_says_how_much_it_has(form, keep, message):
    """`keep` is the number of rows of the body."""
    whole = ply(VERTEX, FACE, form=form)
    begin = whole.index(b"end_header\n") + 11
    if form == "ascii":
        lines = whole[begin:].splitlines(keepends=True)
        body = b"".join(lines[: int(keep)]) + lines[int(keep)][:2]
    else:
        sizes = [12] * 5 + [17, 13, 13, 13, 13]
        body = whole[begin : begin + sum(sizes[: int(keep)]) + 3]
    with pytest.raises(MeshError, match=f"^the file is truncated; {message}$"):
        load(whole[:begin] + body, "ply")


def changed(old, new, *, form="ascii"):
    data = ply(VERTEX, FACE, form=form)
    assert old in data
    return data.replace(old, new, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (changed(b"end_header", b"header_end"), "malformed PLY header: no end_header"),
        (changed(b"format ascii 1.0\n", b""), "malformed PLY header: no format"),
        (changed(b"ascii", b"binary"), "malformed PLY header: expected format ascii, .*'binary'"),
        (changed(b"vertex 5", b"vertex five"), "expected element NAME COUNT; found 'element v"),
        (changed(b"vertex 5", b"vertex -5"), "expected element NAME COUNT"),
        (changed(b"float x", b"quad x"), "expected property TYPE NAME or .* 'property quad x'"),
        (
            changed(b"list uchar", b"list float"),
            "the length of list 'vertex_indices' is no integer",
        ),
        (changed(b"float y", b"float why"), "element vertex has no property y"),
        (changed(b"element vertex", b"element corner"), "no element vertex; found corner, face"),
        (changed(b"vertex_indices", b"polygons"), "element face has no list vertex_indices"),
        (changed(b"\n3 0 1 4", b"\n3 0 1 5"), "a face names a vertex that does not exist"),
        (changed(b"\n3 0 1 4", b"\n3 0 1 -1"), "a face names a vertex that does not exist"),
        (changed(b"\n3 0 1 4", b"\n3 0 1 1.5"), "a face names a vertex that does not exist"),
        (changed(b"\n3 0 1 4", b"\n-3 0 1 4"), "a list of element face has no natural number"),
        (changed(b"\n1 1 3", b"\n1 one 3"), "expected a number, found 'one'"),
        (ply(("vertex", XYZ, [])), "no faces and no points"),
        (b"ply\nformat ascii 1.0\nend_header\n", "malformed PLY header: no elements"),
    ],
)
def test_malformed_file_is_an_error_that_names_the_cause(data, message):
    with pytest.raises(MeshError, match=message):
        load(data, "ply")


def test_declared_counts_are_limited_before_anything_is_allocated():
    for count in (10**9, 10**12 - 1):
        data = changed(b"element vertex 5", b"element vertex %d" % count)
        with pytest.raises(MeshError, match=f"too large: {count} vertices"):
            load(data, "ply")
        data = changed(b"element face 5", b"element face %d" % count)
        with pytest.raises(MeshError, match=f"too large: {count} faces"):
            load(data, "ply")


def test_compressed_splats_are_refused_by_name():
    vertex = ("vertex", [("uint", "packed_position"), ("uint", "packed_color")], [(1, 2)])
    with pytest.raises(MeshError, match="compressed Gaussian splats are not read; convert"):
        load(ply(vertex, form="binary_little_endian"), "ply")


# A square whose left half takes the left half of a texture.
HALVES = png([[(200, 0, 0), (0, 0, 200)]])
SQUARE = [(0, 0, 0), (1, 0, 0), (1, 1, 0), (0, 1, 0)]


@pytest.mark.parametrize("names", ["u v", "s t", "texture_u texture_v"])
@pytest.mark.parametrize("form", FORMATS)
def test_texture_by_coordinates_of_vertices(names, form):
    properties = (*XYZ, *(("float", name) for name in names.split()))
    # Only the right half of the picture: u is 0.5 to 1.
    rows = [(*p, 0.5 + p[0] / 2, p[1]) for p in SQUARE]
    data = ply(
        *(("vertex", properties, rows), ("face", FACES, [([0, 1, 2, 3],)])),
        form=form,
        comments=["comment TextureFile paint.png "],
    )
    content = load(data, "ply", paint_png=HALVES)
    np.testing.assert_allclose(colours(content).mean(axis=0), (0, 0, 200), atol=1)
    assert content.notes == ()


@pytest.mark.parametrize("form", FORMATS)
def test_textures_by_coordinates_and_numbers_of_faces(form):
    """A quad and a triangle; the texture of a third face has no number, and its colour counts."""
    uv = ("uchar", "float", "texcoord")
    colour = [("uchar", name) for name in ("red", "green", "blue")]
    corners = [*SQUARE, (2, 0, 0), (3, 0, 0), (2, 2, 0), (5, 0, 0), (6, 0, 0), (5, 2, 0)]
    rows = [
        ([0, 1, 2, 3], [0, 0, 0.5, 0, 0.5, 1, 0, 1], 0, 255, 255, 255),
        ([4, 5, 6], [0, 0, 1, 0, 1, 1], 1, 255, 255, 255),
        ([7, 8, 9], [], -1, 255, 255, 0),
    ]
    data = ply(
        ("vertex", XYZ, corners),
        ("face", (*FACES, uv, ("int", "texnumber"), *colour), rows),
        form=form,
        comments=["comment TextureFile a.png", "comment TextureFile b.png"],
    )
    content = load(data, "ply", a_png=HALVES, b_png=png([[(0, 90, 0)]]))
    assert content.notes == ()
    found = {tuple(row): share for row, share in _shares(colours(content))}
    assert found.keys() == {(200, 0, 0), (0, 90, 0), (255, 255, 0)}
    assert found[200, 0, 0] == pytest.approx(1 / 3, abs=0.05)


def _shares(rows):
    values, counts = np.unique(rows, axis=0, return_counts=True)
    return zip(values.tolist(), counts / len(rows), strict=True)


def test_texture_wins_over_colours_and_a_missing_one_leaves_them():
    properties = (*XYZ, ("float", "u"), ("float", "v"), *(("uchar", c) for c in "rgb"))
    rows = [(*p, 0.1, 0.1, 9, 99, 199) for p in SQUARE]
    face = ("face", FACES, [([0, 1, 2, 3],)])
    data = ply(("vertex", properties, rows), face, comments=["comment TextureFile a.png"])
    content = load(data, "ply", a_png=HALVES)
    assert (colours(content) == (200, 0, 0)).all()
    assert content.notes == ("vertex colours beside a texture, ignored",)
    content = load(data, "ply")
    np.testing.assert_allclose(colours(content), np.tile([9, 99, 199], (2000, 1)), atol=0.6)
    assert content.notes == ("missing texture",)
    white = ply(
        ("vertex", properties, [(*row[:5], 255, 255, 255) for row in rows]),
        face,
        comments=["comment TextureFile a.png"],
    )
    assert load(white, "ply", a_png=HALVES).notes == ()


def test_texture_coordinates_without_a_texture_are_noted():
    properties = (*XYZ, ("float", "s"), ("float", "t"))
    rows = [(*p, 0, 0) for p in SQUARE]
    content = load(ply(("vertex", properties, rows), ("face", FACES, [([0, 1, 2],)])), "ply")
    assert content.notes == ("texture coordinates without a texture, ignored",)


def test_the_largest_text_file_of_mixed_faces_is_read_in_linear_time():
    """A row takes microseconds, in text and in binary."""
    import time

    count = 30_000
    corners = [(i, i % 7, i % 5) for i in range(count)]
    faces = [([i, i + 1, i + 2, i + 3][: 3 + i % 2],) for i in range(count - 3)]
    for form in FORMATS:
        data = ply_files.ply(("vertex", XYZ, corners), ("face", FACES, faces), form=form)
        started = time.process_time()
        load(data, "ply")
        assert time.process_time() - started < 3


def test_cloud_of_any_format_is_the_same():
    first, *others = (load(cloud([("uchar", c, 7) for c in "rgb"], form=f), "ply") for f in FORMATS)
    for other in others:
        np.testing.assert_allclose(other.xyz, first.xyz, atol=1e-7)
        np.testing.assert_array_equal(other.rgb, first.rgb)
