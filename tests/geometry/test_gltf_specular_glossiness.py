# SPDX-License-Identifier: Apache-2.0
"""Materials with KHR_materials_pbrSpecularGlossiness."""

import gltf_quad
import numpy as np
import pytest
from gltf_quad import picture, texture, to_level, to_linear

from data_prep.geometry.readers.gltf import specular_glossiness

NAME = "KHR_materials_pbrSpecularGlossiness"
MATT = {"specularFactor": [0, 0, 0]}


def material(**values):
    return {"extensions": {NAME: values}}


def from_metallic(base, metallic):
    """Returns the diffuse and specular colours of a surface of the metallic-roughness model."""
    specular = 0.04 + (np.asarray(base) - 0.04) * metallic
    diffuse = np.asarray(base) * 0.96 * (1 - metallic) / max(1 - specular.max(), 1e-6)
    return diffuse, specular


@pytest.mark.parametrize("metallic", [0.0, 0.3, 0.7, 1.0])
@pytest.mark.parametrize("grey", [0.1, 0.5, 0.9])
def test_greys_of_any_metal_come_back(grey, metallic):
    diffuse, specular = from_metallic([grey] * 3, metallic)
    got = specular_glossiness.base_colours(diffuse, specular)
    np.testing.assert_allclose(got, [grey] * 3, atol=2e-3)


@pytest.mark.parametrize("base", [[1, 0.766, 0.336], [0.8, 0.1, 0.05], [0.2, 0.3, 0.9]])
@pytest.mark.parametrize("metallic", [0.0, 1.0])
def test_colours_of_metals_and_of_matt_surfaces_come_back(base, metallic):
    diffuse, specular = from_metallic(base, metallic)
    got = specular_glossiness.base_colours(diffuse, specular)
    np.testing.assert_allclose(got, base, atol=1e-4)
    values = material(diffuseFactor=[*diffuse, 1], specularFactor=list(specular))
    assert gltf_quad.rgb(gltf_quad.write(values)) == [to_level(v) for v in base]


def by_khronos(diffuse, specular):
    """Returns the base colour by the published formulas, for one colour in float64."""
    diffuse, specular = np.asarray(diffuse), np.asarray(specular)
    weights = [0.299, 0.587, 0.114]
    dull, shiny = (np.sqrt(np.dot(weights, colour**2)) for colour in (diffuse, specular))
    rest = 1 - specular.max()
    metallic = 0.0
    if shiny >= 0.04:
        roots = np.roots([0.04, dull * rest / 0.96 + shiny - 0.08, 0.04 - shiny])
        metallic = np.clip(roots.max(), 0, 1)
    from_diffuse = diffuse * rest / 0.96 / max(1 - metallic, 1e-6)
    from_specular = (specular - 0.04 * (1 - metallic)) / max(metallic, 1e-6)
    return np.clip(from_diffuse + (from_specular - from_diffuse) * metallic**2, 0, 1)


def test_any_colours_are_converted_by_the_published_formulas():
    diffuse, specular = np.random.default_rng(0).random((2, 200, 3))
    specular[:50] *= 0.1
    expected = [by_khronos(*pair) for pair in zip(diffuse, specular, strict=True)]
    got = specular_glossiness.base_colours(diffuse, specular)
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"diffuseFactor": [1, 0, 0, 1], **MATT}, [255, 0, 0]),
        ({"diffuseFactor": [0.48, 0, 0, 1], **MATT}, [to_level(0.5), 0, 0]),
        # By the extension, the specular colour is white if it is absent: a mirror.
        ({}, [255, 255, 255]),
        ({"diffuseFactor": [1, 0, 0, 1]}, [255, 255, 255]),
        ({"diffuseFactor": [0, 0, 0, 1], "specularFactor": [1, 0.766, 0.336]}, [255, 227, 157]),
    ],
)
def test_factors(values, expected):
    assert gltf_quad.rgb(gltf_quad.write(material(**values))) == expected


def test_diffuse_texture_of_a_matt_surface():
    pixels = picture(np.uint8([[[200, 30, 0], [0, 30, 120]]]))
    values = {"diffuseTexture": texture(), "diffuseFactor": [1, 0.5, 1, 1], **MATT}
    surface = gltf_quad.load(gltf_quad.write(material(**values), pictures=[pixels])).surface
    green = to_level(to_linear(30) / 2 / 0.96)
    expected = [to_level(to_linear(200) / 0.96), green, 0, 255]
    assert gltf_quad.rgba_at(surface, 0.25, 0.5) == expected
    expected = [0, green, to_level(to_linear(120) / 0.96), 255]
    assert gltf_quad.rgba_at(surface, 0.75, 0.5) == expected


def test_textures_of_different_sizes_are_converted_by_texel():
    # Black and red by column, matt and gold by row of the finer specular texture.
    diffuse = picture(np.uint8([[[0, 0, 0], [255, 0, 0]]]))
    gold = [255, 227, 157]
    specular = picture(np.uint8([[[0, 0, 0]] * 4] * 2 + [[gold] * 4] * 2))
    values = material(diffuseTexture=texture(0), specularGlossinessTexture=texture(1))
    surface = gltf_quad.load(gltf_quad.write(values, pictures=[diffuse, specular])).surface
    assert gltf_quad.rgba_at(surface, 0.25, 0.75) == [0, 0, 0, 255]
    assert gltf_quad.rgba_at(surface, 0.75, 0.75) == [255, 0, 0, 255]
    assert gltf_quad.rgba_at(surface, 0.25, 0.25) == [*gold, 255]


def test_a_specular_texture_alone_has_its_own_coordinates():
    # The picture of a metal, of which the coordinates show the right half.
    halves = picture(np.uint8([[[255, 0, 0], [0, 0, 255]]]))
    moved = texture(extensions={"KHR_texture_transform": {"offset": [0.5, 0], "scale": [0.45, 1]}})
    values = material(diffuseFactor=[0, 0, 0, 1], specularGlossinessTexture=moved)
    assert gltf_quad.rgb(gltf_quad.write(values, pictures=[halves])) == [0, 0, 255]


def test_different_coordinates_average_the_specular_colour_with_a_note():
    flat = [picture(np.zeros((2, 2, 3)) + c) for c in ([0, 90, 0], [0, 0, 0])]
    values = material(diffuseTexture=texture(0), specularGlossinessTexture=texture(1, texCoord=1))
    attributes = {"TEXCOORD_1": gltf_quad.UPRIGHT}
    content = gltf_quad.load(gltf_quad.write(values, pictures=flat, attributes=attributes))
    assert gltf_quad.rgba_at(content.surface, 0.4, 0.3)[1] == to_level(to_linear(90) / 0.96)
    assert content.notes == (
        "textures of one material with different coordinates, one is averaged",
    )


def test_an_unreadable_specular_texture_leaves_the_diffuse_colour():
    values = material(diffuseFactor=[0.5, 0, 0, 1], specularGlossinessTexture=texture())
    content = gltf_quad.load(gltf_quad.write(values, pictures=[b"no picture"]))
    assert gltf_quad.rgba_at(content.surface, 0.4, 0.3) == [188, 0, 0, 255]
    assert content.notes == ("unreadable texture",)


def test_the_extension_precedes_the_other_workflow():
    both = {
        "pbrMetallicRoughness": {"baseColorFactor": [0, 1, 0, 1]},
        **material(diffuseFactor=[1, 0, 0, 1], **MATT),
    }
    assert gltf_quad.rgb(gltf_quad.write(both)) == [255, 0, 0]


def test_alpha_of_the_diffuse_colour_counts_as_the_material_says():
    pixels = np.zeros((1, 2, 4), np.uint8) + np.uint8([0, 0, 255, 0])
    pixels[:, 1, 3] = 255
    # A specular colour of a metal takes the way by texel.
    for specular in ([0, 0, 0], [0.5, 0.5, 0.5]):
        values = material(diffuseTexture=texture(), specularFactor=specular)
        for mode, alpha in (("MASK", 0), ("OPAQUE", 255)):
            data = gltf_quad.write({**values, "alphaMode": mode}, pictures=[picture(pixels)])
            surface = gltf_quad.load(data).surface
            assert gltf_quad.rgba_at(surface, 0.25, 0.5)[3] == alpha
            assert gltf_quad.rgba_at(surface, 0.75, 0.5)[3] == 255


def test_emission_replaces_a_black_diffuse_and_specular_colour():
    values = {**material(diffuseFactor=[0, 0, 0, 1], **MATT), "emissiveFactor": [0, 0, 1]}
    assert gltf_quad.rgb(gltf_quad.write(values)) == [0, 0, 255]
