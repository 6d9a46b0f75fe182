# SPDX-License-Identifier: Apache-2.0
"""Groups of colours and texture coordinates in 3MF files."""

import dataclasses
import re
from xml.etree.ElementTree import Element

import numpy as np

from data_prep.geometry import scene
from data_prep.geometry.assets import Assets

_TILES = {"mirror": scene.MIRROR, "clamp": scene.CLAMP, "none": scene.CLAMP}
_WHITE = np.ones(4, np.float32)


@dataclasses.dataclass(frozen=True)
class Palette:
    """Group of colours, or of texture coordinates, that triangles index.

    Attributes:
      colours: float32 [items, 4], sRGB and alpha, 0 to 1; None if all items have textures only.
      uv: [items, 2], origin at the lower left; None without a texture.
      texture: texture, or None.
    """

    colours: np.ndarray | None = None
    uv: np.ndarray | None = None
    texture: scene.Texture | None = None

    def parts(self, triangles: np.ndarray, indices: np.ndarray) -> list[scene.Part]:
        """Returns the part of some triangles.

        Args:
          triangles: [faces, 3, 3].
          indices: int64 [faces, 3], items of the corners.

        Raises:
          scene.MeshError: an item does not exist.
        """
        items = self.uv if self.texture is not None else self.colours
        if items is None:
            return [scene.Part(triangles)]
        if len(indices) and not 0 <= indices.min() <= indices.max() < len(items):
            raise scene.MeshError("a triangle of a colour that does not exist")
        if self.texture is not None:
            return [scene.Part(triangles, self.uv[indices], self.texture)]
        return [scene.Part(triangles, colours=self.colours[indices])]


def read_palettes(root: Element, *, assets: Assets) -> dict[str, Palette]:
    """Reads the groups of colours of a model, by their identifiers.

    Args:
      root: root element of the model.
      assets: reads textures of the archive, and collects the notes.
    """
    resources = root.find("resources")
    found: dict[str, Palette] = {}
    if resources is None:
        return found
    textures = {e.get("id", ""): e for e in resources if e.tag == "texture2d"}
    for element in resources:
        name = element.get("id", "")
        if element.tag == "basematerials":
            found[name] = Palette(_colours(element, "base", "displaycolor", assets.notes))
        elif element.tag == "colorgroup":
            found[name] = Palette(_colours(element, "color", "color", assets.notes))
        elif element.tag == "texture2dgroup":
            found[name] = _textured(element, textures, assets=assets)
        elif element.tag == "compositematerials":
            found[name] = _composites(element, found)
        elif element.tag == "multiproperties":
            found[name] = _layers(element, found, notes=assets.notes)
    return found


def _colours(group: Element, item: str, attribute: str, notes: list[str]) -> np.ndarray:
    """Returns the colours #RRGGBB or #RRGGBBAA of a group."""
    rows = []
    for element in group.findall(item):
        text = element.get(attribute, "").strip().removeprefix("#")
        if not re.fullmatch(r"[0-9a-fA-F]{6}([0-9a-fA-F]{2})?", text):
            if text:
                notes.append("colour that is not #RRGGBB, taken as white")
            rows.append(_WHITE)
            continue
        rows.append(np.frombuffer(bytes.fromhex(text.ljust(8, "f")), np.uint8) / np.float32(255))
    return np.array(rows, np.float32).reshape(-1, 4)


def _textured(group: Element, textures: dict[str, Element], *, assets: Assets) -> Palette:
    """Returns a group of texture coordinates."""
    element = textures.get(group.get("texid", ""))
    if element is None:
        assets.notes.append("missing texture")
        return Palette()
    texels = assets.texture(element.get("path", "").removeprefix("/"))
    if texels is None:
        return Palette()
    modes = [_TILES.get(element.get(f"tilestyle{axis}", "wrap"), scene.REPEAT) for axis in "uv"]
    coordinates = group.findall("tex2coord")
    try:
        uv = np.array([[c.get("u"), c.get("v")] for c in coordinates], np.float64).reshape(-1, 2)
    except (TypeError, ValueError) as error:
        raise scene.MeshError("texture coordinates without numbers") from error
    return Palette(uv=uv, texture=scene.Texture(texels, (modes[0], modes[1])))


def _composites(group: Element, found: dict[str, Palette]) -> Palette:
    """Returns mixtures of base materials: the mean of their colours by weight."""
    base = found.get(group.get("matid", ""))
    if base is None or base.colours is None:
        return Palette()
    try:
        chosen = np.array(group.get("matindices", "").split(), np.int64)
        weights = [
            np.array(c.get("values", "").split(), np.float64) for c in group.findall("composite")
        ]
    except (ValueError, OverflowError) as error:
        raise scene.MeshError("a composite material without numbers") from error
    if len(chosen) and not 0 <= chosen.min() <= chosen.max() < len(base.colours):
        raise scene.MeshError("a composite of a material that does not exist")
    rows = []
    for row in weights:
        total = row.sum()
        usable = len(row) == len(chosen) and np.isfinite(total) and total > 0
        rows.append(row @ base.colours[chosen] / total if usable else _WHITE)
    return Palette(np.array(rows, np.float32).reshape(-1, 4))


def _layers(group: Element, found: dict[str, Palette], *, notes: list[str]) -> Palette:
    """Returns one layer of several: a texture, or else the last group of colours."""
    layers = [found.get(name) for name in group.get("pids", "").split()]
    if len(layers) > 1:
        notes.append("several layers of colours, one is read")
    textured = [i for i, p in enumerate(layers) if p is not None and p.texture is not None]
    coloured = [i for i, p in enumerate(layers) if p is not None and p.colours is not None]
    if not textured and not coloured:
        return Palette()
    layer = (textured or coloured)[-1]
    chosen = []
    for element in group.findall("multi"):
        # Indices that are left out at the end are 0.
        words = element.get("pindices", "").split()
        word = words[layer] if layer < len(words) else "0"
        chosen.append(int(word) if word.isdigit() and len(word) < 10 else -1)
    palette = layers[layer]
    indices = np.array(chosen, np.int64)
    items = palette.uv if palette.texture is not None else palette.colours
    if len(indices) and not 0 <= indices.min() <= indices.max() < len(items):
        raise scene.MeshError("layers of a colour that does not exist")
    if palette.texture is not None:
        return Palette(uv=palette.uv[indices], texture=palette.texture)
    return Palette(palette.colours[indices])
