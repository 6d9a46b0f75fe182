# SPDX-License-Identifier: Apache-2.0
"""STL: text and binary files, colours of facets, and files that are damaged."""

import struct
import time

import generated_meshes
import numpy as np
import pytest
from loading import extent, load, triangles

from data_prep.foreign import limits
from data_prep.geometry import surface as surfaces
from data_prep.geometry.scene import MeshError

CORNERS = [[[0, 0, 0], [1, 0, 0], [0, 2, 0]], [[0, 0, 3], [1, 0, 3], [0, 2, 3]]]
TRAILING = "data after the last triangle, ignored"
NO_COUNT = "no count of triangles in the header, all are read"
NO_END = "no endsolid at the end, the file may be incomplete"
GREY = (102, 102, 102)


def binary(corners=CORNERS, *, attributes=None, header=b"exported by a program", count=None):
    """Returns a binary file."""
    attributes = [0] * len(corners) if attributes is None else attributes
    data = header.ljust(80, b"\0") + struct.pack("<I", len(corners) if count is None else count)
    for triangle, attribute in zip(corners, attributes, strict=True):
        numbers = np.array([[0, 0, 0], *triangle], "<f4").tobytes()
        data += numbers + struct.pack("<H", attribute)
    return data


def text(corners=CORNERS, *, name="part"):
    """Returns a text file of one solid."""
    lines = [f"solid {name}"]
    for triangle in corners:
        lines += ["  facet normal 0 0 1", "    outer loop"]
        lines += ["      vertex {} {} {}".format(*corner) for corner in triangle]
        lines += ["    endloop", "  endfacet"]
    return "\n".join([*lines, f"endsolid {name}", ""])


def check(content, notes=()):
    np.testing.assert_array_equal(triangles(content), CORNERS)
    assert not content.surface.coloured.any()
    assert content.notes == notes


def rgb(content):
    """Returns the colour of every face."""
    faces = np.arange(len(content.surface.part))
    weights = np.full((len(faces), 3), 1 / 3)
    found = surfaces.colours_at(content.surface, faces, weights=weights)
    return {tuple(t[0]): tuple(c[:3]) for t, c in zip(triangles(content), found, strict=True)}


# Binary files.


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"solid made by a program",
        b"solid name\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0",
        b"  solid",
        b"facet",
        b"<html>",
        b"\xff\xfe\0s",
        b"\xef\xbb\xbf",
        b"ply\nformat ascii 1.0\n",
        b"{}",
        b"\x89PNG\r\n\x1a\n",
        b"COLOR",
        b" " * 80,
    ],
)
def test_the_header_of_a_binary_file_may_contain_anything(header):
    check(load(binary(header=header), "stl"))


@pytest.mark.parametrize("tail", [b"\0", b"\r\n", b"more", bytes(49), bytes(50), b"x" * 1234])
@pytest.mark.parametrize("header", [b"", b"solid \0"])
def test_bytes_behind_the_last_triangle_are_noted(header, tail):
    check(load(binary(header=header) + tail, "stl"), (TRAILING,))


def test_bytes_behind_the_triangles_of_a_file_that_begins_with_solid():
    check(load(binary(header=b"solid exported by a program") + b"tail", "stl"), (TRAILING,))


@pytest.mark.parametrize("count", [0, 2**32 - 1])
def test_files_without_a_count_are_read_whole(count):
    check(load(binary(count=count), "stl"), (NO_COUNT,))


@pytest.mark.parametrize("cut", [1, 49, 50, 51, 99])
def test_a_truncated_file_is_an_error_with_its_counts(cut):
    found = (100 - cut) // 50
    with pytest.raises(MeshError, match=f"truncated; triangles found: {found} of 2$"):
        load(binary()[:-cut], "stl")


def test_a_header_alone_is_an_error():
    with pytest.raises(MeshError, match="84 bytes; bytes found: 50$"):
        load(b"x" * 50, "stl")
    with pytest.raises(MeshError, match="no faces and no points"):
        load(binary([]), "stl")


def test_the_count_is_limited(monkeypatch):
    monkeypatch.setenv(limits.FACES.variable, "1")
    for data in (binary(), text()):
        with pytest.raises(MeshError, match="^too large: 2 faces, at most 1"):
            load(data, "stl")


def test_triangles_that_are_not_finite_are_dropped_and_counted():
    bad = [[0, 0, 0], [1, 0, 0], [0, float("nan"), 0]]
    for data in (binary([*CORNERS, bad]), text([*CORNERS, bad])):
        check(load(data, "stl"), ("faces that are not finite, dropped: 1",))


# Colours.

FIRST, SECOND = (0, 0, 0), (0, 0, 3)


def packed(low, middle, high, *, bit):
    return low | middle << 5 | high << 10 | bit << 15


def test_colours_of_viscam_have_blue_in_the_lowest_bits_and_a_bit_where_valid():
    content = load(binary(attributes=[packed(0, 15, 31, bit=1), packed(9, 9, 9, bit=0)]), "stl")
    assert rgb(content) == {FIRST: (255, 123, 0), SECOND: GREY}


def test_attributes_without_the_valid_bit_are_no_colours():
    check(load(binary(attributes=[packed(0, 15, 31, bit=0), 1]), "stl"))


MAGICS = b"binary COLOR=\x33\x66\xff\xff,MATERIAL=" + bytes(12)


def test_colours_of_magics_have_red_in_the_lowest_bits_and_a_bit_where_not_valid():
    attributes = [packed(31, 15, 0, bit=0), packed(9, 9, 9, bit=1)]
    content = load(binary(attributes=attributes, header=MAGICS), "stl")
    assert rgb(content) == {FIRST: (255, 123, 0), SECOND: (0x33, 0x66, 0xFF)}


def test_the_colour_of_a_magics_object_applies_to_facets_without_one():
    for attributes in ([0, 0], [0x8000, 0xFFFF]):
        content = load(binary(attributes=attributes, header=MAGICS), "stl")
        assert set(rgb(content).values()) == {(0x33, 0x66, 0xFF)}


def test_black_facets_beside_coloured_ones_of_magics_are_black():
    attributes = [packed(0, 0, 0, bit=0), packed(31, 0, 0, bit=0)]
    content = load(binary(attributes=attributes, header=MAGICS), "stl")
    assert rgb(content) == {FIRST: (0, 0, 0), SECOND: (255, 0, 0)}


def test_a_magics_colour_at_the_end_of_the_header_is_cut_off():
    check(load(binary(header=b"x" * 73 + b"COLOR=\x01"), "stl"))


# Text files.

FORMS = {
    "plain": lambda t: t,
    "carriage returns and line feeds": lambda t: t.replace("\n", "\r\n"),
    "carriage returns": lambda t: t.replace("\n", "\r"),
    "tabs": lambda t: t.replace("  ", "\t").replace(" 0 ", "\t0\t"),
    "one line": lambda t: t.replace("\n", " "),
    "capitals": lambda t: t.upper(),
    "no indentation": lambda t: t.replace("  ", ""),
    "no name": lambda t: t.replace(" part", ""),
    "a name with blanks": lambda t: t.replace(" part", " my part 1 (copy)"),
    "a name of keywords": lambda t: t.replace(" part", " solid vertex endloop", 1),
    "a name of numbers": lambda t: t.replace(" part", " vertex 1 2 3"),
    "a name that is not ASCII": lambda t: t.replace(" part", " M\xf6bel \u4e2d"),
    "no space before normal": lambda t: t.replace("facet normal 0 0 1", "facet  normal\t0 0 1"),
    "facets without normal": lambda t: t.replace(" normal 0 0 1", ""),
    "a normal that is no number": lambda t: t.replace("normal 0 0 1", "normal -nan(ind) nan nan"),
    "exponents": lambda t: t.replace("vertex 1 0", "vertex +1.0E+00 0.000e-01"),
    "decimal commas": lambda t: t.replace("vertex 1 0 ", "vertex 1,0 0,00 "),
    "comments": lambda t: t.replace("outer loop", "outer loop # vertex 9 9 9"),
    "comments of C": lambda t: t.replace("outer loop", "outer loop // vertex 9 9 9"),
    "a comment first": lambda t: "# made by a program\n\n" + t,
    "blank lines": lambda t: "\n\n" + t.replace("\n", "\n\n"),
    "byte order mark": lambda t: "\ufeff" + t,
    "colour lines": lambda t: t.replace("  facet", "  color 1 0 0\n  facet"),
    "end facet": lambda t: t.replace("endfacet", "end facet").replace("endloop", "end loop"),
}


@pytest.mark.parametrize("form", FORMS)
def test_text_of_every_form(form):
    changed = FORMS[form](text())
    assert form == "plain" or changed != text()
    check(load(changed, "stl"))


def test_text_in_utf_16():
    check(load(text().encode("utf-16"), "stl"))


def test_text_in_latin_1():
    check(load(text(name="M\xf6bel").encode("latin-1"), "stl"))


@pytest.mark.parametrize("separator", ["", "\n\n"])
def test_solids_become_parts(separator):
    data = text(CORNERS[:1], name="a") + separator + text(CORNERS[1:], name="solid b")
    content = load(data, "stl")
    np.testing.assert_array_equal(content.surface.part, [0, 1])
    check(content)


def test_empty_solids_are_left_out():
    content = load(text([], name="a") + text(name="b") + text([], name="c"), "stl")
    np.testing.assert_array_equal(content.surface.part, [0, 0])
    check(content)


def test_facets_of_four_vertices_become_fans():
    square = [[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]]
    content = load(text([square, CORNERS[0]]), "stl")
    assert surfaces.face_areas(content.surface).tolist() == pytest.approx([0.5, 0.5, 1])
    assert content.notes == ()


@pytest.mark.parametrize("lost", [1, 2, 3])
def test_a_text_that_lost_its_end_is_read_and_noted(lost):
    data = text()
    end = {1: "endsolid part\n", 2: "  endfacet\nendsolid part\n", 3: "solid part\n"}[lost]
    content = load(data.removesuffix(end), "stl")
    check(content, (NO_END,))


def test_a_text_that_ends_within_a_facet_is_an_error_with_its_counts():
    data = text()
    cut = data[: data.rindex("      vertex 0 2 3\n")]
    with pytest.raises(MeshError, match="truncated; complete facets found: 1 of 2"):
        load(cut, "stl")


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (text().replace("vertex 1 0 0", "vertex 1 one 0"), "expected a number, found 'one'"),
        (text().replace("vertex 1 0 0", "vertex 1-0 0 0"), "number|three numbers"),
        ("solid nothing\nendsolid nothing\n", "no faces and no points"),
        ("solid", "no faces and no points"),
        ("some text that is no model\n" * 4, "neither a text|truncated"),
    ],
)
def test_errors_name_the_cause(data, error):
    with pytest.raises(MeshError, match=error):
        load(data, "stl")


def test_a_text_whose_first_word_is_damaged_is_read():
    check(load(text().replace("solid", "so1id", 1), "stl"))


def test_vertices_without_facets_are_an_error():
    data = text().replace("facet", "face").replace("endloop", "", 1)
    with pytest.raises(MeshError, match="malformed STL: vertices without facets"):
        load(data, "stl")


@pytest.mark.parametrize("word", ["# ", "// ", "solid ", "facet ", "solid facet ", "vertex 1 "])
def test_repeated_words_take_no_time(word):
    data = word * 50_000
    started = time.process_time()
    with pytest.raises(MeshError):
        load(data, "stl")
    assert time.process_time() - started < 2


@pytest.mark.parametrize("form", ["stl", "stl_ascii"])
@pytest.mark.parametrize("name", generated_meshes.NAMES)
def test_extent_centre_and_area_agree_with_another_library(name, form):
    generated_meshes.check(name, form)


def test_far_coordinates_of_a_text_keep_their_digits():
    far = np.array(CORNERS) + [448_262.25, 5_411_932.5, 312.125]
    np.testing.assert_allclose(extent(load(text(far), "stl")), [1, 2, 3])
