# SPDX-License-Identifier: Apache-2.0
"""STL, binary and text, with the colours of some programs."""

import struct

import numpy as np
import pytest
import trimesh
from loading import colours, extent, load

from data_prep.geometry import surface
from data_prep.geometry.scene import MeshError

BOX = trimesh.creation.box(extents=(1, 2, 3)).triangles


def binary(triangles=BOX, *, header=b"", count=None, attributes=0):
    """Returns a binary file; attributes are those of the triangles."""
    attributes = np.broadcast_to(attributes, len(triangles))
    rows = [struct.pack("<12fH", 0, 0, 0, *corners.ravel(), attribute)
            for corners, attribute in zip(triangles, attributes, strict=True)]  # fmt: skip
    count = len(triangles) if count is None else count
    return header.ljust(80)[:80] + struct.pack("<I", count) + b"".join(rows)


def text(triangles=BOX, *, name="box", end=True, number="{:e}"):
    """Returns a text file of one solid."""
    lines = [f"solid {name}"]
    for corners in triangles:
        lines += ["  facet normal 0 0 0", "    outer loop"]
        lines += ["      vertex " + " ".join(map(number.format, corner)) for corner in corners]
        lines += ["    endloop", "  endfacet"]
    return "\n".join([*lines, *([f"endsolid {name}"] if end else [])]) + "\n"


@pytest.mark.parametrize(
    ("data", "notes"),
    [
        (binary(), []),
        (binary(header=b"solid written by a program"), []),
        (binary() + b"\0" * 7, ["data after the last triangle, ignored"]),
        (binary(count=0), ["no count of triangles in the header, all are read"]),
        (text(), []),
        (text().upper(), []),
        (text().replace("\n", "\r\n"), []),
        (text().replace("  ", "\t"), []),
        (text(name="a facet of a solid"), []),
        (text(name=""), []),
        (text(number="{:.3f}"), []),
        (text(end=False), ["no endsolid at the end, the file may be incomplete"]),
        (text().replace("0 0 0\n", "nan nan nan\n"), []),
        (text().replace("endloop", "endloop # a comment"), []),
        ("# a comment\n" + text(), []),
        (text().encode("utf-16"), []),
    ],
)
def test_box_in_every_form(data, notes):
    content = load(data, "stl")
    assert extent(content).tolist() == [1, 2, 3] and len(content.surface.triangles) == 12
    assert surface.face_areas(content.surface).sum() == pytest.approx(22)
    assert list(content.notes) == notes and not content.surface.coloured.any()


def test_solids_of_a_text_file_are_parts():
    content = load(text() + text(BOX + [5, 0, 0], name="other"), "stl")
    assert extent(content).tolist() == [6, 2, 3] and len(content.surface.width) == 2


def test_truncated_binary_file_says_how_much_is_there():
    with pytest.raises(MeshError, match="truncated; triangles found: 4 of 12"):
        load(binary()[: 84 + 4 * 50 + 20], "stl")


def test_vertex_that_is_no_number_is_named():
    with pytest.raises(MeshError, match="expected a number, found 'a.000000e-01'"):
        load(text().replace("vertex -5", "vertex a"), "stl")


def attribute(red, green, blue, *, valid=True):
    """Returns 15 bits of colour, red highest, and the bit that declares them."""
    return (0x8000 if valid else 0) | red << 10 | green << 5 | blue


def test_colours_of_viscam_have_the_highest_bit_and_red_first():
    values = [attribute(31, 0, 0)] * 6 + [attribute(0, 0, 31, valid=False)] * 6
    content = load(binary(attributes=values), "stl")
    found = set(map(tuple, colours(content)))
    assert found == {(255, 0, 0), (102, 102, 102)}
    assert sorted(content.surface.coloured.tolist()) == [False, True]


def test_colours_of_magics_lack_the_highest_bit_and_have_blue_first():
    header = b"COLOR=" + bytes([0, 200, 0, 255])
    values = [attribute(31, 0, 0, valid=False)] * 6 + [attribute(0, 0, 0)] * 6
    found = set(map(tuple, colours(load(binary(header=header, attributes=values), "stl"))))
    assert found == {(0, 0, 255), (0, 200, 0)}


def test_object_colour_of_magics_alone():
    header = b"made by x COLOR=" + bytes([9, 99, 199, 255]) + b",MATERIAL="
    assert set(map(tuple, colours(load(binary(header=header), "stl")))) == {(9, 99, 199)}
