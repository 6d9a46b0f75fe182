# SPDX-License-Identifier: Apache-2.0
"""PLY: texture coordinates of vertices and of faces, and the names of pictures."""

import numpy as np
import ply_files
import pytest
import tiny_catalogue
from loading import load, triangles
from ply_files import CORNERS, FACES, XYZ, ply

from data_prep.geometry import surface as surfaces

FORMS = list(ply_files.FORMATS)
RGB = ("red", "green", "blue")
ORANGE = (255, 102, 51)
TRIANGLES = [([0, 1, 2],), ([0, 2, 3],)]
R, G, B, Y = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0)
FOUR = tiny_catalogue.png([[R, G], [B, Y]])
# Texture coordinates of the corners of the square; the middle of the texel of each corner.
AT = [(0.2, 0.2), (0.8, 0.2), (0.8, 0.8), (0.2, 0.8), (0.5, 0.5)]
SEEN = [B, Y, G]
NAMED = ("comment TextureFile wood.png",)


def at_corners(content, face=0):
    """Returns the RGBA at the corners of a face."""
    found = surfaces.colours_at(content.surface, np.full(3, face), weights=np.eye(3))
    return [tuple(row) for row in found.tolist()]


def textured_vertices(names, comments=NAMED, form="ascii", colour=()):
    more = (*(("float", name) for name in names), *(("uchar", n) for n in RGB[: len(colour)]))
    rows = [(*p, *uv, *colour) for p, uv in zip(CORNERS, AT, strict=True)]
    return ply(
        ("vertex", XYZ + more, rows), ("face", FACES, TRIANGLES), form=form, comments=comments
    )


def textured_faces(name="texcoord", *, comments=NAMED, form="ascii", numbers=None, rows=TRIANGLES):
    more = (("uchar", "float", name),) + (("int", "texnumber"),) * (numbers is not None)
    sides = []
    for row, (corners,) in enumerate(rows):
        uv = [value for corner in corners for value in AT[corner]]
        sides.append((corners, uv, *([] if numbers is None else [numbers[row]])))
    return ply(
        ("vertex", XYZ, CORNERS), ("face", FACES + more, sides), form=form, comments=comments
    )


def seen(data, face=0, **files):
    """Returns the colours at the corners of a face, and the notes."""
    content = load(data, "ply", **(files or {"wood_png": FOUR}))
    return [rgba[:3] for rgba in at_corners(content, face)], content.notes


@pytest.mark.parametrize(
    "names",
    [("u", "v"), ("s", "t"), ("texture_u", "texture_v"), ("texture_s", "texture_t"), ("S", "T")],
)
@pytest.mark.parametrize("form", FORMS)
def test_texture_coordinates_of_vertices(form, names):
    assert seen(textured_vertices(names, form=form)) == (SEEN, ())


@pytest.mark.parametrize("name", ["texcoord", "texcoords"])
@pytest.mark.parametrize("form", FORMS)
def test_texture_coordinates_of_faces(form, name):
    assert seen(textured_faces(name, form=form)) == (SEEN, ())


@pytest.mark.parametrize("form", FORMS)
def test_texture_coordinates_of_faces_of_mixed_sizes(form):
    data = textured_faces(form=form, rows=[([0, 1, 4],), ([0, 1, 2, 3],), ([3, 0, 4],)])
    # The quad becomes 0 1 2 and 2 3 0.
    assert seen(data, face=1) == (SEEN, ())
    assert seen(data, face=2) == ([G, R, B], ())


@pytest.mark.parametrize(
    "comment",
    [
        "comment TextureFile wood.png",
        "comment texturefile wood.png",
        "comment TextureFile: wood.png",
        'comment TextureFile "wood.png"',
        "obj_info TextureFile wood.png",
        "comment  TextureFile\twood.png ",
        "comment TextureFile C:\\scans\\wood.png",
    ],
)
def test_forms_of_the_name_of_a_texture(comment):
    assert seen(textured_faces(comments=(comment,))) == (SEEN, ())


def test_names_of_textures_may_contain_blanks():
    data = textured_faces(comments=("comment TextureFile my wood.png",))
    content = tiny_catalogue.content({"a.ply": data, "my wood.png": FOUR}, "a.ply")
    assert at_corners(content)[0][:3] == SEEN[0]


def test_numbers_of_textures_choose_among_several():
    names = ("comment TextureFile wood.png", "comment TextureFile red.png")
    data = textured_faces(comments=names, numbers=[0, 1])
    red = tiny_catalogue.png([[R]])
    content = load(data, "ply", wood_png=FOUR, red_png=red)
    by_corner = {tuple(t[1].tolist()): face for face, t in enumerate(triangles(content))}
    assert [rgba[:3] for rgba in at_corners(content, by_corner[(2, 0, 0)])] == SEEN
    assert [rgba[:3] for rgba in at_corners(content, by_corner[(2, 2, 0)])] == [R] * 3


@pytest.mark.parametrize(("number", "notes"), [(-1, ()), (7, ("missing texture",))])
def test_faces_with_a_number_of_no_texture_have_no_colour(number, notes):
    content = load(textured_faces(numbers=[0, number]), "ply", wood_png=FOUR)
    assert content.surface.coloured.tolist() == [True, False]
    assert content.notes == notes


@pytest.mark.parametrize(
    "data", [textured_faces(comments=()), textured_vertices("uv", comments=())]
)
def test_texture_coordinates_without_a_texture_are_noted(data):
    want = ("texture coordinates without a texture, ignored",)
    assert seen(data) == ([(102, 102, 102)] * 3, want)


def test_a_missing_texture_is_noted():
    assert seen(textured_faces(), other_png=FOUR) == ([(102, 102, 102)] * 3, ("missing texture",))


def test_colours_of_vertices_are_taken_where_the_texture_is_missing():
    data = textured_vertices(("u", "v"), colour=ORANGE)
    assert seen(data, other_png=FOUR) == ([ORANGE] * 3, ("missing texture",))


def test_a_texture_beats_colours_of_vertices():
    data = textured_vertices(("u", "v"), colour=ORANGE)
    assert seen(data) == (SEEN, ("vertex colours beside a texture, ignored",))
    white = textured_vertices(("u", "v"), colour=(255, 255, 255))
    assert seen(white) == (SEEN, ())
