# SPDX-License-Identifier: Apache-2.0
"""Appearance of the primitives of glTF: base colour, vertex colours and transparency.

The colour of a point is the base colour of its material, times the vertex colours: all factors and
vertex colours are linear, and textures are sRGB. Alpha counts as the material says: not at all, by
a threshold, or as an opacity. What reflects, glows or shines through beside it is ignored, except
that the emissive colour replaces a base colour of black: so are materials without shading written.
"""

import dataclasses
from typing import Any

import numpy as np

from data_prep.geometry import colour_spaces
from data_prep.geometry.readers.gltf import base_colours, fields
from data_prep.geometry.readers.gltf.base_colours import BaseColour
from data_prep.geometry.readers.gltf.document import Document
from data_prep.geometry.readers.gltf.textures import Textures, corner_coordinates
from data_prep.geometry.scene import MeshError, Texture, plain

OPAQUE, MASK, BLEND = "OPAQUE", "MASK", "BLEND"
UNKNOWN_ALPHA_MODE = "unknown alpha mode of a material, taken as opaque"
EMISSIVE = "emissive colour taken for a black base colour"
# A smaller cutoff has the same effect, and divisions by it overflow.
_TINY_CUTOFF = 1e-6
# Key of this module in `Document.cache`.
_CACHE = "materials"


@dataclasses.dataclass(frozen=True)
class Material:
    """Decoded material.

    Attributes:
      tree: object of the JSON.
      base: base colour.
      alpha_mode: OPAQUE, MASK or BLEND.
      cutoff: smallest alpha of MASK that is a surface.
    """

    tree: dict[str, Any]
    base: BaseColour
    alpha_mode: str = OPAQUE
    cutoff: float = 0.5

    @property
    def glows(self) -> bool:
        """Whether the material may have an emissive colour; one without shading has none."""
        is_unlit = fields.get_extension(self.tree, "KHR_materials_unlit") is not None
        return "emissiveFactor" in self.tree and not is_unlit


def appearance(
    document: Document,
    primitive: dict[str, Any],
    *,
    faces: np.ndarray,
    attributes: dict[str, np.ndarray],
) -> dict[str, Any]:
    """Returns the appearance of a primitive, as keyword arguments of `scene.Part`.

    Args:
      document: document of the primitive.
      primitive: object of the JSON.
      faces: int [faces, 3], indices of vertices.
      attributes: decoded arrays of the vertices by name, such as "TEXCOORD_0" and "COLOR_0".

    Raises:
      MeshError: the material does not exist, or is malformed.
      limits.LimitError: the textures of the document have too many texels.
    """
    if _CACHE not in document.cache:
        document.cache[_CACHE] = _Materials(document)
    materials: _Materials = document.cache[_CACHE]
    index = fields.get_index(primitive, "material")
    material = materials.get(index)
    colours = _vertex_colours(attributes.get("COLOR_0"))
    base = material.base
    if material.glows and base.is_black(colours):
        base = materials.emissive(index) or base
        if base is not material.base and colours is not None:
            # Vertex colours do not apply to the emission, except for their alpha.
            colours[:, :3] = 1
    if not base.is_stated and colours is None:
        return {}
    colours, levels, opacity = _alpha(material, base, colours)
    factor = base.factor[:3] if base.is_stated else np.ones(3)
    if colours is not None and (colours == 1).all():
        colours = None
    if colours is not None and base.texels is None and (colours == colours[0]).all():
        factor, colours = factor * colours[0, :3], None
    result = {"opacity": opacity}
    if base.texels is not None:
        texels = materials.textures.recolour(base.texels, factor=factor, alpha=levels)
        result["texture"] = Texture(texels, base.placement.wrap)
        if texels.shape[:2] != (1, 1):
            result["uv"] = corner_coordinates(
                document, base.placement, faces=faces, attributes=attributes
            )
    elif colours is None:
        result["texture"] = plain(*colour_spaces.to_srgb(factor))
    else:
        colours[:, :3] *= factor.astype(np.float32)
    if colours is not None:
        result |= {"colours": colours[faces], "colours_are_linear": True}
    return result


class _Materials:
    """Materials and textures of a document; each is decoded, and its faults are noted, once."""

    def __init__(self, document: Document):
        self.textures = Textures(document)
        self._document = document
        self._materials = {None: Material({}, BaseColour(np.ones(4)))}
        self._emissive: dict[int | None, BaseColour | None] = {}

    def get(self, index: int | None) -> Material:
        """Returns a material; the white one of the standard for None."""
        if index not in self._materials:
            if index >= len(fields.get_list(self._document.tree, "materials")):
                raise MeshError(f"a primitive names a material that does not exist: {index}")
            tree = fields.get_item(self._document.tree, "materials", index)
            self._materials[index] = self._decode(tree)
        return self._materials[index]

    def emissive(self, index: int | None) -> BaseColour | None:
        """Returns the colour that replaces a black base colour; None if there is none."""
        if index not in self._emissive:
            material = self._materials[index]
            self._emissive[index] = base_colours.emissive(
                material.tree,
                material.base,
                textures=self.textures,
                alpha_is_used=material.alpha_mode != OPAQUE,
            )
            if self._emissive[index] is not None:
                self.textures.notes.append(EMISSIVE)
        return self._emissive[index]

    def _decode(self, tree: dict[str, Any]) -> Material:
        mode = fields.get_string(tree, "alphaMode", OPAQUE)
        cutoff = fields.get_number(tree, "alphaCutoff", 0.5)
        if mode not in (OPAQUE, MASK, BLEND):
            self.textures.notes.append(UNKNOWN_ALPHA_MODE)
        if mode != BLEND and (mode != MASK or cutoff <= 0):
            mode = OPAQUE
        options = {"textures": self.textures, "alpha_is_used": mode != OPAQUE}
        archived = fields.get_extension(tree, "KHR_materials_pbrSpecularGlossiness")
        if archived is None:
            base = base_colours.metallic_roughness(tree, **options)
        else:
            base = base_colours.from_specular_glossiness(archived, **options)
        return Material(tree, base, mode, cutoff)


def _vertex_colours(values: np.ndarray | None) -> np.ndarray | None:
    """Returns linear colours float32 [vertices, 4], 0 to 1, of an attribute; None without one."""
    if values is None:
        return None
    if values.ndim != 2 or values.shape[1] not in (3, 4):
        raise MeshError("malformed attribute, expected 3 or 4 numbers per vertex: COLOR_0")
    if values.dtype.kind in "iu":  # the standard requires that integers are normalised
        values = values / np.float32(np.iinfo(values.dtype).max)
    colours = np.ones((len(values), 4), np.float32)
    colours[:, : values.shape[1]] = np.clip(np.nan_to_num(values), 0, 1)
    return colours


def _alpha(
    material: Material, base: BaseColour, colours: np.ndarray | None
) -> tuple[np.ndarray | None, np.ndarray | None, float]:
    """Translates alpha into holes, which are below `surface.HOLE_ALPHA`, and opacity.

    An alpha that is the same on the whole primitive is an opacity, so that panes of glass are no
    holes. An alpha that varies makes holes.

    Args:
      material: material of the primitive.
      base: base colour in use.
      colours: [vertices, 4], of which the alpha is replaced in place; or None.

    Returns:
      The colours, with the alpha that remains in them; the new alpha of texels by the old one,
      uint8 [256], or None to keep it; and the opacity.
    """
    alpha = np.float32(base.factor[3] if base.is_stated else 1)
    if colours is None:
        varies = False
    else:
        varies = not (colours[:, 3] == colours[0, 3]).all()
        if material.alpha_mode == OPAQUE or not varies:
            alpha *= colours[0, 3]
            colours[:, 3] = 1
    if material.alpha_mode == OPAQUE:
        return colours, None, 1.0
    if material.alpha_mode == BLEND:
        if base.common_alpha is None:
            return colours, None, float(np.clip(alpha, 0, 1))
        alpha *= np.float32(base.common_alpha / 255)
        return colours, _opaque_levels(base), float(np.clip(alpha, 0, 1))
    cutoff = np.float32(max(material.cutoff, _TINY_CUTOFF))
    if varies:
        # The product with the texels must reach one half where the alpha reaches the cutoff. It
        # may exceed 1: surfaces clip it after the interpolation.
        colours[:, 3] *= np.float32(0.5) * alpha / cutoff
        return colours, None, 1.0
    is_surface = np.arange(256, dtype=np.float32) / np.float32(255) * alpha >= cutoff
    if base.common_alpha is not None:
        return colours, _opaque_levels(base), float(is_surface[base.common_alpha])
    return colours, np.where(is_surface, 255, 0).astype(np.uint8), 1.0


def _opaque_levels(base: BaseColour) -> np.ndarray | None:
    """Returns a table that makes all texels opaque; None if they are."""
    return None if base.common_alpha == 255 else np.full(256, 255, np.uint8)
