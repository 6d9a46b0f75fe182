# SPDX-License-Identifier: Apache-2.0
"""OBJ: colours of vertices, and which material a face has; test_mtl.py has what materials mean."""

import time

import numpy as np
import pytest
import tiny_catalogue
from loading import extent, load, triangles
from obj_files import (
    CORNERS,
    GREEN,
    GREY,
    LEFT,
    MATERIALS,
    RED,
    RIGHT,
    TRIANGLE,
    TWO,
    UV,
    WHITE,
    read,
    rgb,
    rgb_of,
)

from data_prep.geometry import meshes
from data_prep.geometry import surface as surfaces
from data_prep.geometry.assets import Assets
from data_prep.geometry.scene import MeshError

# Colours of vertices.


def coloured(first, second, third, *, head="", face=LEFT, tail=""):
    numbers = [first, second, third]
    lines = TRIANGLE.splitlines()
    rows = [f"{line} {more}".strip() for line, more in zip(lines, numbers, strict=True)]
    return head + "\n".join(rows) + "\n" + tail + face


@pytest.mark.parametrize(
    ("numbers", "want"),
    [
        ("1 0.2 0", (255, 51, 0)),
        ("255 51 0", (255, 51, 0)),
        ("255.0 51.0 0.0", (255, 51, 0)),
        ("1 0.2 0 1", (255, 51, 0)),
        ("255 51 0 255", (255, 51, 0)),
        ("1.0 1 0.2 0", (255, 51, 0)),
        ("1.005 0.2 0", (255, 51, 0)),
        ("0 0 0", (0, 0, 0)),
        ("1 1 1", WHITE),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_colours_of_vertices_of_every_form(numbers, want):
    # A seventh number is alpha, or the fourth is a weight of 1 where the seventh varies.
    content = load(coloured(numbers, numbers, numbers), "obj")
    assert rgb(content) == {want}
    assert content.notes == ()
    assert content.surface.coloured.all()


def test_a_weight_before_colours_is_told_by_its_value_of_1():
    content = load(coloured("1 1 0 0", "1 0 1 0", "1 0 0 0.5"), "obj")
    corners = surfaces.colours_at(content.surface, np.zeros(3, int), weights=np.eye(3))
    np.testing.assert_array_equal(corners[:, :3], [RED, GREEN, (0, 0, 128)])


def test_one_value_above_1_makes_all_colours_of_a_file_0_to_255():
    content = load(coloured("1 0 0", "0 1 0", "0 0 200"), "obj")
    corners = surfaces.colours_at(content.surface, np.zeros(3, int), weights=np.eye(3))
    np.testing.assert_array_equal(corners[:, :3], [(1, 0, 0), (0, 1, 0), (0, 0, 200)])


def test_colours_of_vertices_are_interpolated_in_srgb():
    content = load(coloured("1 1 1", "0 0 0", "0 0 0"), "obj")
    weights = np.array([[0.5, 0.25, 0.25], [0.2, 0.4, 0.4]])
    got = surfaces.colours_at(content.surface, np.zeros(2, int), weights=weights)
    np.testing.assert_array_equal(got[:, :3], [(128,) * 3, (51,) * 3])


def test_colours_of_vertices_replace_the_colour_of_the_material():
    text = coloured("0 1 0", "0 1 0", "0 1 0", head="mtllib m.mtl\nusemtl red\n")
    content = read(text)
    assert rgb(content) == {GREEN}


def test_white_vertices_leave_the_colour_of_the_material():
    text = coloured("1 1 1", "1 1 1", "1 1 1", head="mtllib m.mtl\nusemtl red\n")
    content = read(text)
    assert rgb(content) == {RED}
    assert content.notes == ()


@pytest.mark.parametrize(
    ("colour", "notes"),
    [
        ("0 1 0", ("vertex colours beside a texture, ignored",)),
        ("1 1 1", ()),
    ],
    ids=["green", "white"],
)
def test_a_texture_beats_colours_of_vertices(colour, notes):
    head = "mtllib m.mtl\nusemtl wood\n"
    text = coloured(*[colour] * 3, head=head, tail=UV, face="f 1/1 2/2 3/3\n")
    content = read(text)
    assert rgb(content) == {(10, 20, 30)}
    assert content.notes == notes


def test_vertices_without_colours_beside_coloured_ones_keep_the_material():
    text = "mtllib m.mtl\nusemtl red\n" + CORNERS.replace("v 2 2 0", "v 2 2 0 0 1 0")
    text = text.replace("v 3 0 0", "v 3 0 0 0 1 0").replace("v 2 0 0", "v 2 0 0 0 1 0")
    content = read(text + LEFT + RIGHT)
    by_x = {float(t[:, 0].max()): rgb_of(content, i) for i, t in enumerate(triangles(content))}
    assert by_x == {1: RED, 3: GREEN}


def test_negative_numbers_behind_vertices_are_no_colours():
    content = load(coloured("0 0 -1", "0 0 -1", "0 0 -1"), "obj")
    assert content.notes == ("numbers behind vertices that are no colours, ignored",)
    assert not content.surface.coloured.any()


def test_weights_are_noted():
    content = load(TRIANGLE.replace("0 2 0", "0 2 0 0.5") + LEFT, "obj")
    assert content.notes == ("weights of vertices, ignored",)
    np.testing.assert_array_equal(extent(content), [1, 2, 0])


# The use of materials.

USES = {
    "usemtl behind mtllib": "mtllib m.mtl\nusemtl red\n{}",
    "usemtl before mtllib": "usemtl red\nmtllib m.mtl\n{}",
    "mtllib at the end": "usemtl red\n{}mtllib m.mtl\n",
    "usemtl between vertices and faces": "mtllib m.mtl\n{}",
    "blanks behind the names": "mtllib m.mtl  \nusemtl  red \t\n{}",
    "several files on a line": "mtllib gone.mtl m.mtl\nusemtl red\n{}",
    "several lines": "mtllib m.mtl\nmtllib more.mtl\nusemtl red\n{}",
    "the second file has it": "mtllib more.mtl\nmtllib m.mtl\nusemtl red\n{}",
    "quotes": 'mtllib "m.mtl"\nusemtl red\n{}',
    "subfolder of another program": "mtllib .\\m.mtl\nusemtl red\n{}",
    "absolute path": "mtllib /home/ann/models/m.mtl\nusemtl red\n{}",
}


@pytest.mark.parametrize("use", USES)
def test_the_material_of_a_face(use):
    text = USES[use].format(TRIANGLE + ("usemtl red\n" if "between" in use else "") + LEFT)
    content = read(text, more_mtl="newmtl other\nKd 0 0 0\n")
    assert rgb(content) == {RED}
    assert content.notes == (("missing materials file",) if "gone" in text else ())


def test_the_last_usemtl_above_a_face_counts():
    text = (
        "mtllib m.mtl\n" + CORNERS + "usemtl green\nusemtl red\n" + LEFT + "usemtl green\n" + RIGHT
    )
    content = read(text)
    by_x = {float(t[:, 0].max()): rgb_of(content, i) for i, t in enumerate(triangles(content))}
    assert by_x == {1: RED, 3: GREEN}


def test_a_material_that_is_used_twice_is_one_part():
    use = "usemtl red\n" + LEFT + "usemtl green\n" + RIGHT + "usemtl red\n" + RIGHT
    content = read("mtllib m.mtl\n" + CORNERS + use)
    assert len(content.surface.opacity) == 2


def test_the_only_material_is_taken_without_usemtl():
    content = read("mtllib one.mtl\n" + TWO, one_mtl="newmtl any\nKd 0 1 0\n")
    assert rgb(content) == {GREEN}
    assert content.notes == ()


def test_several_materials_without_usemtl_are_noted_and_not_taken():
    content = read("mtllib m.mtl\n" + TWO)
    assert rgb(content) == {GREY}
    assert content.notes == ("several materials and no usemtl, ignored",)


def test_faces_above_the_first_usemtl_have_no_material():
    content = read("mtllib m.mtl\n" + CORNERS + LEFT + "usemtl red\n" + RIGHT)
    by_x = {float(t[:, 0].max()): rgb_of(content, i) for i, t in enumerate(triangles(content))}
    assert by_x == {1: GREY, 3: RED}
    assert content.notes == ()


def test_the_first_file_that_defines_a_material_counts():
    text = "mtllib m.mtl\nmtllib other.mtl\nusemtl red\n" + TWO
    assert rgb(read(text, other_mtl="newmtl red\nKd 0 0 0\n")) == {RED}


@pytest.mark.parametrize(
    ("name", "statement"),
    [("my wood.mtl", "my wood.mtl"), ("my wood.mtl", '"my wood.mtl"'), ("Möbel.mtl", "Möbel.mtl")],
)
@pytest.mark.parametrize("encoding", ["utf-8", "latin-1"])
def test_names_of_materials_files_with_blanks_and_accents(name, statement, encoding):
    text = f"mtllib {statement}\nusemtl dark oak é\n{TWO}".encode(encoding)
    files = {name: "newmtl dark oak é\nKd 0 1 0\n".encode(encoding), "a.obj": text}
    content = tiny_catalogue.content(files, "a.obj")
    assert rgb(content) == {GREEN}
    assert content.notes == ()


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_materials_files_with_a_byte_order_mark(encoding):
    data = "newmtl red\r\nKd 0 1 0\r\n".encode(encoding)
    assert rgb(read("mtllib w.mtl\nusemtl red\n" + TWO, w_mtl=data)) == {GREEN}


@pytest.mark.parametrize(
    ("head", "notes"),
    [
        ("mtllib gone.mtl\nusemtl red\n", ("missing materials file",)),
        ("mtllib gone.mtl\n", ("missing materials file",)),
        ("mtllib gone.mtl away.mtl\nusemtl red\n", ("missing materials file",) * 2),
        ("mtllib m.mtl\nusemtl pink\n", ("missing material",)),
        ("usemtl pink\n", ("missing material",)),
        ("usemtl None\n", ()),
        ("usemtl (null)\n", ()),
        ("usemtl\n", ()),
    ],
)
def test_missing_materials_are_noted_and_leave_the_faces_without_colour(head, notes):
    content = read(head + TWO)
    assert rgb(content) == {GREY}
    assert not content.surface.coloured.any()
    assert content.notes == notes


def test_a_missing_texture_is_noted_and_leaves_the_colour_of_the_material():
    text = "mtllib x.mtl\nusemtl x\n" + TRIANGLE + UV + "f 1/1 2/2 3/3\n"
    content = read(text, x_mtl="newmtl x\nKd 0 1 0\nmap_Kd gone.png\n")
    assert rgb(content) == {GREEN}
    assert content.notes == ("missing texture",)


def test_files_that_were_renamed_together_find_each_other():
    files = {"chair.obj": "mtllib model.mtl\nusemtl red\n" + TWO, "chair.mtl": MATERIALS}

    def find(path):
        if path not in files:
            raise FileNotFoundError(path)
        return files[path].encode()

    references = Assets(find, folder="", name="chair.obj")
    content = meshes.load(
        files["chair.obj"].encode(), file_type="obj", references=references, fill=0.4
    )
    assert rgb(content) == {RED}
    want = ("missing materials file", "materials file of the mesh's own name taken")
    assert content.notes == want


@pytest.mark.parametrize(
    "head",
    [
        "mtllib m.mtl # by Ann\nusemtl red\n",
        "mtllib m.mtl\nusemtl red # the left one\n",
        "mtllib m.mtl #\nusemtl red #\n",
    ],
)
def test_comments_behind_names(head):
    content = read(head + TWO)
    assert rgb(content) == {RED}
    assert content.notes == ()


def test_a_comment_behind_the_name_of_a_new_material():
    text = "mtllib x.mtl\nusemtl red\n" + TWO
    content = read(text, x_mtl="newmtl red # warm\nKd 1 0 0\nnewmtl x\nKd 0 0 0\n")
    assert rgb(content) == {RED}


def test_names_of_materials_may_contain_number_signs():
    text = "mtllib x.mtl\nusemtl Material #25\n" + TWO
    data = "newmtl Material\nKd 1 0 0\nnewmtl Material #25\nKd 0 1 0\n"
    assert rgb(read(text, x_mtl=data)) == {GREEN}


@pytest.mark.parametrize(
    "line",
    [
        "mtllib " + "a " * 100_000,
        "mtllib " + "a.mtl " * 9_000,
        'mtllib "' + 'a" ' * 50_000,
        "usemtl " + "# " * 100_000,
        "usemtl " + "a " * 100_000,
    ],
    ids=["words", "names", "quotes", "number signs", "a long name"],
)
def test_long_statements_take_no_time(line):
    started = time.process_time()
    try:
        load(line + "\n" + TWO, "obj")
    except MeshError as error:
        assert "too large" in str(error)
    assert time.process_time() - started < 3


@pytest.mark.parametrize("words", ["-s ", "-o 1 ", "-clamp on ", "a -s ", "# ", "' "])
def test_long_references_to_pictures_take_no_time(words):
    text = "mtllib x.mtl\nusemtl x\n" + TRIANGLE + UV + "f 1/1 2/2 3/3\n"
    started = time.process_time()
    content = read(text, x_mtl="newmtl x\nmap_Kd " + words * 100_000 + "\n")
    assert content.notes == ("missing texture",)
    assert time.process_time() - started < 3
