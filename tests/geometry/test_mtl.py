# SPDX-License-Identifier: Apache-2.0
"""MTL: colours, pictures and their options, seen on a square."""

import pytest
from painted_square import FOUR, PLAIN, SQUARE, A, B, C, D, content, quarters

from data_prep.foreign import limits
from data_prep.geometry.scene import MeshError

# Colours.


@pytest.mark.parametrize(
    ("lines", "rgb", "notes"),
    [
        ("Kd 1 0.2 0", (255, 51, 0), ()),
        ("kd 1 0.2 0", (255, 51, 0), ()),
        ("\tKd\t1\t0.2\t0", (255, 51, 0), ()),
        ("Kd 1 0.2 0 # warm", (255, 51, 0), ()),
        ("Kd 0.2", (51, 51, 51), ()),
        ("Kd 1.5 -1 0", (255, 0, 0), ()),
        ("Kd nan 0 1", (0, 0, 255), ()),
        ("Kd 255 51 0", (255, 51, 0), ("colour of a material from 0 to 255",)),
        ("Kd 1 0 0\nKd 0 1 0", (0, 255, 0), ()),
        ("Ka 1 1 1\nKd 0 0 1\nKs 1 1 1\nNs 20\nNi 1\nillum 2\nPr 1", (0, 0, 255), ()),
        ("Kd spectral a.rfl 1", (102,) * 3, ("spectral colour in a material, ignored",)),
        ("Kd xyz 0.1 0.2 0.3", (102,) * 3, ("xyz colour in a material, ignored",)),
        ("Kd red", (102,) * 3, ("unreadable colour in a material, ignored",)),
        ("", (102,) * 3, ()),
        ("Ka 1 0 0", (102,) * 3, ()),
        ("Kd", (102,) * 3, ()),
        ("Kd 0 0 0\nKe 1 0.2 0", (255, 51, 0), ()),
        ("Ke 1 0.2 0", (255, 51, 0), ()),
        ("Kd 0 0 0\nKe 10 2 0", (255, 51, 0), ()),
        ("Kd 0 0 0\nKe 255 51 0", (255, 51, 0), ()),
        ("Kd 0 0 1\nKe 1 0 0", (0, 0, 255), ()),
        ("Kd 0 0 0\nKe 0 0 0", (0, 0, 0), ()),
    ],
    ids=lambda value: repr(value) if isinstance(value, str) else "",
)
def test_the_colour_of_a_material(lines, rgb, notes):
    assert quarters(lines) == ([rgb] * 4, notes)


FORMS = {
    "carriage returns": b"newmtl paint\rKd 0 1 0\r",
    "byte order mark": b"\xef\xbb\xbfnewmtl paint\r\nKd 0 1 0\r\n",
    "UTF-16": "newmtl paint\nKd 0 1 0\n".encode("utf-16"),
    "zero bytes at the end": b"newmtl paint\nKd 0 1 0\n\0\0",
    "upper case": b"NEWMTL paint\nKD 0 1 0\n",
    "continued line": b"newmtl paint\nKd 0 \\\n1 0\n",
    "comments": b"# newmtl x\n#Kd 1 0 0\nnewmtl paint\n # Kd 1 0 0\nKd 0 1 0",
    "blanks around the name": b"newmtl   paint \t\nKd 0 1 0\n",
    "the last of two of one name": b"newmtl paint\nKd 1 0 0\nnewmtl paint\nKd 0 1 0\n",
    "lines above the first material": b"Kd 1 0 0\nnewmtl paint\nKd 0 1 0\n",
    "unknown lines": b"newmtl paint\nKd 0 1 0\nfoo bar\nmap_bump gone.png\nnorm gone.png\n",
}


@pytest.mark.parametrize("form", FORMS)
def test_text_of_every_form(form):
    assert quarters(FORMS[form]) == ([B] * 4, ())


# Names of pictures.

NAMES = {
    "plain": ("wood.png", "wood.png"),
    "blanks": ("my wood.png", "my wood.png"),
    "double quotes": ('"my wood.png"', "my wood.png"),
    "single quotes": ("'my wood.png'", "my wood.png"),
    "blanks at the end": ("wood.png  \t", "wood.png"),
    "backslashes": ("maps\\oak\\wood.png", "maps/oak/wood.png"),
    "relative": ("./maps/wood.png", "maps/wood.png"),
    "absolute path of Windows": (r"C:\Users\Ann\my textures\wood.png", "wood.png"),
    "absolute path": ("/home/ann/wood.png", "wood.png"),
    "absolute path with its last folder": ("/home/ann/oak/wood.png", "oak/wood.png"),
    "quoted path of Windows": (r'"C:\my wood.png"', "my wood.png"),
    "percent signs": ("my%20wood.png", "my wood.png"),
    "percent signs in the name": ("50%20oak.png", "50%20oak.png"),
    "number sign": ("wood #2.png", "wood #2.png"),
    "comment": ("wood.png # oak", "wood.png"),
    "accents": ("Möbel.png", "Möbel.png"),
    "minus sign": ("-wood.png", "-wood.png"),
    "minus sign within": ("oak -s 2.png", "oak -s 2.png"),
    "folder of another name": ("../oak/wood.png", "wood.png"),
    "option behind the name": ("wood.png -clamp off", "wood.png"),
}


@pytest.mark.parametrize("case", NAMES)
def test_names_of_pictures(case):
    reference, path = NAMES[case]
    assert quarters(f"map_Kd {reference}", files={path: FOUR}) == ([A, B, C, D], ())


@pytest.mark.parametrize("keyword", ["map_Kd", "map_kd", "MAP_KD", "map_Ka", "map_Ke", "map_ke"])
def test_the_picture_of_every_keyword_is_the_colour(keyword):
    assert quarters(f"Kd 0 0 1\n{keyword} w.png", files={"w.png": FOUR}) == ([A, B, C, D], ())


def test_the_diffuse_picture_counts_before_others():
    files = {"kd.png": FOUR, "ka.png": PLAIN}
    lines = "map_Ka ka.png\nmap_Ke ka.png\nmap_Kd kd.png"
    assert quarters(lines, files=files) == ([A, B, C, D], ())


def test_the_ambient_picture_is_taken_where_the_diffuse_one_is_missing():
    found = quarters("map_Kd gone.png\nmap_Ka ka.png", files={"ka.png": FOUR})
    assert found == ([A, B, C, D], ("missing texture",))


def test_the_colour_of_a_material_does_not_darken_its_picture():
    assert quarters("Kd 0 0 0\nmap_Kd w.png", files={"w.png": FOUR})[0] == [A, B, C, D]


@pytest.mark.parametrize(
    ("data", "notes"),
    [
        (None, ("missing texture",)),
        (b"\x89PNG", ("unreadable texture",)),
        (b"DDS " + bytes(124), ("unreadable texture", "DDS pictures are not read")),
    ],
    ids=["missing", "damaged", "DDS"],
)
def test_a_picture_that_cannot_be_read_leaves_the_colour_of_the_material(data, notes):
    files = {} if data is None else {"w.png": data}
    assert quarters("Kd 0 0 1\nmap_Kd w.png", files=files) == ([C] * 4, notes)


def test_a_picture_of_two_materials_is_read_once():
    obj = SQUARE + "usemtl second\nf 1/1 2/2 3/3\n"
    mtl = "newmtl paint\nmap_Kd gone.png\nnewmtl second\nmap_Kd gone.png\n"
    assert content(mtl, obj=obj).notes == ("missing texture",)


# Options.


@pytest.mark.parametrize("option", ["-clamp", "-imfchan", "-s", "-o", "-bm", "-mm", "-blendu"])
def test_an_option_without_arguments_leaves_the_name(option):
    found = quarters(f"map_Kd {option} wood.png", files={"wood.png": FOUR})
    assert found == ([A, B, C, D], ())


@pytest.mark.parametrize(
    ("options", "want"),
    [
        ("-blendu on -blendv off -cc off", [A, B, C, D]),
        ("-mm 0 1 -texres 512 -boost 2", [A, B, C, D]),
        ("-bm 0.5 -imfchan rgb -type sphere", [A, B, C, D]),
        ("-t 0 0 0", [A, B, C, D]),
        ("-o 0.5 0 0", [B, A, D, C]),
        ("-o 0.5", [B, A, D, C]),
        ("-o 0 0.5", [C, D, A, B]),
        ("-O 0.5 0.5", [D, C, B, A]),
        ("-o -0.5 0 0", [B, A, D, C]),
        ("-s 1 1 1", [A, B, C, D]),
        ("-s 0.5 0.5", [C, C, C, C]),
        ("-s -1 1 1", [B, A, D, C]),
        ("-s 0.5 1 1 -o 0.5 0 0", [B, B, D, D]),
        ("-o 0.5 0 0 -s 0.5 1 1", [B, B, D, D]),
        ("-clamp on", [A, B, C, D]),
        ("-clamp on -o 1 0", [B, B, D, D]),
        ("-clamp off -o 1 0", [A, B, C, D]),
        ("-clamp on -s 4 4 1", [B, B, B, B]),
        ("-clamp off -s 4 4 1", [D, C, B, A]),
        ("-s 1 1 1 -o 0.5 0 0 -mm 0 1 -bm 1", [B, A, D, C]),
    ],
)
def test_options_of_pictures(options, want):
    # With a scale of 4, u and v of the quarters are 0.8 or 3.2.
    files = {"my wood.png": FOUR}
    assert quarters(f"map_Kd {options} my wood.png", files=files) == (want, ())


def test_numbers_behind_the_options_belong_to_the_name():
    files = {"3 wood.png": FOUR}
    assert quarters("map_Kd -s 1 1 1 3 wood.png", files=files) == ([A, B, C, D], ())


# Limits.


def test_the_number_of_materials_is_limited(monkeypatch):
    monkeypatch.setenv(limits.PARTS.variable, "3")
    with pytest.raises(MeshError, match="^too large: 4 parts"):
        content("".join(f"newmtl {i}\nKd 1 0 0\n" for i in range(9)))


def test_a_materials_file_that_is_no_text_is_an_error():
    with pytest.raises(MeshError, match="^binary data; expected text"):
        content(b"newmtl\0\1\2 paint\n")
