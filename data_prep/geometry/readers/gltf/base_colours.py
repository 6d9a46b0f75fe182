# SPDX-License-Identifier: Apache-2.0
"""Base colours of glTF materials, before the colours of the vertices are applied."""

import dataclasses
import functools
from typing import Any

import numpy as np

from data_prep.geometry import colour_spaces
from data_prep.geometry.readers.gltf import fields, specular_glossiness
from data_prep.geometry.readers.gltf.textures import Placement, Textures

DIFFERENT_PLACEMENTS = "textures of one material with different coordinates, one is averaged"
# A base colour up to this sRGB level is black; JPEG changes black by a few levels.
_BLACK_LEVEL = 3


@dataclasses.dataclass(frozen=True)
class BaseColour:
    """Base colour of a material: a linear factor, times the texels.

    Attributes:
      factor: linear RGB and alpha [4].
      texels: uint8 [height, width, 4], sRGB and alpha; None without a texture.
      placement: placement of the texels.
      is_stated: False if the only statement is a texture that cannot be read.
    """

    factor: np.ndarray
    texels: np.ndarray | None = None
    placement: Placement = Placement()
    is_stated: bool = True

    @functools.cached_property
    def brightest(self) -> np.ndarray:
        """The largest value of each channel, linear [3]."""
        if self.texels is None:
            return self.factor[:3]
        return self.factor[:3] * colour_spaces.to_linear(self.texels[..., :3].max(axis=(0, 1)))

    @functools.cached_property
    def common_alpha(self) -> int | None:
        """The alpha of all texels, 0 to 255, if it is the same; None if it varies."""
        if self.texels is None:
            return 255
        alpha = self.texels[..., 3]
        return int(alpha[0, 0]) if (alpha == alpha[0, 0]).all() else None

    def is_black(self, vertex_colours: np.ndarray | None = None) -> bool:
        """Returns whether the colour is black everywhere.

        Args:
          vertex_colours: linear factors [vertices, 3 or 4], or None.
        """
        linear = self.brightest
        if vertex_colours is not None:
            linear = linear * vertex_colours[:, :3].max(axis=0)
        return bool((colour_spaces.to_srgb(linear) * 255 <= _BLACK_LEVEL).all())


def metallic_roughness(
    material: dict[str, Any], *, textures: Textures, alpha_is_used: bool
) -> BaseColour:
    """Returns the base colour of `pbrMetallicRoughness`; white by the standard if it is absent."""
    values = fields.get_object(material, "pbrMetallicRoughness")
    return _textured(values, "baseColor", textures=textures, alpha_is_used=alpha_is_used)


def from_specular_glossiness(
    values: dict[str, Any], *, textures: Textures, alpha_is_used: bool
) -> BaseColour:
    """Returns the base colour of a material with KHR_materials_pbrSpecularGlossiness.

    A specular texture that cannot be read counts as that of a surface that is no metal.

    Args:
      values: object of the extension.
      textures: textures of the document.
      alpha_is_used: False replaces the alpha of texels by 255.
    """
    diffuse = _textured(values, "diffuse", textures=textures, alpha_is_used=alpha_is_used)
    if not diffuse.is_stated:
        return diffuse
    specular = np.asarray(fields.get_numbers(values, "specularFactor", (1.0,) * 3), np.float32)
    info = fields.get_object(values, "specularGlossinessTexture")
    if info:
        texels = textures.read(info, alpha_is_used=False)
        if texels is None:
            return diffuse
        levels = texels[..., :3]
        specular = specular * colour_spaces.to_linear(levels)
        if diffuse.texels is not None and textures.placement(info) != diffuse.placement:
            textures.notes.append(DIFFERENT_PLACEMENTS)
            specular = specular.mean(axis=(0, 1))
        elif diffuse.texels is None:
            # The texels of the specular texture are placed as that texture says.
            diffuse = dataclasses.replace(
                diffuse,
                texels=np.full((1, 1, 4), 255, np.uint8),
                placement=textures.placement(info),
            )
    return _converted(diffuse, specular)


def emissive(
    material: dict[str, Any], base: BaseColour, *, textures: Textures, alpha_is_used: bool
) -> BaseColour | None:
    """Returns the emissive colour with the alpha of the base colour; None if it is black."""
    strength = fields.get_extension(material, "KHR_materials_emissive_strength") or {}
    factor = np.array(fields.get_numbers(material, "emissiveFactor", (0.0,) * 3))
    factor = factor * fields.get_number(strength, "emissiveStrength", 1.0)
    if not (factor > 0).any():
        return None
    factor = np.array([*factor, base.factor[3]])
    info = fields.get_object(material, "emissiveTexture")
    texels = textures.read(info, alpha_is_used=False) if info else None
    if info and texels is None:
        return None
    placement = textures.placement(info) if info else base.placement
    if alpha_is_used and base.texels is not None and base.common_alpha != 255:
        if placement == base.placement:
            texels = np.full((1, 1, 4), 255, np.uint8) if texels is None else texels
            colours, alpha = _same_size(texels[..., :3], base.texels[..., 3:])
            texels = np.concatenate([colours, alpha], axis=-1)
        else:
            textures.notes.append(DIFFERENT_PLACEMENTS)
    glow = BaseColour(factor, texels, placement)
    return None if glow.is_black() else glow


def _textured(
    values: dict[str, Any], name: str, *, textures: Textures, alpha_is_used: bool
) -> BaseColour:
    """Returns a factor times a texture, such as `baseColorFactor` and `baseColorTexture`."""
    has_factor = values.get(f"{name}Factor") is not None
    factor = np.array(_rgba(values, f"{name}Factor"))
    info = fields.get_object(values, f"{name}Texture")
    texels = textures.read(info, alpha_is_used=alpha_is_used) if info else None
    if info and texels is None:
        return BaseColour(factor, is_stated=has_factor)
    return BaseColour(factor, texels, textures.placement(info) if info else Placement())


def _rgba(values: dict[str, Any], name: str) -> tuple[float, ...]:
    """Returns a colour; some exporters leave the alpha of 1 out."""
    if isinstance(values.get(name), list) and len(values[name]) == 3:
        return (*fields.get_numbers(values, name, (1.0,) * 3), 1.0)
    return fields.get_numbers(values, name, (1.0,) * 4)


def _converted(diffuse: BaseColour, specular: np.ndarray) -> BaseColour:
    """Converts a diffuse colour, with a specular one of shape [3] or [height, width, 3]."""
    opacity = diffuse.factor[3]
    if specular.ndim == 1:
        scale = specular_glossiness.matt_scale(specular)
        if scale is not None:
            return dataclasses.replace(
                diffuse, factor=np.array([*(diffuse.factor[:3] * scale), opacity])
            )
        if diffuse.texels is None:
            rgb = specular_glossiness.base_colours(diffuse.factor[:3], specular)
            return dataclasses.replace(diffuse, factor=np.array([*rgb, opacity], np.float64))
    texels = diffuse.texels
    if specular.ndim == 3:
        texels, specular = _same_size(texels, specular)
    colours = colour_spaces.to_linear(texels[..., :3]) * np.float32(diffuse.factor[:3])
    converted = np.empty_like(texels)
    linear = specular_glossiness.base_colours(colours, specular)
    converted[..., :3] = np.rint(255 * colour_spaces.to_srgb(linear))
    converted[..., 3] = texels[..., 3]
    return dataclasses.replace(diffuse, factor=np.array([1, 1, 1, opacity]), texels=converted)


def _same_size(first: np.ndarray, second: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Repeats rows and columns of two pictures [height, width, ...] so that their sizes agree."""
    height = max(first.shape[0], second.shape[0])
    width = max(first.shape[1], second.shape[1])
    rows, columns = np.arange(height)[:, None], np.arange(width)
    return tuple(
        picture[rows * picture.shape[0] // height, columns * picture.shape[1] // width]
        for picture in (first, second)
    )
