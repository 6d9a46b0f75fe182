# SPDX-License-Identifier: Apache-2.0
"""Textures of glTF: their pictures, and where a material places them on a primitive."""

import dataclasses
import math
from typing import Any

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import colour_spaces, images
from data_prep.geometry.readers.gltf import fields
from data_prep.geometry.readers.gltf.document import Document
from data_prep.geometry.scene import CLAMP, MIRROR, REPEAT, MeshError

MISSING_TEXTURE = "missing texture"
MISSING_COORDINATES = "texture without coordinates, its first texel is used"
NOT_NORMALISED = "texture coordinates are integers that are not normalised, taken as normalised"
UNKNOWN_WRAP = "unknown wrap mode of a texture, taken as repeat"

_WRAP = {10497: REPEAT, 33071: CLAMP, 33648: MIRROR}
# Extensions that name another picture than `source`, and are preferred to it.
_PREFERRED = ("EXT_texture_webp", "EXT_texture_avif")
# Extensions that name a picture of a format that is not read: used if nothing else is named, so
# that the note names the format.
_OTHERS = ("KHR_texture_basisu", "MSFT_texture_dds", "EXT_texture_astc")
# Moves a coordinate on the border of two texels into the next one, as filters of GPUs do. It is
# far more than the rounding of coordinates around 1, and a thousandth of a texel.
_BORDER = 2.0**-20


@dataclasses.dataclass(frozen=True)
class Placement:
    """Texture coordinates of a texture in a material.

    Attributes:
      texcoord: number of the set of coordinates.
      offset, rotation, scale: as in KHR_texture_transform; radians.
      wrap: wrap modes of `scene`, for u and v.
    """

    texcoord: int = 0
    offset: tuple[float, float] = (0.0, 0.0)
    rotation: float = 0.0
    scale: tuple[float, float] = (1.0, 1.0)
    wrap: tuple[int, int] = (REPEAT, REPEAT)

    def transform(self, uv: np.ndarray) -> np.ndarray:
        """Transforms coordinates float64 [vertices, 2], origin at the upper left.

        A positive angle turns the coordinates counter-clockwise as seen on the picture, so from the
        axis of v, which points down, to that of u.
        """
        cosine, sine = math.cos(self.rotation), math.sin(self.rotation)
        matrix = np.array([[cosine, sine], [-sine, cosine]]) * self.scale
        return uv @ matrix.T + self.offset


class Textures:
    """Decoded pictures of a document; each is decoded and noted once.

    Attributes:
      notes: what was ignored or replaced, shared with the document.
    """

    def __init__(self, document: Document):
        self.notes = document.assets.notes
        self._document = document
        self._decoded: dict[tuple[int, bool], np.ndarray | None] = {}
        self._recoloured: dict[tuple, tuple[np.ndarray, np.ndarray]] = {}
        # Both kinds are limited before the surface is joined: a small file may declare thousands.
        self._texels = {"decoded": 0, "recoloured": 0}

    def read(self, info: dict[str, Any], *, alpha_is_used: bool) -> np.ndarray | None:
        """Returns the texels of a texture that a material names.

        Args:
          info: object of the material, such as `baseColorTexture`.
          alpha_is_used: False replaces the alpha by 255.

        Returns:
          uint8 [height, width, 4]; None, and a note, if there is no readable picture.

        Raises:
          limits.LimitError: the pictures together have too many texels.
        """
        for image in self._images(info):
            key = image, alpha_is_used
            if key not in self._decoded:
                self._decoded[key] = self._decode(image, alpha_is_used=alpha_is_used)
            if self._decoded[key] is not None:
                return self._decoded[key]
        return None

    def placement(self, info: dict[str, Any]) -> Placement:
        """Returns how a texture that a material names is placed.

        Raises:
          MeshError: a field is malformed.
        """
        texture = _item(self._document, "textures", fields.get_index(info, "index")) or {}
        sampler = _item(self._document, "samplers", fields.get_index(texture, "sampler")) or {}
        codes = [fields.get_index(sampler, name, 10497) for name in ("wrapS", "wrapT")]
        if not set(codes) <= set(_WRAP):
            self.notes.append(UNKNOWN_WRAP)
        transform = fields.get_extension(info, "KHR_texture_transform") or {}
        texcoord = fields.get_index(info, "texCoord", 0)
        return Placement(
            fields.get_index(transform, "texCoord", texcoord),
            fields.get_numbers(transform, "offset", (0.0, 0.0)),
            fields.get_number(transform, "rotation", 0.0),
            fields.get_numbers(transform, "scale", (1.0, 1.0)),
            (_WRAP.get(codes[0], REPEAT), _WRAP.get(codes[1], REPEAT)),
        )

    def recolour(
        self, texels: np.ndarray, *, factor: np.ndarray, alpha: np.ndarray | None
    ) -> np.ndarray:
        """Multiplies the colours of texels and replaces their alpha; the result is kept.

        Args:
          texels: uint8 [height, width, 4], sRGB, which this object or a caller keeps alive.
          factor: linear factor [3].
          alpha: uint8 [256], new alpha by the old one; None keeps it.

        Raises:
          limits.LimitError: the results together have too many texels.
        """
        is_white = bool((factor == 1).all())
        if is_white and alpha is None:
            return texels
        key = id(texels), factor.tobytes(), None if alpha is None else alpha.tobytes()
        if key not in self._recoloured:
            self._count("recoloured", texels)
            levels = colour_spaces.to_linear(np.arange(256, dtype=np.uint8))[:, None]
            table = np.empty((256, 4), np.uint8)
            table[:, :3] = np.rint(255 * colour_spaces.to_srgb(levels * factor))
            table[:, 3] = np.arange(256) if alpha is None else alpha
            result = np.stack([table[texels[..., c], c] for c in range(4)], axis=-1)
            # The key is the address of the texels, so they must live as long as it.
            self._recoloured[key] = texels, result
        return self._recoloured[key][1]

    def _images(self, info: dict[str, Any]) -> list[int]:
        """Returns the indices of the pictures of a texture, best first; none after a note."""
        texture = _item(self._document, "textures", fields.get_index(info, "index"))
        found = []
        if texture is not None:
            sources = [fields.get_extension(texture, name) or {} for name in _PREFERRED]
            sources.append(texture)
            found = [fields.get_index(source, "source") for source in sources]
            if found == [None] * len(found):
                others = [fields.get_extension(texture, name) or {} for name in _OTHERS]
                found = [fields.get_index(other, "source") for other in others]
        found = [image for image in found if image is not None]
        if not found:
            self.notes.append(MISSING_TEXTURE)
        return found

    def _decode(self, image: int, *, alpha_is_used: bool) -> np.ndarray | None:
        data = self._document.image_bytes(image)
        if data is None:
            return None
        texels = images.read_texture(data, notes=self.notes, alpha_is_used=alpha_is_used)
        if texels is not None:
            self._count("decoded", texels)
        return texels

    def _count(self, kind: str, texels: np.ndarray) -> None:
        self._texels[kind] += texels.shape[0] * texels.shape[1]
        limits.TEXELS.check(self._texels[kind])


def corner_coordinates(
    document: Document,
    placement: Placement,
    *,
    faces: np.ndarray,
    attributes: dict[str, np.ndarray],
) -> np.ndarray:
    """Returns the texture coordinates of the corners of faces, origin at the lower left.

    Args:
      document: document of the primitive.
      placement: placement of the texture.
      faces: int [faces, 3], indices of vertices.
      attributes: arrays of the primitive by name, one item per vertex.

    Returns:
      float64 [faces, 3, 2]; that of the first texel, and a note, without coordinates: GPUs read
      zeros from an attribute that is absent.

    Raises:
      MeshError: the coordinates are no pairs.
    """
    uv = attributes.get(f"TEXCOORD_{placement.texcoord}")
    if uv is None:
        document.assets.notes.append(MISSING_COORDINATES)
        uv = np.zeros((1, 2))
        faces = np.zeros_like(faces)
    elif uv.ndim != 2:
        raise MeshError("malformed attribute, expected 2 numbers per vertex: TEXCOORD")
    elif uv.dtype.kind in "iu" and not _has_integer_coordinates(document):
        if uv.max(initial=0) > 1:
            document.assets.notes.append(NOT_NORMALISED)
            uv = uv / np.iinfo(uv.dtype).max
    uv = placement.transform(uv[:, :2].astype(np.float64)) + _BORDER
    uv[:, 1] = 1 - uv[:, 1]
    return uv[faces]


def _has_integer_coordinates(document: Document) -> bool:
    """Returns whether integer coordinates count texture widths, as KHR_mesh_quantization says."""
    return "KHR_mesh_quantization" in fields.get_strings(document.tree, "extensionsUsed")


def _item(document: Document, name: str, index: int | None) -> dict[str, Any] | None:
    """Returns an item of a list of the JSON; None if there is no such item.

    A mesh is usable without its texture, so a wrong index of a texture is no error.
    """
    if index is None or index >= len(fields.get_list(document.tree, name)):
        return None
    return fields.get_item(document.tree, name, index)
