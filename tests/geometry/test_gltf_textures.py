# SPDX-License-Identifier: Apache-2.0
"""Textures of glTF: coordinates, transforms, wrap modes, picture formats, and what is missing."""

import math

import gltf_quad
import numpy as np
import pytest
from gltf_quad import UPRIGHT, picture, texture
from PIL import Image, features

from data_prep.geometry.scene import MeshError

# A picture of four colours, and where they lie on an upright square.
A, B, C, D = [255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0]
FOUR = picture(np.uint8([[A, B], [C, D]]))
QUARTERS = {"top left": (0.2, 0.9), "top right": (0.9, 0.8)}
QUARTERS |= {"bottom left": (0.2, 0.1), "bottom right": (0.9, 0.2)}
MISSING, UNREADABLE = "missing texture", "unreadable texture"
NOT_NORMALISED = "texture coordinates are integers that are not normalised, taken as normalised"
COORDINATES = "texture without coordinates, its first texel is used"


def material(info=None, **more):
    return {"pbrMetallicRoughness": {"baseColorTexture": info or texture(), **more}}


def transform(**values):
    return material(texture(extensions={"KHR_texture_transform": values}))


def quarters(data):
    """Returns the colours at the top left, top right, bottom left and bottom right."""
    surface = gltf_quad.load(data).surface
    return [gltf_quad.rgba_at(surface, *point)[:3] for point in QUARTERS.values()]


def constant(u, v, **tree):
    """Returns a file whose texture coordinates are one value."""
    uv = np.tile(np.float32([u, v]), (4, 1))
    return gltf_quad.write(material(), pictures=[FOUR], uv=uv, **tree)


def test_the_first_row_of_a_picture_has_the_smallest_v():
    assert quarters(gltf_quad.write(material(), pictures=[FOUR])) == [A, B, C, D]


@pytest.mark.parametrize(
    ("dtype", "one", "normalised", "notes"),
    [
        ("float32", 1, False, ()),
        ("uint8", 255, True, ()),
        ("uint16", 65535, True, ()),
        ("int16", 32767, True, ()),
        ("uint8", 1, False, ()),
        ("uint8", 255, False, (NOT_NORMALISED,)),
        ("uint16", 65535, False, (NOT_NORMALISED,)),
    ],
)
def test_coordinates_of_every_type(dtype, one, normalised, notes):
    data = gltf_quad.write(
        material(),
        pictures=[FOUR],
        uv=(UPRIGHT * one).astype(dtype),
        normalised=["TEXCOORD_0"] if normalised else [],
    )
    assert quarters(data) == [A, B, C, D]
    assert gltf_quad.load(data).notes == notes


def test_quantised_coordinates_count_texture_widths_and_are_scaled_by_the_transform():
    data = gltf_quad.write(
        transform(scale=[1 / 4096, 1 / 4096]),
        pictures=[FOUR],
        uv=(UPRIGHT * 4096).astype(np.uint16),
        extensionsUsed=["KHR_mesh_quantization", "KHR_texture_transform"],
        extensionsRequired=["KHR_mesh_quantization"],
    )
    assert quarters(data) == [A, B, C, D]
    assert gltf_quad.load(data).notes == ()


@pytest.mark.parametrize("number", [1, 3])
def test_a_texture_names_its_set_of_coordinates(number):
    mirrored = UPRIGHT * np.float32([-1, 1]) + np.float32([1, 0])
    data = gltf_quad.write(
        material(texture(texCoord=number)),
        pictures=[FOUR],
        attributes={f"TEXCOORD_{number}": mirrored},
    )
    assert quarters(data) == [B, A, D, C]


def test_the_transform_may_replace_the_set_of_coordinates():
    other = texture(texCoord=0, extensions={"KHR_texture_transform": {"texCoord": 1}})
    attributes = {"TEXCOORD_1": np.tile(np.float32([0.75, 0.75]), (4, 1))}
    data = gltf_quad.write(material(other), pictures=[FOUR], attributes=attributes)
    assert quarters(data) == [D] * 4


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, [A, B, C, D]),
        ({"offset": [0.5, 0]}, [B, A, D, C]),
        ({"offset": [0, 0.5]}, [C, D, A, B]),
        ({"scale": [0.5, 0.5]}, [A] * 4),
        ({"scale": [0.5, 0.5], "offset": [0.5, 0]}, [B] * 4),
        # Examples of the specification: a vertical flip, and the lower left quarter, which is
        # turned by a quarter.
        ({"scale": [1, -1], "offset": [0, 1]}, [C, D, A, B]),
        ({"scale": [0.5, 0.5], "offset": [0, 1], "rotation": math.pi / 2}, [C] * 4),
        # The coordinates (1, 0) turn to (0, -1): the axis of u points up on the picture.
        ({"rotation": math.pi / 2}, [C, A, D, B]),
        # Scaled first: u is halved, then both axes are turned.
        ({"rotation": math.pi / 2, "scale": [0.5, 1]}, [C, C, D, D]),
    ],
)
def test_texture_transforms(values, expected):
    data = gltf_quad.write(
        transform(**values), pictures=[FOUR], extensionsUsed=["KHR_texture_transform"]
    )
    assert quarters(data) == expected
    assert gltf_quad.load(data).notes == ()


REPEAT, CLAMP, MIRROR = 10497, 33071, 33648


@pytest.mark.parametrize(
    ("mode", "columns"),
    [
        # Column of the picture, of two, at coordinates -0.75, -0.25, 0.25, 0.75, 1.25 and 1.75.
        (None, "ABABAB"),
        (REPEAT, "ABABAB"),
        (CLAMP, "AAABBB"),
        (MIRROR, "BAABBA"),
    ],
)
@pytest.mark.parametrize("axis", [0, 1])
def test_wrap_modes_of_both_axes(mode, columns, axis):
    names = ("wrapS", "wrapT")
    # The other axis keeps its default.
    sampler = {} if mode is None else {names[axis]: mode}
    tree = {"samplers": [sampler], "textures": [{"source": 0, "sampler": 0}]}
    pixels = np.uint8([[A, B]]) if axis == 0 else np.uint8([[A], [B]])
    got = ""
    for position in (-0.75, -0.25, 0.25, 0.75, 1.25, 1.75):
        uv = np.full((4, 2), 0.25, np.float32)
        uv[:, axis] = position
        data = gltf_quad.write(material(), pictures=[picture(pixels)], uv=uv, **tree)
        got += "A" if gltf_quad.rgb(data) == A else "B"
    assert got == columns


def test_an_unknown_wrap_mode_repeats_with_a_note():
    data = constant(-0.25, 0.25, samplers=[{"wrapS": 1}], textures=[{"source": 0, "sampler": 0}])
    content = gltf_quad.load(data)
    assert gltf_quad.rgba_at(content.surface, 0.5, 0.5)[:3] == B
    assert content.notes == ("unknown wrap mode of a texture, taken as repeat",)


@pytest.mark.parametrize(
    ("u", "v", "expected"),
    [
        # On the border of two texels, the coordinate belongs to the next one: exporters write
        # (0, 0) for parts of one colour.
        (0, 0, A),
        (0.5, 0, B),
        (0, 0.5, C),
        (0.5, 0.5, D),
        (1, 1, A),
        (0.999, 0.999, D),
    ],
)
def test_constant_coordinates_name_one_texel(u, v, expected):
    assert quarters(constant(u, v)) == [expected] * 4


def test_missing_coordinates_use_the_first_texel_with_a_note():
    data = gltf_quad.write(material(), pictures=[FOUR], uv=None)
    assert quarters(data) == [A] * 4
    assert gltf_quad.load(data).notes == (COORDINATES,)
    other = gltf_quad.write(material(texture(texCoord=2)), pictures=[FOUR])
    assert quarters(other) == [A] * 4
    assert gltf_quad.load(other).notes == (COORDINATES,)
    # One texel needs no coordinates.
    one = gltf_quad.write(material(), pictures=[picture(np.uint8([[C]]))], uv=None)
    assert quarters(one) == [C] * 4
    assert gltf_quad.load(one).notes == ()


def test_coordinates_that_are_not_finite_are_noted():
    content = gltf_quad.load(constant(np.nan, np.inf))
    assert content.surface.uv.max() <= 1
    assert content.notes == ("texture coordinates that are not finite, taken as 0",)


@pytest.mark.parametrize("name", ["TEXCOORD_0", "COLOR_0"])
def test_an_attribute_of_a_wrong_shape_is_an_error(name):
    attributes = {name: np.zeros(4, np.float32)}
    data = gltf_quad.write(material(), pictures=[FOUR], uv=None, attributes=attributes)
    with pytest.raises(MeshError, match=f"malformed attribute, expected .* {name[:5]}"):
        gltf_quad.load(data)


GREY = Image.fromarray(np.uint8([[100]]))
FORMATS = {
    "grey": (picture(GREY), [100] * 3),
    "grey and alpha": (picture(GREY, mode="LA"), [100] * 3),
    "black and white": (picture(np.uint8([[255]]), mode="1"), [255] * 3),
    "palette": (picture(np.uint8([[A]]), mode="P"), A),
    "16-bit grey": (picture(Image.fromarray(np.uint16([[100 * 257]]))), [100] * 3),
    "dark 16-bit grey": (picture(Image.fromarray(np.uint16([[200]]))), [1] * 3),
    "JPEG": (picture(np.zeros((8, 8, 3)) + 100, file_type="JPEG"), [100] * 3),
    "grey JPEG": (picture(np.zeros((8, 8)) + 100, file_type="JPEG"), [100] * 3),
    "CMYK JPEG": (picture(np.zeros((8, 8, 3)) + A, mode="CMYK", file_type="JPEG"), A),
    "WebP": (picture(np.uint8([[A]]), file_type="WEBP", lossless=True), A),
    "BMP": (picture(np.uint8([[A]]), file_type="BMP"), A),
}


@pytest.mark.parametrize("name", FORMATS)
def test_pictures_of_every_form(name):
    data, expected = FORMATS[name]
    content = gltf_quad.load(gltf_quad.write(material(), pictures=[data]))
    got = gltf_quad.rgba_at(content.surface, 0.5, 0.5)
    assert np.abs(np.subtract(got, [*expected, 255])).max() <= (1 if "JPEG" in name else 0)
    assert content.notes == ()


@pytest.mark.parametrize("name", ["EXT_texture_webp", "EXT_texture_avif"])
def test_extensions_name_a_better_picture(name):
    kind = name.rsplit("_", 1)[1]
    if kind == "avif" and not features.check("avif"):
        pytest.skip("this Pillow does not read AVIF")
    better = picture(np.zeros((8, 8, 3)) + A, file_type=kind, quality=100)
    for source in ({}, {"source": 1}):
        textures = [{**source, "extensions": {name: {"source": 0}}}]
        data = gltf_quad.write(
            material(), pictures=[better, FOUR], textures=textures, extensionsUsed=[name]
        )
        assert np.abs(np.subtract(gltf_quad.rgb(data), A)).max() <= 2
        assert gltf_quad.load(data).notes == ()
    # If it cannot be read, `source` is used, with a note.
    data = gltf_quad.write(material(), pictures=[b"corrupt", FOUR], textures=textures)
    assert quarters(data) == [A, B, C, D]
    assert gltf_quad.load(data).notes == (UNREADABLE,)


KTX2, DDS = b"\xabKTX 20\xbb\r\n\x1a\n" + bytes(100), b"DDS " + bytes(124)


@pytest.mark.parametrize(
    ("name", "data", "note"),
    [
        ("KHR_texture_basisu", KTX2, "KTX2 pictures are not read"),
        ("MSFT_texture_dds", DDS, "DDS pictures are not read"),
    ],
)
def test_extensions_of_other_formats_use_the_fallback_or_are_noted(name, data, note):
    named = {"extensions": {name: {"source": 0}}}
    options = {"pictures": [data, FOUR], "extensionsUsed": [name]}
    fallback = gltf_quad.write(material(), textures=[{"source": 1, **named}], **options)
    assert quarters(fallback) == [A, B, C, D]
    assert UNREADABLE not in gltf_quad.load(fallback).notes
    alone = gltf_quad.load(gltf_quad.write(material(), textures=[named], **options))
    assert {UNREADABLE, note} <= set(alone.notes)


@pytest.mark.parametrize(
    ("pictures", "tree", "note"),
    [
        ([b"\x89PNG\r\n\x1a\nbroken"], {}, UNREADABLE),
        ([FOUR[:-30]], {}, UNREADABLE),
        ([b""], {}, UNREADABLE),
        ([b"<html>not found"], {}, UNREADABLE),
        ([], {}, MISSING),
        ([], {"textures": [{}]}, MISSING),
        ([], {"textures": [{"source": 0}], "images": [{"uri": "absent.png"}]}, MISSING),
    ],
)
def test_a_texture_that_cannot_be_read_leaves_the_factor(pictures, tree, note):
    stated = material(baseColorFactor=[1, 0, 0, 1])
    content = gltf_quad.load(gltf_quad.write(stated, stated, pictures=pictures, **tree))
    assert gltf_quad.rgba_at(content.surface, 0.5, 0.5) == [255, 0, 0, 255]
    assert set(content.notes) == {note}
    # Without a factor the part has no colour of its own: white would be an invention.
    content = gltf_quad.load(gltf_quad.write(material(), pictures=pictures, **tree))
    assert not content.surface.coloured.any()
    assert content.notes == (note,)
    # The vertex colours remain.
    colours = {"COLOR_0": np.tile(np.float32([0, 0, 1]), (4, 1))}
    data = gltf_quad.write(material(), pictures=pictures, attributes=colours, **tree)
    assert gltf_quad.rgb(data) == [0, 0, 255]
