# SPDX-License-Identifier: Apache-2.0
"""Reader of MTL files, the materials of OBJ files."""

import dataclasses
import math
import re
from collections.abc import Iterator

from data_prep.foreign import limits
from data_prep.geometry.readers import obj_text
from data_prep.geometry.surface import INVISIBLE_OPACITY

# Numbers of arguments of the options before the name of a picture; -o, -s and -t take one to three.
_ARGUMENTS = {
    **dict.fromkeys(("-blendu", "-blendv", "-boost", "-bm", "-cc", "-clamp", "-imfchan"), 1),
    **dict.fromkeys(("-texres", "-type", "-colorspace"), 1),
    "-mm": 2,
}
_VECTORS = ("-o", "-s", "-t")
_OPTION = re.compile(r"(-[a-zA-Z]+)\s+")
_LATER_OPTION = re.compile(rf"\s(?={'|'.join((*_ARGUMENTS, *_VECTORS))}\s)", re.IGNORECASE)
_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s+")
_WORD = re.compile(r"(\S+)\s+")
_COLOURS = ("kd", "ke")
_MAPS = ("map_kd", "map_ka", "map_ke", "map_d")
_SYNONYMS = {"map_opacity": "map_d", "map_tr": "map_d"}


@dataclasses.dataclass(frozen=True)
class Map:
    """Reference to a picture.

    Attributes:
      name: name of the picture.
      scale, offset: texture coordinates become uv * scale + offset.
      clamp: whether the picture continues with its edges, and is not repeated.
      channel: letter of the option -imfchan, or "".
    """

    name: str
    scale: tuple[float, float] = (1.0, 1.0)
    offset: tuple[float, float] = (0.0, 0.0)
    clamp: bool = False
    channel: str = ""


@dataclasses.dataclass
class Material:
    """Material, as far as it decides colour and visibility.

    Attributes:
      colours: sRGB colour, three numbers, by keyword in lower case: kd and ke.
      maps: rest of the line by keyword in lower case: map_kd, map_ka, map_ke and map_d.
      opacity: 0 (invisible) to 1.
      path: path of its file among the assets.
    """

    colours: dict[str, tuple[float, ...]] = dataclasses.field(default_factory=dict)
    maps: dict[str, str] = dataclasses.field(default_factory=dict)
    opacity: float = 1.0
    path: str = ""


def parse(data: bytes, *, path: str, notes: list[str]) -> dict[str, Material]:
    """Parses a file.

    Args:
      data: bytes of the file.
      path: path of the file among the assets.
      notes: list to which ignored and reinterpreted lines are appended.

    Returns:
      Material by name. The last of several materials of one name counts.

    Raises:
      scene.MeshError: the file is not text.
      limits.LimitError: there are too many materials or lines.
    """
    text = obj_text.normalise(data)
    limits.VERTICES.check(text.count(b"\n"))
    materials: dict[str, Material] = {}
    stated: dict[str, dict[str, float]] = {}  # d and Tr of each material
    found: set[str] = set()
    name = None
    for line in text.split(b"\n"):
        words = line.split(None, 1)
        if not words or words[0].startswith(b"#"):
            continue
        keyword = obj_text.decode(words[0]).lower()
        keyword = _SYNONYMS.get(keyword, keyword)
        rest = obj_text.decode(words[1]).strip() if len(words) > 1 else ""
        if keyword == "newmtl":
            name = material_name(rest)
            limits.PARTS.check(len(materials) + 1)
            materials[name], stated[name] = Material(path=path), {}
        elif name is None or not rest:
            continue
        elif keyword in _COLOURS:
            colour, note = _colour(rest)
            found.add(note)
            if colour:
                materials[name].colours[keyword] = colour
        elif keyword in _MAPS:
            materials[name].maps[keyword] = rest
        elif keyword in ("d", "tr"):
            value = _numbers(rest.lower().removeprefix("-halo").strip())
            if value and math.isfinite(value[0]):
                stated[name][keyword] = min(max(value[0], 0), 1)
    found.add(_set_opacities(materials, stated))
    notes += sorted(found - {""})
    return materials


def material_name(text: str) -> str:
    """Returns the name of a material as `newmtl` and `usemtl` state it."""
    return " ".join(text.split())


def maps(text: str) -> Iterator[Map]:
    """Yields the readings of a reference, the likeliest first.

    Names may contain spaces, dashes and number signs, so that only the folder tells them from
    options and comments.

    Args:
      text: rest of a line such as `map_Kd -s 2 2 1 my wood.png`.
    """
    options, name = _split_options(text)
    yield _map(options, name)
    shorter, *later = _LATER_OPTION.split(name)
    if later:
        # A name must follow the options.
        more, _ = _split_options(" ".join(word.strip() for word in later) + " .")
        yield _map(options | more, shorter)
    if "#" in name:
        yield _map(options, re.split(r"\s#", name)[0])


def _map(options: dict[str, list[str]], name: str) -> Map:
    def vector(option: str, default: float) -> tuple[float, float]:
        numbers = [float(word) for word in options.get(option, ())]
        return tuple([*numbers[:2], default, default][:2]) if numbers else (default, default)

    name = name.strip()
    if len(name) > 1 and name[0] == name[-1] and name[0] in "\"'":
        name = name[1:-1].strip()
    return Map(
        name=name,
        scale=vector("-s", 1.0),
        offset=vector("-o", 0.0),
        clamp=options.get("-clamp", [""])[0].lower() == "on",
        channel=options.get("-imfchan", [""])[0].lower(),
    )


def _split_options(text: str) -> tuple[dict[str, list[str]], str]:
    """Splits a reference into option -> arguments and the name of the picture."""
    options: dict[str, list[str]] = {}
    text = text.strip()
    while match := _OPTION.match(text):
        option, rest = match[1].lower(), text[match.end() :]
        if option in _VECTORS:
            pattern, most = _NUMBER, 3
        elif option in _ARGUMENTS:
            pattern, most = _WORD, _ARGUMENTS[option]
        else:
            break
        arguments: list[str] = []
        while len(arguments) < most and (argument := pattern.match(rest)):
            arguments.append(argument[1])
            rest = rest[argument.end() :]
        options[option] = arguments
        text = rest
    return options, text


def _colour(text: str) -> tuple[tuple[float, ...], str]:
    """Parses a colour; returns three numbers, or none, and a note or ""."""
    kind = text.split()[0].lower()
    if kind in ("spectral", "xyz"):
        return (), f"{kind} colour in a material, ignored"
    numbers = _numbers(text)[:3]
    if not numbers:
        return (), "unreadable colour in a material, ignored"
    if len(numbers) < 3:  # green and blue are optional
        numbers = numbers[:1] * 3
    if max(numbers) > 2 and all(value == int(value) for value in numbers if math.isfinite(value)):
        return tuple(value / 255 for value in numbers), "colour of a material from 0 to 255"
    return tuple(numbers), ""


def _numbers(text: str) -> list[float]:
    """Parses the numbers at the start of a text."""
    numbers: list[float] = []
    for word in text.split():
        try:
            numbers.append(float(word))
        except ValueError:
            break
    return numbers


def _set_opacities(materials: dict[str, Material], stated: dict[str, dict[str, float]]) -> str:
    """Sets the opacities by `d`, or else by `Tr`.

    By the specification, Tr is 1 - d. MeshLab until 2023, OpenMVS and others wrote "Tr 1" for
    opaque materials. It is taken so if more than half of the materials would be invisible, and for
    a material with a picture.

    Returns:
      A note, or "".
    """
    transparent = [n for n, v in stated.items() if "d" not in v and v.get("tr", 0) == 1]
    is_opacity = 2 * len(transparent) > len(materials)
    note = ""
    for name, material in materials.items():
        values = stated[name]
        if "d" in values:
            material.opacity = values["d"]
        elif "tr" in values:
            material.opacity = values["tr"] if is_opacity else 1 - values["tr"]
            if material.opacity < INVISIBLE_OPACITY and "map_kd" in material.maps:
                material.opacity = 1.0
        if name in transparent and material.opacity == 1:
            note = "Tr 1 taken as opaque"
    return note
