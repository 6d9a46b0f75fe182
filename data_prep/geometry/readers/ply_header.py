# SPDX-License-Identifier: Apache-2.0
"""Header of a PLY file: its elements, their properties, and the names of textures."""

import dataclasses
import re

from data_prep.geometry.scene import MeshError

# Name of a type -> code of numpy, without the byte order.
TYPES = {
    **{"char": "i1", "int8": "i1", "uchar": "u1", "uint8": "u1"},
    **{"short": "i2", "int16": "i2", "ushort": "u2", "uint16": "u2"},
    **{"int": "i4", "int32": "i4", "uint": "u4", "uint32": "u4", "int64": "i8", "uint64": "u8"},
    **{"float": "f4", "float32": "f4", "double": "f8", "float64": "f8"},
    **{"half": "f2", "float16": "f2"},
}
# Name of a format -> byte order of numpy; "" for text.
FORMATS = {"ascii": "", "binary_little_endian": "<", "binary_big_endian": ">"}
# A header of a few kilobytes is long.
_LONGEST = 2**20
_END = re.compile(rb"(?:^|[\r\n])[ \t]*end_header[ \t]*(\r\n|\n|\r|$)", re.IGNORECASE)
_TEXTURE = re.compile(r"texturefile\s*:?\s+(.+)", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Property:
    """Property of an element.

    Attributes:
      name: name in lower case.
      type: code of numpy, without the byte order.
      count_type: code of the type of a list's length; "" for a property that is no list.
    """

    name: str
    type: str
    count_type: str = ""


@dataclasses.dataclass
class Element:
    """Element with its properties in the order of the file.

    Attributes:
      name: name in lower case.
      count: number of rows.
      properties: properties in the order of the file.
    """

    name: str
    count: int
    properties: list[Property] = dataclasses.field(default_factory=list)

    @property
    def has_lists(self) -> bool:
        """Returns whether a property is a list."""
        return any(item.count_type for item in self.properties)


@dataclasses.dataclass
class Header:
    """Header of a PLY file.

    Attributes:
      order: byte order of numpy, "<" or ">"; "" for text.
      elements: elements in the order of the file.
      textures: names in comments such as "comment TextureFile wood.png".
      body: position of the first byte behind the header.
    """

    order: str
    elements: list[Element]
    textures: list[str]
    body: int


def parse(data: bytes) -> Header:
    """Parses the header of a PLY file; lines that no keyword begins are ignored.

    Args:
      data: bytes of the file, without byte order mark.

    Raises:
      MeshError: the header is incomplete or malformed.
    """
    if data[:64].lstrip()[:3].lower() != b"ply":
        raise MeshError("malformed PLY header: it does not start with ply")
    end = _END.search(data[:_LONGEST])
    if end is None:
        raise MeshError("malformed PLY header: no end_header")
    text = data[: end.start()].decode("utf-8", "surrogateescape")
    order, elements, textures = None, [], []
    for line in re.split(r"[\r\n]+", text)[1:]:
        words = line.split()
        keyword = words[0].lower() if words else ""
        if keyword == "format":
            order = _order(words)
        elif keyword == "element":
            elements.append(_element(words))
        elif keyword == "property":
            if not elements:
                raise MeshError("malformed PLY header: a property before the first element")
            elements[-1].properties.append(_property(words))
        elif keyword in ("comment", "obj_info"):
            found = _TEXTURE.match(line.strip()[len(keyword) :].strip())
            textures += [found[1].strip().strip("\"'")] if found else []
    if order is None:
        raise MeshError("malformed PLY header: no format")
    if not elements:
        raise MeshError("malformed PLY header: no elements")
    return Header(order, elements, textures, _body_start(data, end))


def _body_start(data: bytes, end: re.Match) -> int:
    """Returns the position behind the line break of end_header.

    After a carriage return, the first byte of a binary body may look like a line feed: the first
    line of the header tells how its lines end.
    """
    if end[1] == b"\r\n" and re.search(rb"[\r\n]", data)[0] == b"\r":
        is_single = data[data.index(b"\r") + 1 : data.index(b"\r") + 2] != b"\n"
        return end.end() - 1 if is_single else end.end()
    return end.end()


def _order(words: list[str]) -> str:
    name = words[1].lower() if len(words) > 1 else ""
    if name not in FORMATS:
        expected = ", ".join(FORMATS)
        raise MeshError(f"malformed PLY header: expected format {expected}; found {name!r:.40}")
    return FORMATS[name]


def _element(words: list[str]) -> Element:
    # Twelve digits exceed every limit; Python refuses to convert thousands of digits.
    if len(words) < 3 or not re.fullmatch(r"\+?[0-9]{1,12}", words[2]):
        line = " ".join(words)
        raise MeshError(f"malformed PLY header: expected element NAME COUNT; found {line!r:.60}")
    return Element(words[1].lower(), int(words[2]))


def _property(words: list[str]) -> Property:
    names = [word.lower() for word in words[1:]]
    is_list = names[:1] == ["list"]
    types, name = (names[1:3], names[3:4]) if is_list else (names[:1], names[1:2])
    if not name or not all(kind in TYPES for kind in types):
        line = " ".join(words)
        raise MeshError(
            f"malformed PLY header: expected property TYPE NAME or property list TYPE TYPE NAME; "
            f"found {line!r:.60}"
        )
    codes = [TYPES[kind] for kind in types]
    if is_list and codes[0][0] == "f":
        raise MeshError(f"malformed PLY header: the length of list {name[0]!r:.40} is no integer")
    return Property(name[0], codes[-1], codes[0] if is_list else "")
