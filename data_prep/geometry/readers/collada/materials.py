# SPDX-License-Identifier: Apache-2.0
"""Diffuse colours, textures and transparency of COLLADA effects."""

import dataclasses
import re
from xml.etree.ElementTree import Element

import numpy as np

from data_prep.geometry import scene
from data_prep.geometry.readers.collada import document
from data_prep.geometry.readers.collada.document import Document

_SHADERS = ("phong", "lambert", "blinn", "constant")
# BORDER has a colour outside of the unit square; the edge of the picture is the closest.
_WRAPS = {"MIRROR": scene.MIRROR, "CLAMP": scene.CLAMP, "BORDER": scene.CLAMP, "NONE": scene.CLAMP}


@dataclasses.dataclass(frozen=True)
class Material:
    """What a material says about colour.

    Attributes:
      colour: sRGB [3], 0 to 1, or None.
      texture: picture, or None.
      channel: name that the material gives to the texture coordinates, such as "UVMap".
      opacity: 0 to 1.
    """

    colour: np.ndarray | None = None
    texture: scene.Texture | None = None
    channel: str = ""
    opacity: float = 1.0


def read(material: Element, *, doc: Document, inverted: bool) -> Material:
    """Reads an element `material`.

    Args:
      material: element of the library.
      doc: parsed file.
      inverted: result of `is_inverted`.
    """
    instance = material.find("instance_effect")
    effect = None
    if instance is not None:
        effect = doc.target(instance.get("url"), kind="effect")
    profile = None if effect is None else effect.find("profile_COMMON")
    if profile is None:
        doc.assets.notes.append("material without a common profile, ignored")
        return Material()
    shader = next(
        (found for name in _SHADERS if (found := profile.find(f"technique/{name}")) is not None),
        None,
    )
    if shader is None:
        return Material()
    params = {
        param.get("sid", ""): param
        for place in (effect, profile)
        for param in place.iter("newparam")
    }
    # Surfaces of constant colour have no diffuse term.
    names = ("emission", "diffuse") if shader.tag == "constant" else ("diffuse",)
    term = next((found for name in names if (found := shader.find(name)) is not None), None)
    colour = None if term is None else _colour(term, params)
    sampled = None if term is None else term.find("texture")
    opacity, mask = _opacity(shader, params, inverted=inverted)
    if sampled is None:
        if mask is not None:
            doc.assets.notes.append("transparency texture, ignored")
        return Material(colour=colour, opacity=opacity)
    texture = _texture(sampled, params, doc=doc)
    if texture is not None and mask is not None:
        if mask.get("texture") == sampled.get("texture"):
            return Material(colour, texture, sampled.get("texcoord", ""), opacity)
        doc.assets.notes.append("transparency texture, ignored")
    if texture is not None:
        # The alpha of a diffuse texture has no meaning unless it is the transparency as well.
        texels = texture.texels.copy()
        texels[..., 3] = 255
        texture = dataclasses.replace(texture, texels=texels)
    return Material(colour, texture, sampled.get("texcoord", ""), opacity)


def _colour(term: Element, params: dict[str, Element]) -> np.ndarray | None:
    """Returns the plain colour of a term, sRGB [3], or None."""
    element = term.find("color")
    reference = term.find("param")
    if element is None and reference is not None:
        param = params.get(reference.get("ref", ""))
        if param is not None:
            element = next((e for e in param if e.tag.startswith("float")), None)
    values = document.floats(element)
    return values[:3] if len(values) >= 3 else None


def is_inverted(doc: Document) -> bool:
    """Returns whether the program that wrote a file takes a transparency of 0 as opaque.

    By the standard it is invisible unless the attribute `opaque` says otherwise. Programs that do
    not write the attribute, and write 0, mean the amount of transparency, in all materials.
    """
    for shader in (e for name in _SHADERS for e in doc.root.iter(name)):
        transparent = shader.find("transparent")
        if transparent is None or transparent.get("opaque") is None:
            if _scalar(shader.find("transparency"), {}) == 0:
                doc.assets.notes.append("transparency of 0 without a mode, taken as opaque")
                return True
    return False


def _opacity(
    shader: Element, params: dict[str, Element], *, inverted: bool
) -> tuple[float, Element | None]:
    """Returns the opacity of a shader, and the texture of its transparency, or None.

    `transparent` is a colour or a texture, and `transparency` a factor of it. The attribute
    `opaque` says which value is opaque: A_ONE an alpha of one, RGB_ZERO black, A_ZERO and RGB_ONE
    the reverse. Without both elements a surface is opaque.
    """
    transparent, factor = shader.find("transparent"), shader.find("transparency")
    if transparent is None and factor is None:
        return 1.0, None
    mode, rgba, mask = "A_ONE", np.ones(4), None
    if transparent is not None:
        mode = transparent.get("opaque", "A_ONE")
        mask = transparent.find("texture")
        values = document.floats(transparent.find("color"))
        rgba[: len(values)] = values[:4]
    numbers = _scalar(factor, params)
    amount = 1.0 if numbers is None else numbers
    if inverted and (transparent is None or transparent.get("opaque") is None):
        amount = 1 - amount
    if mask is not None:
        return (amount if mode == "A_ONE" else 1.0), (mask if mode == "A_ONE" else None)
    luminance = float(rgba[:3] @ (0.212671, 0.715160, 0.072169))
    opacity = {
        "A_ONE": rgba[3] * amount,
        "A_ZERO": 1 - rgba[3] * amount,
        "RGB_ONE": luminance * amount,
        "RGB_ZERO": 1 - luminance * amount,
    }.get(mode, rgba[3] * amount)
    return float(np.clip(np.nan_to_num(opacity, nan=1.0), 0, 1)), None


def _scalar(term: Element | None, params: dict[str, Element]) -> float | None:
    """Returns the number of a term, or None."""
    if term is None:
        return None
    element, reference = term.find("float"), term.find("param")
    if element is None and reference is not None:
        param = params.get(reference.get("ref", ""))
        element = None if param is None else param.find("float")
    values = document.floats(element)
    return float(values[0]) if len(values) else None


def _texture(
    sampled: Element, params: dict[str, Element], *, doc: Document
) -> scene.Texture | None:
    """Returns the texture that a term samples; None, and a note, if it is missing."""
    name = sampled.get("texture", "")
    sampler = params.get(name)
    modes, image = [scene.REPEAT, scene.REPEAT], None
    if sampler is not None:
        inner = sampler.find("sampler2D")
        if inner is not None:
            modes = [
                _WRAPS.get((inner.findtext(f"wrap_{axis}") or "").strip(), scene.REPEAT)
                for axis in "st"
            ]
        image = _sampled_image(sampler, params, doc=doc)
    if image is None:
        # Some programs name the picture, and no sampler.
        image = doc.elements.get(name)
    path = "" if image is None else _path(image)
    if not path:
        doc.assets.notes.append("missing texture")
        return None
    texels = doc.assets.texture(path)
    return None if texels is None else scene.Texture(texels, (modes[0], modes[1]))


def _sampled_image(
    sampler: Element, params: dict[str, Element], *, doc: Document
) -> Element | None:
    """Returns the element `image` of a sampler of COLLADA 1.4 or 1.5, or None."""
    instance = sampler.find("sampler2D/instance_image")
    if instance is not None:
        return doc.elements.get(instance.get("url", "").removeprefix("#"))
    surface = params.get((sampler.findtext("sampler2D/source") or "").strip())
    holder = sampler if surface is None else surface
    return doc.elements.get((holder.findtext("surface/init_from") or "").strip())


def _path(image: Element) -> str:
    """Returns the path of a picture, relative to the file or not."""
    text = image.findtext("init_from/ref") or image.findtext("init_from") or ""
    path = text.strip()
    # file:///C:/folder/picture.png, and the form with one slash that some programs write.
    return re.sub(r"^file:/*", "", path) if path.lower().startswith("file:") else path
