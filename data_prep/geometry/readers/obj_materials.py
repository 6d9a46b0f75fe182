# SPDX-License-Identifier: Apache-2.0
"""Materials of an OBJ file: finds its MTL files and pictures, and decides colours."""

import dataclasses
import re
from collections.abc import Iterable, Iterator

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import images, scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import mtl

# Names that exporters give to faces without a material.
_NO_MATERIAL = ("", "none", "(null)", "null")
# Luminance of sRGB, for pictures of opacity.
_LUMINANCE = (0.2126, 0.7152, 0.0722)
_CHANNELS = {"r": 0, "g": 1, "b": 2, "m": 3}
# Grey below a picture of opacity where no colour is stated.
_GREY = (0.4, 0.4, 0.4)


@dataclasses.dataclass(frozen=True)
class Look:
    """Colour and opacity of a material.

    Attributes:
      picture: texture that needs coordinates, or None.
      plain: texture of one texel, the colour without picture; None if none is stated.
      scale, offset: coordinates on the picture are uv * scale + offset.
      opacity: 0 to 1.
    """

    picture: scene.Texture | None = None
    plain: scene.Texture | None = None
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    opacity: float = 1.0


@dataclasses.dataclass(frozen=True)
class _Picture:
    texels: np.ndarray
    map: mtl.Map
    path: str


class Materials:
    """Materials that an OBJ file can use. Pictures are read when they are needed."""

    def __init__(self, statements: Iterable[str], *, assets: Assets):
        """Reads the MTL files.

        Args:
          statements: rests of the lines `mtllib`.
          assets: reads the files, and collects notes.
        """
        self._assets = assets
        self._pictures: dict[tuple[str, str], _Picture | None] = {}
        self._materials: dict[str, mtl.Material] = {}
        self._is_complete = True
        distinct = dict.fromkeys(statements)
        limits.PARTS.check(len(distinct))
        for statement in distinct:
            for found in self._find(statement):
                new = mtl.parse(found.data, path=found.path, notes=assets.notes)
                # The first file that defines a name counts.
                self._materials = new | self._materials
                limits.PARTS.check(len(self._materials))

    def look(self, name: str | None) -> Look:
        """Returns the look of a material; that of the only material for None.

        A name that no file defines has no colour, and is noted once.
        """
        material = self._materials.get(mtl.material_name(name or ""))
        if name is None and len(self._materials) == 1:
            (material,) = self._materials.values()
        if material is not None:
            return self._look(material)
        if name is None:
            note = "several materials and no usemtl, ignored" if self._materials else ""
        else:
            is_missing = self._is_complete and name.lower() not in _NO_MATERIAL
            note = "missing material" if is_missing else ""
        if note and note not in self._assets.notes:
            self._assets.notes.append(note)
        return Look()

    def _find(self, statement: str) -> Iterator:
        """Yields the files that a statement names; names may contain spaces."""
        whole = statement.strip("\"'")
        found = self._assets.find(whole) if whole else None
        if found is not None:
            yield found
            return
        names = re.findall(r'"[^"]+"|\S.*?\.mtl(?!\S)|\S+', statement, re.IGNORECASE)
        limits.PARTS.check(len(names))
        for name in dict.fromkeys(name.strip("\"'") for name in names):
            found = self._assets.find(name)
            if found is not None:
                yield found
                continue
            self._is_complete = False
            self._assets.notes.append("missing materials file")
            # A pair of files that was renamed together.
            twin = self._assets.name.rpartition(".")[0]
            found = self._assets.find(f"{twin}.mtl") if twin and len(names) == 1 else None
            if found is not None:
                self._assets.notes.append("materials file of the mesh's own name taken")
                yield found

    def _look(self, material: mtl.Material) -> Look:
        colour = material.colours.get("kd")
        glow = material.colours.get("ke")
        picture = None
        # An ambient or emissive picture is the only one of some exporters.
        for keyword in ("map_kd", "map_ke", "map_ka"):
            picture = picture or self._picture(material, keyword)
        if picture is None and glow and max(glow) > 0 and (not colour or max(colour) <= 0):
            # Only the emission of a black material is visible.
            colour = tuple(value / max(*glow, 1) for value in glow)
        alpha = self._picture(material, "map_d")
        plain = None if colour is None else scene.plain(*colour)
        if picture is None and alpha is None:
            return Look(plain=plain, opacity=material.opacity)
        texels = picture.texels if picture else (plain or scene.plain(*_GREY)).texels
        if alpha is not None:
            texels = _with_alpha(
                texels, alpha, is_same=bool(picture) and picture.path == alpha.path
            )
        used = (picture or alpha).map
        wrap = (scene.CLAMP, scene.CLAMP) if used.clamp else (scene.REPEAT, scene.REPEAT)
        return Look(
            scene.Texture(texels, wrap), plain, used.scale, used.offset, opacity=material.opacity
        )

    def _picture(self, material: mtl.Material, keyword: str) -> _Picture | None:
        """Reads the picture of a material; None, and a note, if that fails."""
        text = material.maps.get(keyword)
        if text is None:
            return None
        key = (text, material.path)
        if key not in self._pictures:
            self._pictures[key] = self._read(text, beside=material.path)
        return self._pictures[key]

    def _read(self, text: str, *, beside: str) -> _Picture | None:
        for reference in mtl.maps(text):
            found = self._assets.find(reference.name, beside=beside) if reference.name else None
            if found is not None:
                texels = images.read_texture(found.data, notes=self._assets.notes)
                return None if texels is None else _Picture(texels, reference, found.path)
        self._assets.notes.append("missing texture")
        return None


def _with_alpha(texels: np.ndarray, alpha: _Picture, *, is_same: bool) -> np.ndarray:
    """Returns a texture with the alpha of a picture of opacity, at the larger of both sizes.

    Args:
      texels: uint8 [height, width, 4].
      alpha: picture of opacity: its alpha, if it has any, else its luminance.
      is_same: whether both are the same file; its colours are then no opacity.
    """
    mask = alpha.texels[..., 3]
    if alpha.map.channel in _CHANNELS:
        mask = alpha.texels[..., _CHANNELS[alpha.map.channel]]
    elif alpha.map.channel == "l" or (mask.min() == 255 and not is_same):
        mask = np.rint(alpha.texels[..., :3] @ np.array(_LUMINANCE)).astype(np.uint8)
    height, width = np.maximum(texels.shape[:2], mask.shape)
    result = _enlarged(texels, height, width).copy()
    result[..., 3] = np.minimum(result[..., 3], _enlarged(mask, height, width))
    return result


def _enlarged(texels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Returns a picture at another size, by the nearest texel."""
    rows = (np.arange(height) + 0.5) * texels.shape[0] / height
    columns = (np.arange(width) + 0.5) * texels.shape[1] / width
    return texels[rows.astype(np.int64)[:, None], columns.astype(np.int64)]
