# SPDX-License-Identifier: Apache-2.0
"""OFF, as Geomview, MeshLab and ModelNet write it."""

import struct

import numpy as np
import pytest
from loading import colours, extent, load

from data_prep.geometry import surface
from data_prep.geometry.scene import MeshError

POINTS = [(0, 0, 0), (2, 0, 0), (2, 1, 0), (0, 1, 0)]
ROWS = [" ".join(map(str, point)) for point in POINTS]


def off(head="OFF\n4 1 0", rows=ROWS, faces=("4 0 1 2 3",)):
    return "\n".join([head, *rows, *faces]) + "\n"


@pytest.mark.parametrize(
    "text",
    [
        off(),
        off("OFF4 1 0"),
        off("OFF 4 1 0"),
        off("OFF\n4 1"),
        off("# first\nOFF # a comment\n\n4 1 0\n"),
        off().replace("\n", "\r\n"),
        off(faces=("4 0 1 2 3 # a face",)),
        off("NOFF\n4 1 0", [row + " 0 0 1" for row in ROWS]),
        off("STOFF\n4 1 0", [row + " 0.5 0.5" for row in ROWS]),
        "\ufeff" + off(),
    ],
)
def test_rectangle_in_every_form(text):
    content = load(text, "off")
    assert extent(content).tolist() == [2, 1, 0]
    assert surface.face_areas(content.surface).sum() == pytest.approx(2)
    assert not content.surface.coloured.any() and content.notes == ()


@pytest.mark.parametrize(
    "text",
    [
        off("COFF\n4 1 0", [row + " 204 0 51 255" for row in ROWS]),
        off("COFF\n4 1 0", [row + " 204 0 51" for row in ROWS]),
        off("COFF\n4 1 0", [row + " 0.8 0 0.2 1" for row in ROWS]),
        off("CNOFF\n4 1 0", [row + " 0 0 1 204 0 51 255" for row in ROWS]),
        off(faces=("4 0 1 2 3 204 0 51",)),
        off(faces=("4 0 1 2 3 204 0 51 255",)),
        off(faces=("4 0 1 2 3 0.8 0.0 0.2",)),
    ],
)
def test_colours_of_vertices_and_faces(text):
    content = load(text, "off")
    np.testing.assert_allclose(colours(content), np.tile([204, 0, 51], (2000, 1)), atol=0.5)
    assert content.notes == ()


def test_number_of_a_colour_map_is_noted():
    content = load(off(faces=("4 0 1 2 3 7",)), "off")
    assert content.notes == ("colours by number of a colour map, ignored",)


def test_faces_with_and_without_colours_are_parts():
    content = load(off("OFF\n4 2 0", faces=("3 0 1 2 204 0 51", "3 2 3 0")), "off")
    assert set(map(tuple, colours(content))) == {(204, 0, 51), (102, 102, 102)}


def test_concave_polygon():
    ell = ["4 0 0", "4 1 0", "1 1 0", "1 4 0", "0 4 0", "0 0 0"]
    content = load(off("OFF\n6 1 0", ell, ("6 0 1 2 3 4 5",)), "off")
    assert surface.face_areas(content.surface).sum() == pytest.approx(7)


def test_vertices_without_faces_are_a_cloud():
    content = load(off("OFF\n4 0 0", faces=()), "off")
    assert content.surface is None and content.xyz.tolist() == [list(map(float, p)) for p in POINTS]


def test_binary_file():
    data = b"OFF BINARY\n" + struct.pack(">3i", 4, 1, 0)
    data += b"".join(struct.pack(">3f", *point) for point in POINTS)
    content = load(data + struct.pack(">6i", 4, 0, 1, 2, 3, 0), "off")
    assert extent(content).tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (off("4OFF\n4 1 0", [row + " 1" for row in ROWS]), "4OFF, nOFF"),
        (off("nOFF\n3\n4 1 0"), "4OFF, nOFF"),
        (off(faces=("4 0 1 2 9",)), "a face names a vertex that does not exist"),
        (off(faces=("4 0 1 2",)), "fewer corners than it counts"),
        (off("OFF\n9 1 0"), "truncated; vertices found: 5 of 9"),
        (off("OFF\n999999999999 1 0"), "too large: 999999999999 vertices"),
    ],
)
def test_malformed_file_is_named(text, message):
    with pytest.raises(MeshError, match=message):
        load(text, "off")
