# SPDX-License-Identifier: Apache-2.0
"""PLY: formats, faces and all forms of colours that programs write."""

import numpy as np
import ply_files
import pytest
import tiny_catalogue
from loading import colours, extent, load, triangles

from data_prep.geometry import surface
from data_prep.geometry.scene import MeshError

RED = (("uchar", "red", 200), ("uchar", "green", 10), ("uchar", "blue", 30))
VERTICES = ("vertex", ply_files.XYZ, ply_files.CORNERS)
FACES = ("face", ply_files.FACES, ply_files.SIDES)
# The square of 2 x 2, and four triangles with base 2 and height sqrt(1 + 9).
AREA = 4 + 4 * np.sqrt(10)


@pytest.mark.parametrize("form", ply_files.FORMATS)
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
def test_faces_of_mixed_sizes_in_every_format(form, newline):
    content = load(ply_files.ply(VERTICES, FACES, form=form, newline=newline), "ply")
    assert extent(content).tolist() == [2, 2, 3]
    assert surface.face_areas(content.surface).sum() == pytest.approx(AREA)
    assert content.notes == () and not content.surface.coloured.any()


@pytest.mark.parametrize("number", ["char", "short", "int16", "int", "float32", "double", "uint8"])
@pytest.mark.parametrize("index", [("uint8", "uint32"), ("int", "short"), ("ushort", "uchar")])
def test_every_type_of_number(number, index):
    vertices = ("vertex", [(number, name) for name in "xyz"], ply_files.CORNERS)
    faces = ("face", [(*index, "vertex_index")], ply_files.SIDES)
    content = load(ply_files.ply(vertices, faces, form="binary_big_endian"), "ply")
    assert extent(content).tolist() == [2, 2, 3] and len(content.surface.triangles) == 6


def test_other_elements_and_properties_are_skipped():
    views = ("camera", [("float", "a"), ("uchar", "int", "b")], [(1.0, [1, 2, 3]), (2.0, [])])
    properties = (("uchar", "int", "views"), *ply_files.XYZ, ("double", "quality"))
    rows = [([7] * (i % 3), *corner, 0.5) for i, corner in enumerate(ply_files.CORNERS)]
    faces = ("face", [("uchar", "flag"), *ply_files.FACES, ("int", "group")],
             [(1, *side, 9) for side in ply_files.SIDES])  # fmt: skip
    for form in ply_files.FORMATS:
        data = ply_files.ply(views, ("vertex", properties, rows), faces, form=form)
        content = load(data, "ply")
        assert surface.face_areas(content.surface).sum() == pytest.approx(AREA)


def test_concave_face_and_strips_of_triangles():
    ell = [(4, 0, 0), (4, 1, 0), (1, 1, 0), (1, 4, 0), (0, 4, 0), (0, 0, 0)]
    faces = ("face", ply_files.FACES, [([0, 1, 2, 3, 4, 5],)])
    content = load(ply_files.ply(("vertex", ply_files.XYZ, ell), faces), "ply")
    assert surface.face_areas(content.surface).sum() == pytest.approx(7)
    strip = ("tristrips", [("int", "int", "vertex_indices")], [([0, 1, 3, 2, -1, 0, 1, 4],)])
    content = load(ply_files.ply(VERTICES, strip), "ply")
    assert surface.face_areas(content.surface).sum() == pytest.approx(4 + np.sqrt(10))


def test_positions_in_double_precision_keep_their_digits():
    far = np.array(ply_files.CORNERS) * 1e-3 + [500000.123, 5400000.456, 300.5]
    rows = [tuple(map(float, corner)) for corner in far]
    data = ply_files.ply(("vertex", [("double", n) for n in "xyz"], rows), FACES,
                         form="binary_little_endian")  # fmt: skip
    corners = triangles(load(data, "ply")).reshape(-1, 3)
    assert np.abs(corners[:, None] - far[None]).max(axis=2).min(axis=1).max() < 2e-9


@pytest.mark.parametrize(
    ("columns", "expected"),
    [
        (RED, (200, 10, 30)),
        ([("uchar", n, v) for n, v in zip("rgb", (200, 10, 30), strict=True)], (200, 10, 30)),
        ([(k, f"diffuse_{n}", v) for k, n, v in RED], (200, 10, 30)),
        ([("ushort", n, 257 * v) for _, n, v in RED], (200, 10, 30)),
        ([("float", n, v / 255) for _, n, v in RED], (200, 10, 30)),
        ([("float", n, float(v)) for _, n, v in RED], (200, 10, 30)),
        ([("double", n, v / 255) for _, n, v in RED], (200, 10, 30)),
        ([*RED, ("uchar", "alpha", 0)], (200, 10, 30)),
        ([("float", f"f_dc_{i}", (v / 255 - 0.5) / 0.28209479177387814)
          for i, v in enumerate((200, 10, 30))], (200, 10, 30)),
        ([("float", f"f_dc_{i}", v) for i, v in enumerate((9.0, -9.0, 0.0))], (255, 0, 127.5)),
    ],
)  # fmt: skip
def test_colours_of_points_in_every_form(columns, expected):
    content = load(ply_files.cloud(columns), "ply")
    assert len(content.xyz) == 8
    np.testing.assert_allclose(colours(content), np.broadcast_to(expected, (8, 3)), atol=0.51)


@pytest.mark.parametrize("name", ["intensity", "scalar_Intensity"])
def test_intensity_is_no_colour(name):
    content = load(ply_files.cloud([("float", name, 0.5)]), "ply")
    assert content.rgb is None and content.notes == ("intensity is no colour, ignored",)


def test_splats_that_are_not_seen_are_dropped():
    dc = [("float", f"f_dc_{i}", 0.0) for i in range(3)]
    opacity = [5.0] * 6 + [-9.0, -8.0]
    content = load(ply_files.cloud([*dc, ("float", "opacity", opacity)]), "ply")
    assert len(content.xyz) == 6
    assert content.notes == ("invisible Gaussian splats, dropped: 2",)


def test_points_that_are_not_finite_are_dropped_and_counted():
    corners = np.eye(3).tolist() + [[np.nan, 0, 0], [0, np.inf, 0]]
    content = load(ply_files.cloud(RED, corners=corners), "ply")
    assert len(content.xyz) == len(content.rgb) == 3
    (note,) = content.notes
    assert "not finite" in note and "2" in note


def test_colours_of_vertices_are_interpolated_and_those_of_faces_are_not():
    places, levels = ((0, 0, 0), (1, 0, 0), (0, 1, 0)), np.eye(3, dtype=int) * 255
    corner = [(*xyz, *rgb) for xyz, rgb in zip(places, levels, strict=True)]
    names = [("uchar", name) for name in ("red", "green", "blue")]
    one = ("face", ply_files.FACES, [([0, 1, 2],)])
    data = ply_files.ply(("vertex", (*ply_files.XYZ, *names), corner), one)
    mixed = colours(load(data, "ply"))
    assert mixed.mean(axis=0) == pytest.approx([85] * 3, abs=7) and mixed.std() > 50
    assert mixed.sum(axis=1) == pytest.approx(np.full(2000, 255), abs=2)
    rows = [(*side, 0, 0, 200 + number) for number, side in enumerate(ply_files.SIDES)]
    data = ply_files.ply(VERTICES, ("face", (*ply_files.FACES, *names), rows))
    blue = colours(load(data, "ply"))[:, 2]
    assert set(blue) == {200, 201, 202, 203, 204}


@pytest.mark.parametrize("place", ["face", "vertex"])
def test_texture_named_by_a_comment(place):
    picture = tiny_catalogue.png(np.array([[(255, 0, 0), (0, 0, 255)]], np.uint8))
    square, uv = ply_files.CORNERS[:4], [(0, 0), (1, 0), (1, 1), (0, 1)]
    if place == "vertex":
        properties = (*ply_files.XYZ, ("float", "s"), ("float", "t"))
        elements = [("vertex", properties, [(*p, *c) for p, c in zip(square, uv, strict=True)]),
                    ("face", ply_files.FACES, [([0, 1, 2, 3],)])]  # fmt: skip
    else:
        properties = (*ply_files.FACES, ("uchar", "float", "texcoord"))
        row = ([0, 1, 2, 3], [value for pair in uv for value in pair])
        elements = [("vertex", ply_files.XYZ, square), ("face", properties, [row])]
    data = ply_files.ply(*elements, comments=["comment TextureFile p.png"])
    content = load(data, "ply", p_png=picture)
    found = colours(content)
    assert set(map(tuple, found)) == {(255, 0, 0), (0, 0, 255)} and content.notes == ()
    assert load(data, "ply").notes == ("missing texture",)


@pytest.mark.parametrize("form", ply_files.FORMATS)
def test_truncated_file_says_how_much_is_there(form):
    whole = ply_files.ply(VERTICES, FACES, form=form)
    body = whole.index(b"end_header\n") + 11
    cut = {"ascii": whole[:body] + b"0 0 0\n2 0 0\n"}.get(form, whole[: body + 30])
    with pytest.raises(MeshError, match="truncated; vertex elements found: 2 of 5"):
        load(cut, "ply")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((b"end_header", b"end"), "end_header"),
        ((b"property float z\n", b""), "element vertex has no property z"),
        ((b"ascii", b"utf8"), "utf8"),
        ((b"3 0 1 4", b"3 0 1 9"), "a vertex that does not exist"),
        ((b"element vertex 5", b"element vertex 99999999999"), "too large"),
    ],
)
def test_malformed_file_is_named(change, message):
    data = ply_files.ply(VERTICES, FACES).replace(*change)
    with pytest.raises(MeshError, match=message):
        load(data, "ply")


def test_data_after_the_end_does_no_harm():
    data = ply_files.ply(VERTICES, FACES, form="binary_little_endian") + b"\0\1trailing"
    assert surface.face_areas(load(data, "ply").surface).sum() == pytest.approx(AREA)
