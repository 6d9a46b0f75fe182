# SPDX-License-Identifier: Apache-2.0
"""OFF: keywords, text and binary, colours of vertices and faces, and files that are damaged."""

import struct

import generated_meshes
import numpy as np
import pytest
from loading import colours, extent, load, triangles

from data_prep.foreign import limits
from data_prep.geometry import surface as surfaces
from data_prep.geometry.scene import MeshError

# A pyramid of a square and four triangles: faces of mixed sizes.
CORNERS = ["0 0 0", "2 0 0", "2 2 0", "0 2 0", "1 1 3"]
SIDES = ["4 0 3 2 1", "3 0 1 4", "3 1 2 4", "3 2 3 4", "3 3 0 4"]
AREA = 4 + 4 * 10**0.5
MORE = "data after the last face, ignored"
GREY = (102, 102, 102)
TWO = ["3 0 1 2", "3 0 2 3"]


def off(corners=CORNERS, sides=SIDES, *, keyword="OFF\n", edges=" 0"):
    counts = f"{len(corners)} {len(sides)}{edges}\n"
    return keyword + counts + "".join(f"{line}\n" for line in (*corners, *sides))


def columns(*rows):
    """Returns the corners, each with further columns."""
    return [f"{corner} {row}" for corner, row in zip(CORNERS, rows, strict=True)]


def check_pyramid(content, notes=()):
    np.testing.assert_allclose(extent(content), [2, 2, 3])
    assert surfaces.face_areas(content.surface).sum() == pytest.approx(AREA)
    assert content.notes == notes


def rgba(content, face=0):
    """Returns the RGBA at the corners of a face."""
    found = surfaces.colours_at(content.surface, np.full(3, face), weights=np.eye(3))
    return [tuple(row) for row in found.tolist()]


# Keywords and text.

FORMS = {
    "plain": lambda t: t,
    "carriage returns and line feeds": lambda t: t.replace("\n", "\r\n"),
    "carriage returns": lambda t: t.replace("\n", "\r"),
    "counts behind the keyword, as in ModelNet": lambda t: t.replace("OFF\n", "OFF"),
    "counts and a blank": lambda t: t.replace("OFF\n", "OFF "),
    "no number of edges": lambda t: t.replace("5 5 0", "5 5"),
    "small letters": lambda t: t.replace("OFF", "off"),
    "comments": lambda t: "# a\n# b\n" + t.replace("5 5 0\n", "# c\n5 5 0 # d\n\n# e\n"),
    "blank lines": lambda t: "\n" + t.replace("\n", "\n\n"),
    "tabs": lambda t: t.replace(" ", "\t"),
    "blanks at both ends of lines": lambda t: t.replace("\n", " \n  "),
    "byte order mark": lambda t: "\ufeff" + t,
    "exponents": lambda t: t.replace("1 1 3", "1.0e0 +1E+00 .3e1"),
    "decimal commas": lambda t: t.replace("1 1 3", "1,0 1,00 3,0"),
    "no last line break": lambda t: t.rstrip(),
    "numbers of edges": lambda t: t.replace("5 5 0", "5 5 8"),
}


@pytest.mark.parametrize("form", FORMS)
def test_text_of_every_form(form):
    changed = FORMS[form](off())
    assert form == "plain" or changed != off()
    check_pyramid(load(changed, "off"))


def test_a_header_of_modelnet_without_a_line_break():
    rng = np.random.default_rng(0)
    xyz = rng.random((6586, 3))
    corners = ["{} {} {}".format(*row) for row in xyz]
    sides = [f"3 {i} {i + 1} {i + 2}" for i in range(5534)]
    content = load(off(corners, sides, keyword="OFF"), "off")
    assert off(corners, sides, keyword="OFF").startswith("OFF6586 5534 0\n")
    np.testing.assert_allclose(triangles(content)[-1], xyz[5533:5536], atol=1e-6)
    assert len(triangles(content)) == 5534


@pytest.mark.parametrize(
    ("keyword", "more"),
    [
        ("NOFF\n", "0 0 1"),
        ("STOFF\n", "0.5 0.5"),
        ("COFF\n", "255 0 0 255"),
        ("CNOFF\n", "255 0 0 255 0 0 1"),
        ("NCOFF\n", "0 0 1 255 0 0 255"),
        ("STCNOFF\n", "255 0 0 255 0 0 1 0.5 0.5"),
        ("STNOFF\n", "0 0 1 0.5 0.5"),
    ],
)
def test_vertices_with_normals_and_texture_coordinates(keyword, more):
    check_pyramid(load(off(columns(*[more] * 5), keyword=keyword), "off"))


def test_numbers_behind_vertices_without_a_keyword_are_noted():
    content = load(off(columns(*["255 0 0"] * 5)), "off")
    note = "numbers behind vertices that the keyword OFF does not declare, ignored"
    check_pyramid(content, (note,))


@pytest.mark.parametrize("keyword", ["4OFF\n", "nOFF\n3\n", "C4OFF\n"])
def test_other_numbers_of_dimensions_are_refused(keyword):
    with pytest.raises(MeshError, match="four or n coordinates per vertex .* is not read"):
        load(off(columns(*"11111"), keyword=keyword), "off")


def test_faces_of_fewer_than_three_corners_are_counted():
    content = load(off(sides=[*SIDES, "2 0 1", "1 0", "0"]), "off")
    check_pyramid(content, ("faces of fewer than three corners, ignored: 3",))


def test_concave_faces_have_their_area():
    corners = ["1 1 0", "1 4 0", "0 4 0", "0 0 0", "4 0 0", "4 1 0"]
    content = load(off(corners, ["6 0 1 2 3 4 5"]), "off")
    assert surfaces.face_areas(content.surface).sum() == pytest.approx(7)


def test_a_file_without_faces_is_a_cloud():
    content = load(off(sides=[]), "off")
    np.testing.assert_array_equal(content.xyz, [list(map(float, c.split())) for c in CORNERS])
    assert (content.surface, content.rgb, content.notes) == (None, None, ())


@pytest.mark.parametrize("colour", ["255 102 51 255", "1.0 0.4 0.2 1.0", "255 102 51", "1 .4 .2"])
def test_colours_of_a_cloud(colour):
    content = load(off(columns(*[colour] * 5), [], keyword="COFF\n"), "off")
    np.testing.assert_allclose(colours(content), [(255, 102, 51)] * 5, atol=0.51)


def test_points_that_are_not_finite_are_dropped_and_counted():
    content = load(off([*CORNERS, "nan 0 0", "1.#QNAN 0 0"], []), "off")
    assert content.xyz.shape == (5, 3)
    assert content.notes == ("points that are not finite, dropped: 2",)


# Colours.


@pytest.mark.parametrize(
    "rows",
    [
        ("255 0 0 255", "0 255 0 255", "0 0 255 255", "1 2 3 255", "4 5 6 255"),
        ("255 0 0", "0 255 0", "0 0 255", "1 2 3", "4 5 6"),
        ("1.0 0 0 1", "0 1.0 0 1", "0 0 1.0 1", "0.1 0.2 0.3 1", "0 0 0 1"),
        ("1 0 0", "0 1 0", "0 0 1", ".1 .2 .3", "0 0 0"),
    ],
    ids=["integers with alpha", "integers", "floats with alpha", "floats"],
)
def test_colours_of_vertices(rows):
    content = load(off(columns(*rows), TWO, keyword="COFF\n"), "off")
    assert rgba(content) == [(255, 0, 0, 255), (0, 255, 0, 255), (0, 0, 255, 255)]
    mixed = surfaces.colours_at(content.surface, np.array([0]), weights=np.array([[0.5, 0.5, 0]]))
    np.testing.assert_allclose(mixed, [(127.5, 127.5, 0, 255)], atol=0.5)
    assert content.notes == ()


def test_alpha_of_vertices_makes_holes():
    rows = ["255 0 0 0", "255 0 0 255", "255 0 0 255", "255 0 0 255", "255 0 0 255"]
    content = load(off(columns(*rows), TWO, keyword="COFF\n"), "off")
    assert [value[3] for value in rgba(content)] == [0, 255, 255]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("200 0 0", "0 100 0"),
        ("200 0 0 255", "0 100 0 255"),
        ("0.784 0 0", "0 0.392 0"),
        ("0.784 0 0 1.0", "0 0.392 0 1"),
        ("200 0 0 255", "0 100 0"),
    ],
)
def test_colours_of_faces(first, second):
    content = load(off(sides=[f"{TWO[0]} {first}", f"{TWO[1]} {second}"]), "off")
    assert [rgba(content, face) for face in (0, 1)] == [
        [(200, 0, 0, 255)] * 3,
        [(0, 100, 0, 255)] * 3,
    ]
    assert content.notes == ()


def test_colours_of_faces_of_mixed_sizes():
    content = load(off(sides=[f"{side} 200 0 {i}" for i, side in enumerate(SIDES)]), "off")
    check_pyramid(content)
    assert [rgba(content, face)[0][2] for face in range(6)] == [0, 0, 1, 2, 3, 4]


def test_faces_without_a_colour_beside_coloured_ones_have_none():
    content = load(off(sides=[f"{TWO[0]} 200 0 0", TWO[1]]), "off")
    assert [rgba(content, face)[0][:3] for face in (0, 1)] == [(200, 0, 0), GREY]
    assert content.surface.coloured.tolist() == [True, False]


@pytest.mark.parametrize("numbers", [("1", "2"), ("1", "")])
def test_colours_by_number_of_a_map_are_noted(numbers):
    sides = [f"{side} {number}" for side, number in zip(TWO, numbers, strict=True)]
    content = load(off(sides=sides), "off")
    assert not content.surface.coloured.any()
    assert content.notes == ("colours by number of a colour map, ignored",)


def test_colours_of_vertices_win_over_those_of_faces_unless_they_are_all_alike():
    sides = [f"{TWO[0]} 200 0 0", f"{TWO[1]} 0 200 0"]
    rows = ["255 0 0", "0 255 0", "0 0 255", "1 2 3", "4 5 6"]
    content = load(off(columns(*rows), sides, keyword="COFF\n"), "off")
    assert rgba(content)[0] == (255, 0, 0, 255)
    assert content.notes == ("face colours beside vertex colours, ignored",)
    content = load(off(columns(*["255 255 255"] * 5), sides, keyword="COFF\n"), "off")
    assert rgba(content)[0] == (200, 0, 0, 255)
    assert content.notes == ("uniform vertex colours beside face colours, ignored",)


# Binary files.


def binary(*, keyword=b"OFF BINARY\n", more=(), channels=(), values=()):
    """Returns the pyramid as a binary file; faces have `channels` numbers of colour."""
    data = keyword + struct.pack(">3i", 5, 5, 0)
    for corner in CORNERS:
        numbers = [*map(float, corner.split()), *more]
        data += struct.pack(f">{len(numbers)}f", *numbers)
    for i, side in enumerate(SIDES):
        indices = list(map(int, side.split()))
        data += struct.pack(f">{len(indices)}i", *indices)
        count = channels[i] if channels else 0
        kind = "i" if count == 1 else f"{count}f"
        data += struct.pack(f">i{kind}", count, *values[:count])
    return data


@pytest.mark.parametrize(
    ("keyword", "more"),
    [
        (b"OFF BINARY\n", ()),
        (b"OFF BINARY  # a comment\n", ()),
        (b"NOFF BINARY\n", (0, 0, 1)),
        (b"STOFF BINARY\n", (0.5, 0.5)),
        (b"COFF BINARY\n", (1, 0, 0, 1)),
    ],
)
def test_binary_files(keyword, more):
    content = load(binary(keyword=keyword, more=more), "off")
    check_pyramid(content)
    assert content.surface.coloured.all() == (keyword[:1] == b"C")


def test_colours_of_vertices_and_of_faces_in_binary_files():
    content = load(binary(keyword=b"COFF BINARY\n", more=(1, 0.4, 0.2, 1)), "off")
    assert rgba(content)[0] == (255, 102, 51, 255)
    for channels in ([3] * 5, [4] * 5):
        content = load(binary(channels=channels, values=(1, 0.4, 0.2, 1)), "off")
        assert rgba(content, 3)[0] == (255, 102, 51, 255)
        check_pyramid(content)


def test_colours_by_number_in_binary_files_are_noted():
    content = load(binary(channels=[1] * 5, values=(7,)), "off")
    check_pyramid(content, ("colours by number of a colour map, ignored",))


def test_truncated_binary_files_are_an_error_with_their_counts():
    data = binary()
    with pytest.raises(MeshError, match="truncated; faces found: 4 of 5$"):
        load(data[:-4], "off")
    with pytest.raises(MeshError, match="truncated; vertices found: 4 of 5$"):
        load(data[: len(b"OFF BINARY\n") + 12 + 59], "off")


# Damaged files.


def test_lines_behind_the_last_face_are_noted():
    check_pyramid(load(off() + "3 0 1 2\n", "off"), (MORE,))


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (off().replace("5 5 0", "5 6 0"), "truncated; faces found: 5 of 6$"),
        (off(sides=[]).replace("5 0 0", "6 0 0"), "truncated; vertices found: 5 of 6$"),
        (off().replace("3 3 0 4", "3 3 0 5"), "^a face names a vertex that does not exist$"),
        (off().replace("3 3 0 4", "3 3 0 -1"), "^a face names a vertex that does not exist$"),
        (off().replace("3 3 0 4", "3 3 0 0.5"), "^a face names a vertex that does not exist$"),
        (off().replace("3 3 0 4", "4 3 0 4"), "a face has fewer corners than it counts"),
        (off().replace("3 3 0 4", "-3 3 0 4"), "a face has fewer corners than it counts"),
        (off().replace("3 3 0 4", "3 3 0 x"), "expected a number, found 'x'"),
        (off().replace("1 1 3", "1 1 x"), "expected a number, found 'x'"),
        (off().replace("1 1 3", "1 1"), "malformed OFF"),
        ("OFF\n", "malformed OFF: no counts of vertices and faces"),
        ("OFF\nfive 5 0\n", "malformed OFF: no counts of vertices and faces"),
        ("OFF\n-5 5 0\n", "malformed OFF: no counts of vertices and faces"),
        ("OFF\n0 0 0\n", "no faces and no points"),
        ("OFFSET 5 5 0\n", "malformed OFF: it does not start with OFF"),
        ("5 5 0\n", "malformed OFF: it does not start with OFF"),
        (off(keyword="COFF\n"), "expected three or four numbers of colour per vertex; .*: 3$"),
        (b"OFF BINARY\n\0\0", "malformed OFF: no counts of vertices and faces"),
        (b"OFF BINARY\n" + struct.pack(">3i", -1, 0, 0), "malformed OFF: a negative count"),
    ],
)
def test_errors_name_the_cause(text, error):
    with pytest.raises(MeshError, match=error):
        load(text, "off")


@pytest.mark.parametrize(
    ("limit", "counts", "message"),
    [
        (limits.VERTICES, (9, 1), "9 vertices"),
        (limits.POINTS, (9, 0), "9 points"),
        (limits.FACES, (1, 9), "9 faces"),
    ],
)
def test_declared_counts_are_limited_before_anything_is_read(limit, counts, message, monkeypatch):
    monkeypatch.setenv(limit.variable, "8")
    text = "OFF\n{} {} 0\n".format(*counts)
    for data in (text, b"OFF BINARY\n" + struct.pack(">3i", *counts, 0)):
        with pytest.raises(MeshError, match=f"^too large: {message}, at most 8 are read"):
            load(data, "off")


@pytest.mark.parametrize("name", generated_meshes.NAMES)
def test_extent_centre_and_area_agree_with_another_library(name):
    generated_meshes.check(name, "off")
