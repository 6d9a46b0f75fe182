# SPDX-License-Identifier: Apache-2.0
"""Alpha modes of glTF: what is a hole, what is an opacity, and what is ignored."""

import gltf_quad
import numpy as np
import pytest
from gltf_quad import picture, texture

from data_prep.geometry.surface import ALL_INVISIBLE, HOLE_ALPHA, sample_points

GREEN = [0, 200, 0]


def pbr(**values):
    return {"pbrMetallicRoughness": values}


def textured(*, alpha=255, factor=1.0, **material):
    """Returns a file of a green square; `alpha` is one value, or one per column of the texture."""
    alpha = np.atleast_1d(alpha)
    pixels = np.zeros((2, len(alpha), 4)) + [*GREEN, 0]
    pixels[..., 3] = alpha
    values = pbr(baseColorTexture=texture(), baseColorFactor=[1, 1, 1, factor])
    return gltf_quad.write({**values, **material}, pictures=[picture(pixels)])


def ramp(**material):
    """Returns a file of a square whose vertex alpha is x."""
    colours = np.array([[1, 0, 0, x] for x in (0, 1, 1, 0)], np.float32)
    return gltf_quad.write(material, attributes={"COLOR_0": colours})


def is_hole(surface, x, y=0.5, *, square=0):
    return gltf_quad.rgba_at(surface, x, y, square=square)[3] < HOLE_ALPHA


@pytest.mark.parametrize(
    "data",
    [
        textured(alpha=0),
        textured(alpha=[0, 255, 90]),
        textured(factor=0),
        textured(alphaMode="OPAQUE", alpha=[0, 255], factor=0.2, alphaCutoff=0.9),
        ramp(),
        ramp(alphaMode="OPAQUE"),
    ],
)
def test_opaque_materials_ignore_alpha(data):
    content = gltf_quad.load(data)
    assert {gltf_quad.rgba_at(content.surface, x, 0.5)[3] for x in (0.1, 0.5, 0.9)} == {255}
    assert content.surface.opacity.tolist() == [1]
    assert content.notes == ()


def test_a_large_opaque_texture_keeps_the_colours_below_an_alpha_of_zero():
    pixels = np.zeros((2048, 2048, 4), np.uint8) + np.uint8([*GREEN, 0])
    material = pbr(baseColorTexture=texture())
    content = gltf_quad.load(gltf_quad.write(material, pictures=[picture(pixels)]))
    assert gltf_quad.rgba_at(content.surface, 0.3, 0.3) == [*GREEN, 255]
    assert len(content.surface.texels) < 1024**2


@pytest.mark.parametrize(
    ("alpha", "factor", "cutoff", "is_surface"),
    [
        (100, 1.0, {"alphaCutoff": 0.3}, True),
        (100, 1.0, {"alphaCutoff": 0.4}, False),
        (128, 1.0, {}, True),  # the default cutoff is one half
        (127, 1.0, {}, False),
        (200, 0.5, {}, False),
        (200, 0.7, {}, True),
        (51, 1.0, {"alphaCutoff": 0.2}, True),  # equal to the cutoff
        (255, 0.7, {"alphaCutoff": 0.7}, True),
        (255, 0.7, {"alphaCutoff": 0.71}, False),
        (0, 1.0, {"alphaCutoff": 0}, True),
        (255, 1.0, {"alphaCutoff": 1.0}, True),
        (255, 1.0, {"alphaCutoff": 1.01}, False),
    ],
)
def test_masks_compare_the_product_of_alphas_with_the_cutoff(alpha, factor, cutoff, is_surface):
    # Beside an opaque square, so that not everything is invisible. A texture of one alpha and one
    # with several take different ways.
    for alphas in ([alpha], [alpha, 255, 0]):
        pixels = np.zeros((1, len(alphas), 4)) + [*GREEN, 0]
        pixels[..., 3] = alphas
        values = pbr(baseColorTexture=texture(), baseColorFactor=[1, 1, 1, factor])
        masked = {**values, "alphaMode": "MASK", **cutoff}
        surface = gltf_quad.load(gltf_quad.write(masked, {}, pictures=[picture(pixels)])).surface
        seen = not is_hole(surface, 0.1) and surface.opacity[0] == 1
        assert seen == is_surface


@pytest.mark.parametrize("cutoff", [0.02, 0.25, 0.5, 0.75, 0.98])
@pytest.mark.parametrize("factor", [1.0, 0.6])
def test_masks_of_interpolated_vertex_alpha_end_at_the_cutoff(cutoff, factor):
    material = {"alphaMode": "MASK", "alphaCutoff": cutoff * factor}
    surface = gltf_quad.load(ramp(**material, **pbr(baseColorFactor=[1, 1, 1, factor]))).surface
    assert [is_hole(surface, cutoff + d) for d in (-0.01, 0.01)] == [True, False]


@pytest.mark.parametrize("cutoff", [0.1, 0.25, 0.4])
def test_masks_of_texture_and_vertex_alpha_end_at_the_cutoff(cutoff):
    colours = np.array([[1, 1, 1, x] for x in (0, 1, 1, 0)], np.float32)
    pixels = np.zeros((2, 1, 4)) + [*GREEN, 0]
    pixels[:, 0, 3] = [255, 128]
    values = pbr(baseColorTexture=texture())
    data = gltf_quad.write(
        {**values, "alphaMode": "MASK", "alphaCutoff": cutoff},
        pictures=[picture(pixels)],
        attributes={"COLOR_0": colours},
    )
    surface = gltf_quad.load(data).surface
    for y, alpha in ((0.75, 1), (0.25, 128 / 255)):
        end = cutoff / alpha
        assert [is_hole(surface, end + d, y) for d in (-0.02, 0.02)] == [True, False]
    assert gltf_quad.rgba_at(surface, 0.9, 0.7)[:3] == GREEN


def test_vertex_alpha_of_one_value_is_part_of_a_mask():
    colours = np.tile(np.float32([1, 1, 1, 0.6]), (4, 1))
    pixels = picture([[[0, 200, 0, 255], [0, 200, 0, 200]]])
    values = pbr(baseColorTexture=texture())
    data = gltf_quad.write(
        {**values, "alphaMode": "MASK"}, pictures=[pixels], attributes={"COLOR_0": colours}
    )
    surface = gltf_quad.load(data).surface
    assert [is_hole(surface, x) for x in (0.25, 0.75)] == [False, True]


@pytest.mark.parametrize("mode", ["MASK", "BLEND"])
def test_squares_below_the_cutoff_are_not_sampled(mode):
    red, clear = ({"baseColorFactor": [1, 0, 0, a]} for a in (1, 0.01))
    data = gltf_quad.write(*({**pbr(**v), "alphaMode": mode} for v in (red, clear)))
    content = gltf_quad.load(data)
    assert content.surface.opacity.tolist() == pytest.approx([1, 0.01 if mode == "BLEND" else 0])
    # A hidden square that is the whole file is shown instead.
    alone = gltf_quad.load(gltf_quad.write({**pbr(**clear), "alphaMode": mode}))
    assert alone.notes == (ALL_INVISIBLE,)
    _, rgb = sample_points(alone.surface, points=10, rng=np.random.default_rng(0))
    assert rgb.tolist() == [[255, 0, 0]] * 10


def test_blending_takes_the_factor_as_opacity_and_the_texture_for_holes():
    data = textured(alpha=[255, 127, 128], factor=0.4, alphaMode="BLEND")
    surface = gltf_quad.load(data).surface
    assert surface.opacity.tolist() == pytest.approx([0.4])
    assert [is_hole(surface, x) for x in (0.1, 0.5, 0.9)] == [False, True, False]


def test_blending_with_one_alpha_everywhere_is_glass_and_no_hole():
    surface = gltf_quad.load(textured(alpha=51, factor=0.5, alphaMode="BLEND")).surface
    assert surface.opacity.tolist() == pytest.approx([0.1])
    assert gltf_quad.rgba_at(surface, 0.5, 0.5) == [*GREEN, 255]
    colours = {"COLOR_0": np.tile(np.float32([0, 0, 1, 0.25]), (4, 1))}
    surface = gltf_quad.load(gltf_quad.write({"alphaMode": "BLEND"}, attributes=colours)).surface
    assert surface.opacity.tolist() == pytest.approx([0.25])
    assert gltf_quad.rgba_at(surface, 0.5, 0.5) == [0, 0, 255, 255]


def test_blending_of_vertex_alpha_makes_holes_below_one_half():
    surface = gltf_quad.load(ramp(alphaMode="BLEND")).surface
    assert [is_hole(surface, x) for x in (0.4, 0.49, 0.51, 0.6)] == [True, True, False, False]


def test_an_unknown_alpha_mode_is_noted_and_opaque():
    content = gltf_quad.load(textured(alpha=[0, 255], alphaMode="mask"))
    assert content.notes == ("unknown alpha mode of a material, taken as opaque",)
    assert not is_hole(content.surface, 0.1)
