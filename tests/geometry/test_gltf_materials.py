# SPDX-License-Identifier: Apache-2.0
"""Materials of glTF: factors, vertex colours, emission, and what is noted or refused."""

import gltf_quad
import numpy as np
import pytest
from gltf_quad import picture, texture, to_level, to_linear

from data_prep.foreign import limits
from data_prep.geometry import images
from data_prep.geometry.scene import MeshError

EMISSIVE = "emissive colour taken for a black base colour"
BLACK = {"baseColorFactor": [0, 0, 0, 1]}
UNLIT = {"extensions": {"KHR_materials_unlit": {}}}
ORANGE = [200, 150, 50]


def pbr(**values):
    return {"pbrMetallicRoughness": values}


def flat(rgb, side=2):
    """Returns a picture file of one colour."""
    return picture(np.zeros((side, side, 3)) + rgb)


@pytest.mark.parametrize(
    ("material", "expected"),
    [
        (None, [255, 255, 255]),
        ({}, [255, 255, 255]),
        (pbr(metallicFactor=0), [255, 255, 255]),
        (pbr(baseColorFactor=[0.214, 0.214, 0.214, 1]), [127, 127, 127]),
        (pbr(baseColorFactor=[0.5, 0.2, 0.002, 1]), [188, 124, 7]),
        (pbr(baseColorFactor=[0.5, 0.2, 0.002, 1], metallicFactor=1), [188, 124, 7]),
        # Beyond the standard, but written: three numbers, and more than 1.
        (pbr(baseColorFactor=[0.5, 0.2, 0.002]), [188, 124, 7]),
        (pbr(baseColorFactor=[3, 0, 0, 1]), [255, 0, 0]),
        (UNLIT | pbr(baseColorFactor=[1, 0, 0, 1]), [255, 0, 0]),
    ],
)
def test_base_colour_factor_is_linear_and_white_if_absent(material, expected):
    content = gltf_quad.load(gltf_quad.write(material))
    assert gltf_quad.rgba_at(content.surface, 0.5, 0.5) == [*expected, 255]
    assert content.surface.coloured.all()
    assert content.notes == ()


@pytest.mark.parametrize("level", [0, 7, 128, 255])
@pytest.mark.parametrize("factor", [0.0, 0.02, 0.6, 1.0])
def test_factor_times_texture_is_a_product_of_linear_values(level, factor):
    material = pbr(baseColorTexture=texture(), baseColorFactor=[1, factor, 1, 1])
    got = gltf_quad.rgb(gltf_quad.write(material, pictures=[flat([level, level, 255])]))
    assert got == [level, to_level(to_linear(level) * factor), 255]


@pytest.mark.parametrize(
    ("dtype", "channels", "normalised", "one"),
    [
        ("float32", 3, False, 1),
        ("float32", 4, False, 1),
        ("uint8", 4, True, 255),
        ("uint16", 4, True, 65535),
        # The standard requires normalised integers; some exporters forget the flag.
        ("uint8", 4, False, 255),
        ("uint16", 4, False, 65535),
    ],
)
def test_vertex_colours_are_linear_and_interpolated(dtype, channels, normalised, one):
    values = np.array([[1, 0, 0, 1], [0, 1, 0, 1], [0, 0, 1, 1], [1, 1, 1, 1]]) * one
    data = gltf_quad.write(
        None,
        attributes={"COLOR_0": values[:, :channels].astype(dtype)},
        normalised=["COLOR_0"] if normalised else [],
    )
    surface = gltf_quad.load(data).surface
    assert gltf_quad.rgba_at(surface, 0, 0) == [255, 0, 0, 255]
    assert gltf_quad.rgba_at(surface, 1, 1) == [0, 0, 255, 255]
    # A quarter of red, a quarter of green and a half of blue, mixed as light.
    expected = [to_level(0.25), to_level(0.25), to_level(0.5), 255]
    assert gltf_quad.rgba_at(surface, 0.75, 0.5) == expected


def test_vertex_colours_multiply_factor_and_texture():
    colours = np.array([[0.5, 0.5, 0.5]] * 2 + [[1, 0.25, 1]] * 2, np.float32)
    attributes = {"COLOR_0": colours}
    material = pbr(baseColorFactor=[0.5, 1, 0.25, 1], baseColorTexture=texture())
    data = gltf_quad.write(material, pictures=[flat([200, 100, 50])], attributes=attributes)
    at_bottom, at_top = (gltf_quad.rgb(data, 0.5, y) for y in (0, 1))
    light = [to_linear(200) * 0.5, to_linear(100), to_linear(50) * 0.25]
    assert np.abs(np.subtract(at_bottom, [to_level(v * 0.5) for v in light])).max() <= 1
    assert at_top == pytest.approx([to_level(light[0]), to_level(light[1] / 4), to_level(light[2])])
    untextured = gltf_quad.write(pbr(baseColorFactor=[0.5, 1, 0.25, 1]), attributes=attributes)
    assert gltf_quad.rgb(untextured, 0.5, 0) == [to_level(v) for v in (0.25, 0.5, 0.125)]


def test_vertex_colours_of_one_value_multiply_a_factor():
    attributes = {"COLOR_0": np.tile(np.uint8([255, 128, 0, 255]), (4, 1))}
    data = gltf_quad.write(
        pbr(baseColorFactor=[1, 0.5, 1, 1]), attributes=attributes, normalised=["COLOR_0"]
    )
    assert gltf_quad.rgb(data) == [255, to_level(128 / 255 / 2), 0]


def test_vertex_colours_outside_of_their_range_are_clamped():
    colours = np.array([[4, -1, np.nan]] * 2 + [[0, 1, 0]] * 2, np.float32)
    data = gltf_quad.write(None, attributes={"COLOR_0": colours})
    # Clamped at the corners, as the standard says, so a half of each in the middle.
    assert gltf_quad.rgb(data, 0.5, 0.5) == [to_level(0.5), to_level(0.5), 0]


@pytest.mark.parametrize(
    ("glow", "expected"),
    [
        ({"emissiveFactor": [1, 0.5, 0]}, [255, 188, 0]),
        ({"emissiveFactor": [1, 1, 1], "emissiveTexture": texture()}, ORANGE),
        (
            {"emissiveFactor": [1, 0.5, 1], "emissiveTexture": texture()},
            [200, to_level(to_linear(150) / 2), 50],
        ),
        (
            {
                "emissiveFactor": [0.1, 0.25, 1],
                "extensions": {"KHR_materials_emissive_strength": {"emissiveStrength": 2}},
            },
            [to_level(0.2), to_level(0.5), 255],
        ),
    ],
)
def test_emissive_colour_replaces_a_black_base_colour(glow, expected):
    content = gltf_quad.load(gltf_quad.write({**pbr(**BLACK), **glow}, pictures=[flat(ORANGE)]))
    assert gltf_quad.rgba_at(content.surface, 0.4, 0.7) == [*expected, 255]
    assert content.notes == (EMISSIVE,)


def test_base_colour_is_black_by_its_texture_or_the_vertex_colours():
    glow = {"emissiveFactor": [0, 1, 0]}
    by_texture = {**pbr(baseColorTexture=texture()), **glow}
    black, dark = (gltf_quad.write(by_texture, pictures=[flat(c)]) for c in ([0] * 3, [30] * 3))
    assert gltf_quad.rgb(black) == [0, 255, 0]
    assert gltf_quad.rgb(dark) == [30, 30, 30]
    vertices = {"COLOR_0": np.zeros((4, 3), np.float32)}
    assert gltf_quad.rgb(gltf_quad.write(glow, attributes=vertices)) == [0, 255, 0]
    vertices["COLOR_0"][2] = 1
    assert gltf_quad.rgb(gltf_quad.write(glow, attributes=vertices), 1, 1) == [255, 255, 255]


@pytest.mark.parametrize(
    "material",
    [
        pbr(**BLACK),
        {**pbr(**BLACK), "emissiveFactor": [0, 0, 0]},
        {**pbr(**BLACK), "emissiveFactor": [0, 0, 0], "emissiveTexture": texture()},
        # The default factor is black, so a texture alone does not glow.
        {**pbr(**BLACK), "emissiveTexture": texture()},
        # A material without shading shows its base colour.
        {**UNLIT, **pbr(**BLACK), "emissiveFactor": [1, 1, 1]},
    ],
)
def test_black_without_emission_stays_black(material):
    content = gltf_quad.load(gltf_quad.write(material, pictures=[flat(ORANGE)]))
    assert gltf_quad.rgba_at(content.surface, 0.4, 0.7) == [0, 0, 0, 255]
    assert content.notes == ()


def test_emissive_texture_has_its_own_coordinates():
    glow = texture(texCoord=1, extensions={"KHR_texture_transform": {"offset": [0.5, 0]}})
    halves = picture(np.uint8([[[255, 0, 0], [0, 0, 255]]]))
    material = {**pbr(**BLACK), "emissiveFactor": [1, 1, 1], "emissiveTexture": glow}
    first = np.full((4, 2), 0.2, np.float32)
    data = gltf_quad.write(material, pictures=[halves], attributes={"TEXCOORD_1": first})
    assert gltf_quad.rgb(data) == [0, 0, 255]


@pytest.mark.parametrize("mode", ["OPAQUE", "MASK", "BLEND"])
def test_the_alpha_of_an_emissive_texture_is_ignored(mode):
    pixels = picture(np.uint8([[[*ORANGE, 0], [*ORANGE, 255]]]))
    glow = {"emissiveFactor": [1, 1, 1], "emissiveTexture": texture(), "alphaMode": mode}
    surface = gltf_quad.load(gltf_quad.write({**pbr(**BLACK), **glow}, pictures=[pixels])).surface
    assert gltf_quad.rgba_at(surface, 0.2, 0.5) == [*ORANGE, 255]


@pytest.mark.parametrize("own_size", [1, 4])
def test_emissive_colour_keeps_the_holes_of_the_base_colour(own_size):
    base = np.zeros((2, 2, 4), np.uint8)
    base[:, 1, 3] = 255
    material = {
        **pbr(baseColorTexture=texture(0)),
        "emissiveTexture": texture(1),
        "emissiveFactor": [1, 1, 1],
        "alphaMode": "MASK",
    }
    glow = flat(ORANGE, side=own_size)
    surface = gltf_quad.load(gltf_quad.write(material, pictures=[picture(base), glow])).surface
    assert gltf_quad.rgba_at(surface, 0.75, 0.5) == [*ORANGE, 255]
    assert gltf_quad.rgba_at(surface, 0.25, 0.5)[3] == 0


@pytest.mark.parametrize(
    ("name", "is_noted"),
    [
        ("KHR_materials_transmission", True),
        ("KHR_materials_volume", True),
        ("KHR_materials_variants", True),
        ("KHR_materials_diffuse_transmission", True),
        ("KHR_materials_clearcoat", False),
        ("KHR_materials_ior", False),
        ("KHR_materials_specular", False),
        ("KHR_materials_iridescence", False),
        ("KHR_materials_anisotropy", False),
        ("KHR_materials_dispersion", False),
    ],
)
def test_other_extensions_of_materials_leave_the_base_colour(name, is_noted):
    material = {**pbr(baseColorFactor=[1, 0, 0, 1]), "extensions": {name: {}}}
    content = gltf_quad.load(gltf_quad.write(material, extensionsUsed=[name]))
    assert gltf_quad.rgba_at(content.surface, 0.5, 0.5) == [255, 0, 0, 255]
    assert content.surface.opacity.tolist() == [1]
    assert [note for note in content.notes if name in note] == list(content.notes)
    assert bool(content.notes) == is_noted


def test_a_material_that_does_not_exist_is_an_error():
    data = gltf_quad.write({"name": "only one"}, materials=[])
    with pytest.raises(MeshError, match="a primitive names a material that does not exist: 0"):
        gltf_quad.load(data)


@pytest.mark.parametrize("value", [[1, 0], "red", [1, 0, "x", 1], {"r": 1}])
def test_a_malformed_factor_is_an_error_that_names_it(value):
    with pytest.raises(MeshError, match="'baseColorFactor' is"):
        gltf_quad.load(gltf_quad.write(pbr(baseColorFactor=value)))


def test_squares_with_one_texture_decode_and_store_it_once(monkeypatch):
    decoded = []
    read = images.read_texture

    def count(data, **options):
        decoded.append(data)
        return read(data, **options)

    monkeypatch.setattr(images, "read_texture", count)
    plain = pbr(baseColorTexture=texture())
    half = pbr(baseColorTexture=texture(), baseColorFactor=[0.5, 1, 1, 1])
    data = gltf_quad.write(*[plain] * 50, *[half] * 50, pictures=[flat(ORANGE, side=16)])
    surface = gltf_quad.load(data).surface
    assert len(decoded) == 1
    assert len(surface.texels) == 2 * 16 * 16
    assert gltf_quad.rgba_at(surface, 0.5, 0.2, square=49) == [*ORANGE, 255]
    red = to_level(to_linear(200) / 2)
    assert gltf_quad.rgba_at(surface, 0.5, 0.2, square=50) == [red, 150, 50, 255]


def test_the_limit_on_texels_counts_multiplied_textures(monkeypatch):
    monkeypatch.setenv(limits.TEXELS.variable, "1000")
    factors = np.linspace(0.1, 0.9, 5)
    materials = [pbr(baseColorTexture=texture(), baseColorFactor=[f, 1, 1, 1]) for f in factors]
    pictures = [flat(ORANGE, side=16)]
    gltf_quad.load(gltf_quad.write(*materials[:3], pictures=pictures))
    with pytest.raises(MeshError, match="too large: 1024 pixels of textures"):
        gltf_quad.load(gltf_quad.write(*materials, pictures=pictures))
