# SPDX-License-Identifier: Apache-2.0
"""MTL: opacity by d, Tr and pictures, seen on a square."""

import numpy as np
import pytest
from painted_square import DARK, FOUR, PLAIN, QUARTERS, SQUARE, A, B, C, D, content, rgba_at
from tiny_catalogue import png

INVISIBLE = "everything is invisible, taken as opaque"


@pytest.mark.parametrize(
    ("lines", "opacity", "notes"),
    [
        ("", 1, ()),
        ("d 0.25", 0.25, ()),
        ("D 0.25", 0.25, ()),
        ("d -halo 0.25", 0.25, ()),
        ("Tr 0.25", 0.75, ()),
        ("Tr 0", 1, ()),
        ("d 0.25\nTr 0.75", 0.25, ()),
        ("Tr 0.75\nd 0.25", 0.25, ()),
        ("d 1\nTr 1", 1, ()),
        ("Tr 1\nd 1", 1, ()),
        ("d 0.5\nTr 0.25", 0.5, ()),
        ("d 7", 1, ()),
        ("d x", 1, ()),
        ("d nan", 1, ()),
        ("d", 1, ()),
        ("Tf 0.5 0.5 0.5", 1, ()),
        ("Tr 1", 1, ("Tr 1 taken as opaque",)),
        ("Tr 1.000000", 1, ("Tr 1 taken as opaque",)),
        ("d 0", 1, (INVISIBLE,)),
        ("d 0\nTr 1", 1, (INVISIBLE,)),
        ("d 0.01", 1, (INVISIBLE,)),
    ],
    ids=lambda value: repr(value) if isinstance(value, str) else "",
)
def test_opacity_is_d_or_else_1_minus_tr(lines, opacity, notes):
    loaded = content(f"Kd 1 0 0\n{lines}")
    assert loaded.surface.opacity[0] == pytest.approx(opacity)
    assert loaded.notes == notes


def opacities(mtl, uses):
    """Returns the opacity of materials by their use, and the notes."""
    blocks = "".join(f"usemtl {name}\nf 1/1 2/2 3/3\n" for name in reversed(uses))
    obj = SQUARE.split("usemtl")[0] + blocks
    loaded = content(mtl, obj=obj)
    return dict(zip(uses, loaded.surface.opacity.tolist(), strict=True)), loaded.notes


def test_tr_1_of_few_materials_is_invisible():
    mtl = "newmtl a\nTr 0\nnewmtl b\nTr 0\nnewmtl glass\nTr 1\n"
    assert opacities(mtl, ["a", "b", "glass"]) == ({"a": 1, "b": 1, "glass": 0}, ())


def test_tr_1_of_most_materials_makes_tr_the_opacity():
    mtl = "newmtl a\nTr 1\nnewmtl b\nTr 1\nnewmtl glass\nTr 0.25\n"
    want = {"a": 1, "b": 1, "glass": 0.25}
    assert opacities(mtl, ["a", "b", "glass"]) == (want, ("Tr 1 taken as opaque",))


def test_tr_1_of_a_material_with_a_picture_is_opaque():
    mtl = "newmtl a\nTr 0\nnewmtl b\nTr 0\nnewmtl wood\nTr 1\nmap_Kd w.png\n"
    obj = SQUARE.replace("usemtl paint", "usemtl wood")
    loaded = content(mtl, obj=obj, files={"w.png": PLAIN})
    assert loaded.surface.opacity.tolist() == [1]
    assert loaded.notes == ("Tr 1 taken as opaque",)


MASKS = {
    "luminance": ("map_d m.png", png([[(255,) * 3, (0,) * 3], [(0,) * 3, (255,) * 3]])),
    "alpha": ("map_d m.png", png([[(0, 0, 0, 255), (9, 9, 9, 0)], [(9, 9, 9, 0), (0, 0, 0, 255)]])),
    "another keyword": ("map_opacity m.png", png([[(255,) * 3, (0,) * 3], [(0,) * 3, (255,) * 3]])),
    "a channel": (
        "map_d -imfchan r m.png",
        png([[(255, 0, 0), (0, 9, 9)], [(0, 9, 9), (255, 0, 0)]]),
    ),
    "luminance by option": (
        "map_d -imfchan l m.png",
        png([[(255,) * 4, (0, 0, 0, 255)], [(0, 0, 0, 255), (255,) * 4]]),
    ),
}


@pytest.mark.parametrize("below", ["", "map_Kd w.png\n", "Kd 0 0 1\n"], ids=["", "map_Kd", "Kd"])
@pytest.mark.parametrize("mask", MASKS)
def test_pictures_of_opacity_make_holes(mask, below):
    line, picture = MASKS[mask]
    loaded = content(f"{below}{line}", files={"m.png": picture, "w.png": PLAIN})
    rgba = rgba_at(loaded, *QUARTERS)
    assert [value[3] for value in rgba] == [255, 0, 0, 255]
    want = {"": (102,) * 3, "map_Kd w.png\n": DARK, "Kd 0 0 1\n": (0, 0, 255)}[below]
    assert [value[:3] for value in rgba] == [want] * 4
    assert loaded.notes == ()


def test_a_picture_of_opacity_that_is_the_colour_itself_gives_its_alpha():
    lines = "map_Kd w.png\nmap_d w.png"
    black = png([[(0, 0, 0, 255), (9, 9, 9, 0)], [(0, 0, 0, 255), (0, 0, 0, 255)]])
    assert [v[3] for v in rgba_at(content(lines, files={"w.png": black}), *QUARTERS)] == [
        *(255, 0, 255, 255)
    ]
    dark = content(lines, files={"w.png": png(np.zeros((2, 2, 3)))})
    assert rgba_at(dark, *QUARTERS) == [(0, 0, 0, 255)] * 4
    assert dark.notes == ()


def test_a_picture_of_opacity_of_another_size_than_that_of_the_colour():
    mask = png(np.repeat(np.repeat([[255, 0], [0, 255]], 4, 0), 4, 1)[..., None].repeat(3, 2))
    loaded = content("map_Kd w.png\nmap_d m.png", files={"m.png": mask, "w.png": FOUR})
    assert rgba_at(loaded, *QUARTERS) == [(*A, 255), (*B, 0), (*C, 0), (*D, 255)]
