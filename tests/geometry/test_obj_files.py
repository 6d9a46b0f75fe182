# SPDX-License-Identifier: Apache-2.0
"""OBJ and MTL, as the programs that write them mean it."""

import numpy as np
import pytest
import tiny_catalogue
from loading import load

from data_prep.geometry import surface
from data_prep.geometry.scene import MeshError

V = "v 0 0 0\nv 2 0 0\nv 2 1 0\nv 0 1 0\n"
VT = "vt 0 0\nvt 1 0\nvt 1 1\nvt 0 1\n"
FACE = "f 1/1 2/2 3/3 4/4\n"
RED, BLUE = (255, 0, 0), (0, 0, 255)
# Left half red, right half blue.
HALVES = tiny_catalogue.png(np.array([[RED, BLUE]], np.uint8))


def colour_at(content, u, v=0.5):
    """Returns the colour at a place of the rectangle, 0 to 1 along its sides."""
    point = np.array([2 * u, v, 0]) - content.surface.origin
    for face, corners in enumerate(content.surface.triangles[:, :, :2].astype(float)):
        system = np.vstack([corners.T, np.ones(3)])
        weights = np.linalg.solve(system, [*point[:2], 1])
        if (weights > -1e-6).all():
            faces = np.array([face])
            return tuple(surface.colours_at(content.surface, faces, weights=weights[None])[0, :3])
    raise AssertionError("the point is not on the surface")


def area(content):
    return surface.face_areas(content.surface).sum()


@pytest.mark.parametrize(
    "text",
    [
        V + "f 1 2 3 4\n",
        V.replace("\n", "  # a corner\n") + "f 1 2 3 4 # a face\n",
        (V + "f 1 2 3 4\n").replace("\n", "\r\n"),
        (V + "f 1 2 3 4\n").replace("\n", "\r"),
        V.replace(" ", "\t") + "f\t1\t2\t3\t4",
        V + "f 1 2 \\\n3 4\n",
        V.replace("\n", " 1.0\n") + "f 1 2 3 4\n",
        V + "f -4 -3 -2 -1\n",
        V + "vn 0 0 1\nf 1//1 2//1 3//1 4//1\n",
        V + VT + "vn 0 0 1\nf 1/1/1 2/2/1 3//1 4\n",
        "\ufeff" + V + "o a\ng b c\ns off\nf 1 2 3\ns 1\nf 3 4 1\n",
        "f 1 2 3 4\n" + V,
        V.replace("2 1 0", "2.0e0 +1.0E+00 -0") + "f 1 2 3 4\n",
        V + V.replace("v 2", "v 9") + "f -8 -7 -6 -5\n",
        (V + "f 1 2 3 4\n").encode("utf-16"),
    ],
)
def test_rectangle_in_every_form(text):
    content = load(text, "obj")
    assert area(content) == pytest.approx(2)
    assert content.notes == () and not content.surface.coloured.any()


def test_negative_indices_count_from_the_line_of_the_face():
    later = "v 5 0 0\nv 7 0 0\nv 7 1 0\nv 5 1 0\nf -4 -3 -2 -1\n"
    content = load(V + "f -4 -3 -2 -1\n" + later, "obj")
    corners = content.surface.triangles + content.surface.origin
    assert sorted(corners[..., 0].max(axis=1).tolist()) == [2, 2, 7, 7]
    assert area(content) == pytest.approx(4)


@pytest.mark.parametrize(
    ("face", "message"),
    [
        ("f 1 2 0", "a face names vertex 0; the first one is 1"),
        ("f 1 2 9", "a face names a vertex that does not exist: 9 of 4"),
        ("f 1 2 -9", "a face names a vertex that does not exist: -9 of 4"),
        ("f 1 2 x", "x"),
    ],
)
def test_faces_that_cannot_be_read_are_named(face, message):
    with pytest.raises(MeshError, match=message):
        load(V + face + "\n", "obj")


@pytest.mark.parametrize(
    ("line", "note"),
    [
        ("l 1 2 3", "lines, ignored"),
        ("curv2 1 2", "free-form curves and surfaces, ignored"),
        ("call other.obj", "call or csh, ignored"),
        ("vt 0 0\nf 1/7 2/7 3/7", "texture coordinates that do not exist, ignored"),
        ("f 1 2", "faces of fewer than three corners, ignored"),
    ],
)
def test_what_is_ignored_is_noted(line, note):
    (found,) = load(V + "f 1 2 3 4\n" + line + "\n", "obj").notes
    assert note in found


def test_vertices_without_faces_are_a_cloud_with_their_colours():
    content = load("v 0 0 0 200 100 0\nv 1 2 3 200 100 0\n", "obj")
    assert content.surface is None and content.xyz.tolist() == [[0, 0, 0], [1, 2, 3]]
    np.testing.assert_allclose(np.asarray(content.rgb, float) * 255, [[200, 100, 0]] * 2, atol=0.5)


@pytest.mark.parametrize("numbers", ["1 0 0", "255 0 0", "1 0 0 1"])
@pytest.mark.parametrize("material", ["", "mtllib a.mtl\nusemtl a\n"])
def test_colours_of_vertices_replace_that_of_a_material(numbers, material):
    text = material + V.replace("\n", f" {numbers}\n") + VT + FACE
    content = load(text, "obj", a_mtl=b"newmtl a\nKd 0.8 0.8 0.8\n")
    assert colour_at(content, 0.3) == RED and content.notes == ()


def test_texture_replaces_colours_of_vertices_with_a_note():
    text = "mtllib a.mtl\nusemtl a\n" + V.replace("\n", " 0 1 0\n") + VT + FACE
    content = load(text, "obj", a_mtl=b"newmtl a\nmap_Kd p.png\n", p_png=HALVES)
    assert colour_at(content, 0.2) == RED
    assert content.notes == ("vertex colours beside a texture, ignored",)


@pytest.mark.parametrize(
    "head",
    [
        "mtllib a.mtl\nusemtl a\n",
        "usemtl a\nmtllib a.mtl\n",
        "mtllib a.mtl\n",  # a single material and no usemtl
        "mtllib other.mtl a.mtl\nusemtl a\n",
        "mtllib other.mtl\nmtllib a.mtl\nusemtl a\n",
        "mtllib ./a.mtl\nusemtl  a \n",
        'mtllib "a.mtl"\nusemtl a\n',
        "mtllib C:\\models\\a.mtl\nusemtl a\n",
    ],
)
def test_materials_are_found(head):
    mtl = b"newmtl a\nmap_Kd p.png\n"
    content = load(head + V + VT + FACE, "obj", a_mtl=mtl, p_png=HALVES)
    assert (colour_at(content, 0.2), colour_at(content, 0.8)) == (RED, BLUE)


@pytest.mark.parametrize(
    ("head", "files", "note"),
    [
        ("mtllib gone.mtl\nusemtl a\n", {}, "missing materials file"),
        ("mtllib a.mtl\nusemtl b\n", {"a_mtl": b"newmtl a\nnewmtl c\n"}, "missing material"),
        ("mtllib a.mtl\nusemtl a\n", {"a_mtl": b"newmtl a\nmap_Kd x.png\n"}, "missing texture"),
        (
            "mtllib a.mtl\nusemtl a\n",
            {"a_mtl": b"newmtl a\nmap_Kd x.png\n", "x_png": b"no picture"},
            "unreadable texture",
        ),
    ],
)
def test_what_is_missing_is_noted_once(head, files, note):
    assert load(head + V + VT + FACE, "obj", **files).notes == (note,)


@pytest.mark.parametrize(
    "line",
    [
        "map_Kd p.png", "MAP_KD p.png", "\tmap_Kd   p.png  ", "map_Kd -s 1 1 1 -o 0 0 0 p.png",
        "map_Kd -mm 0 1 -bm 1 -blendu on p.png", "map_Kd -clamp on -texres 512 p.png",
        'map_Kd "p.png"', "map_Kd P.PNG", "map_Kd .\\p.png", "map_Kd /home/me/tex/p.png",
        "map_Ka p.png", "map_Ke p.png", "Kd 0 0 0\nmap_Kd p.png",
    ],
)  # fmt: skip
def test_picture_is_found(line, tmp_path):
    from data_prep.geometry import clouds

    (tmp_path / "a.obj").write_text("mtllib a.mtl\nusemtl a\n" + V + VT + FACE)
    (tmp_path / "a.mtl").write_text("newmtl a\n" + line + "\n")
    (tmp_path / "p.png").write_bytes(HALVES)
    content = clouds.read_content(tmp_path / "a.obj", fill=0.4)
    assert (colour_at(content, 0.2), colour_at(content, 0.8)) == (RED, BLUE)
    assert content.notes == ()


@pytest.mark.parametrize(
    ("options", "colours"),
    [
        ("-o 0.5 0 0", (BLUE, RED)),
        ("-s 2 1 1", (BLUE, BLUE)),  # u of 0.3 and 0.9 become 0.6 and 1.8
        ("-s -1 1 1", (BLUE, RED)),
        ("-s 2 1 1 -clamp on", (BLUE, BLUE)),
        ("-o 1 0 0 -clamp on", (BLUE, BLUE)),
    ],
)
def test_options_move_the_picture(options, colours):
    mtl = f"newmtl a\nmap_Kd {options} p.png\n".encode()
    content = load("mtllib a.mtl\nusemtl a\n" + V + VT + FACE, "obj", a_mtl=mtl, p_png=HALVES)
    assert (colour_at(content, 0.3), colour_at(content, 0.9)) == colours


@pytest.mark.parametrize(
    ("lines", "opacity"),
    [
        ("d 0.25", 0.25), ("d -halo 0.25", 0.25), ("Tr 0.25", 0.75), ("Tr 0", 1), ("", 1),
        ("d 0.25\nTr 0.25", 0.25), ("Tr 1\nd 1", 1), ("d x", 1),
    ],
)  # fmt: skip
def test_opacity_is_d_or_one_minus_tr(lines, opacity):
    mtl = f"newmtl b\nKd 1 1 1\nnewmtl a\nKd 1 0 0\n{lines}\n".encode()
    text = "mtllib a.mtl\n" + V + "usemtl a\nf 1 2 3\nusemtl b\nf 3 4 1\n"
    content = load(text, "obj", a_mtl=mtl)
    chosen = content.surface.opacity[content.surface.texels[:, 1] == 0]
    assert chosen.tolist() == pytest.approx([opacity])


def test_opaque_materials_with_tr_1_are_seen():
    """MeshLab until 2023 and others wrote Tr for the opacity."""
    mtl = b"newmtl a\nTr 1.0\nmap_Kd p.png\n"
    content = load("mtllib a.mtl\nusemtl a\n" + V + VT + FACE, "obj", a_mtl=mtl, p_png=HALVES)
    assert content.surface.opacity.tolist() == [1]
    assert content.notes == ("Tr 1 taken as opaque",)


def test_picture_of_opacity_makes_holes():
    mask = tiny_catalogue.png(np.array([[(0, 0, 0), (255, 255, 255)]], np.uint8))
    mtl = b"newmtl a\nmap_Kd p.png\nmap_d m.png\n"
    text = "mtllib a.mtl\nusemtl a\n" + V + VT + FACE
    content = load(text, "obj", a_mtl=mtl, p_png=HALVES, m_png=mask)
    _, rgb = surface.sample_points(content.surface, points=200, rng=np.random.default_rng(0))
    assert (rgb == BLUE).all()


def test_emission_replaces_a_black_colour():
    content = load("mtllib a.mtl\nusemtl a\n" + V + "f 1 2 3 4\n", "obj",
                   a_mtl=b"newmtl a\nKd 0 0 0\nKe 0 0.5 1\n")  # fmt: skip
    assert colour_at(content, 0.5) == (0, 128, 255)


def test_names_with_spaces_and_other_encodings():
    mtl = "newmtl bl\xe5 vegg\nKd 0 0 1\n"
    text = "mtllib a.mtl\n" + V + "usemtl bl\xe5 vegg\nf 1 2 3 4\n"
    for encoding in ("utf-8", "latin-1"):
        content = load(text.encode(encoding), "obj", a_mtl=mtl.encode(encoding))
        assert colour_at(content, 0.5) == BLUE and content.notes == ()


def test_material_with_a_texture_colours_faces_without_coordinates_by_its_colour():
    mtl = b"newmtl a\nKd 0 0 1\nmap_Kd p.png\n"
    text = "mtllib a.mtl\nusemtl a\n" + V + VT + "f 1/1 2/2 3/3\nf 3 4 1\n"
    content = load(text, "obj", a_mtl=mtl, p_png=tiny_catalogue.png([[RED]]))
    assert colour_at(content, 0.9, 0.1) == RED and colour_at(content, 0.1, 0.9) == BLUE
    assert content.notes == ("texture on faces without texture coordinates, ignored",)


@pytest.mark.parametrize("data", [b"\x00\x01\x02\xff" * 50, b"hello world\nthis is text\n" * 5])
def test_other_content_is_no_obj_file(data):
    with pytest.raises(MeshError):
        load(data, "obj")
