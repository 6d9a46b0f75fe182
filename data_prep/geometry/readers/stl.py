# SPDX-License-Identifier: Apache-2.0
"""STL, text and binary, with the colours of facets in the binary form."""

import re

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import file_checks
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import text_numbers
from data_prep.geometry.scene import MeshError, Part, Scene, plain

_FACET = np.dtype([("normal", "<f4", 3), ("corners", "<f4", (3, 3)), ("attribute", "<u2")])
_HEADER_BYTES = 84
# Counts of programs that do not know the number of triangles when they begin to write.
_UNKNOWN_COUNTS = (0, 2**32 - 1)
COUNT_IGNORED = "no count of triangles in the header, all are read"
DATA_IGNORED = "data after the last triangle, ignored"
NO_END = "no endsolid at the end, the file may be incomplete"
# The words solid and endsolid with the name behind them, which may contain any other word.
_SOLID = re.compile(rb"solid\b(?:(?!\bfacet\b)[^\r\n])*")
_VERTEX = re.compile(rb"vertex\s+(\S+\s+\S+\s+\S+)")
_COMMENT = re.compile(rb"(?:#|//)[^\r\n]*")


def read(data: bytes, *, assets: Assets, file_type: str) -> Scene:
    """Reads an STL file.

    A binary file may begin with the word "solid" as well; its size tells it apart. Solids of a text
    file become parts.

    Args:
      data: bytes of the file.
      assets: collects the notes.
      file_type: unused.

    Raises:
      MeshError: the file is malformed or truncated.
      limits.LimitError: the file exceeds a limit.
    """
    del file_type
    text = text_numbers.to_utf8(data)
    if _is_text(text):
        return _read_text(text, notes=assets.notes)
    return _read_binary(data, notes=assets.notes)


def _is_text(data: bytes) -> bool:
    count = int.from_bytes(data[80:84], "little")
    if len(data) == _HEADER_BYTES + 50 * count and len(data) >= _HEADER_BYTES:
        return False
    start = data[:4096].lstrip()
    words = re.match(rb"(?:(?:#|//)[^\r\n]*\s+)*(solid|facet)\b", start, re.IGNORECASE)
    return words is not None and b"\0" not in data[:1024]


def _read_binary(data: bytes, *, notes: list[str]) -> Scene:
    """Reads a binary file: 80 bytes of any content, a count, and 50 bytes per triangle."""
    if len(data) < _HEADER_BYTES:
        raise MeshError(
            "malformed STL: neither a text that begins with solid nor a header of 84 bytes; "
            f"bytes found: {len(data)}"
        )
    count = int.from_bytes(data[80:84], "little")
    available, rest = divmod(len(data) - _HEADER_BYTES, 50)
    if count in _UNKNOWN_COUNTS and available and not rest:
        notes.append(COUNT_IGNORED)
        count = available
    if count > available:
        raise file_checks.truncated("triangles", available, of=count)
    if len(data) > _HEADER_BYTES + 50 * count:
        notes.append(DATA_IGNORED)
    limits.FACES.check(count)
    if not count:
        return Scene()
    facets = np.frombuffer(data, _FACET, count, _HEADER_BYTES)
    triangles = facets["corners"].astype(np.float64)
    attributes = facets["attribute"]
    object_colour = _object_colour(data[:80])
    if object_colour is not None:
        has_own = (attributes & 0x8000) == 0 if attributes.any() else np.zeros(count, bool)
        default = plain(*object_colour)
    else:
        has_own = (attributes & 0x8000) != 0
        default = None
    if not has_own.any():
        return Scene((Part(triangles, texture=default),))
    channels = (attributes[:, None] >> np.array([10, 5, 0], np.uint16)) & 31
    if object_colour is not None:  # Materialise Magics has red in the lowest bits
        channels = channels[:, ::-1]
    rgba = np.ones((count, 4), np.float32)
    rgba[:, :3] = channels / np.float32(31)
    colours = np.repeat(rgba[:, None], 3, axis=1)
    parts = [Part(triangles[has_own], colours=colours[has_own])]
    if not has_own.all():
        parts.append(Part(triangles[~has_own], texture=default))
    return Scene(tuple(parts))


def _object_colour(header: bytes) -> tuple[float, float, float] | None:
    """Returns the colour in a header of Materialise Magics, "COLOR=" and four bytes, 0 to 1."""
    position = header.find(b"COLOR=")
    channels = header[position + 6 : position + 9]
    if position < 0 or len(channels) < 3:
        return None
    red, green, blue = (channel / 255 for channel in channels)
    return red, green, blue


def _read_text(data: bytes, *, notes: list[str]) -> Scene:
    """Reads the solids of a text file."""
    text = data.lower()
    limits.FACES.check(text.count(b"vertex") // 3)
    solids, is_complete = _split_solids(text)
    if not is_complete:
        notes.append(NO_END)
    parts = []
    for solid in solids:
        triangles = _solid_triangles(solid)
        if len(triangles):
            parts.append(Part(triangles))
    return Scene(tuple(parts))


def _split_solids(text: bytes) -> tuple[list[bytes], bool]:
    """Splits a text at its solids, whose names it removes.

    Returns:
      The solids, and whether the last one ends with endsolid.
    """
    solids, begin, is_complete = [], 0, False
    for found in _SOLID.finditer(text):
        before = text[max(begin, found.start() - 64) : found.start()]
        is_end = before.rstrip(b" ").endswith(b"end")
        if is_end or not before.strip(b" \t") or before.rstrip(b" \t").endswith((b"\n", b"\r")):
            solids.append(text[begin : found.start()])
            limits.PARTS.check(len(solids) // 2)
            begin = found.end()
            is_complete = is_end
    solids.append(text[begin:])
    return solids, is_complete


def _solid_triangles(text: bytes) -> np.ndarray:
    """Returns the triangles of a solid, float64 [triangles, 3, 3].

    Raises:
      MeshError: a vertex has no three numbers, or a facet no three vertices.
    """
    if b"#" in text or b"//" in text:
        text = _COMMENT.sub(b"", text)
    found = _VERTEX.findall(text)
    numbers = text_numbers.parse(text_numbers.clean(b" ".join(found)))
    if len(numbers) != 3 * len(found):
        raise MeshError("malformed STL: a vertex without three numbers")
    corners = numbers.reshape(-1, 3)
    loops = text.count(b"endloop") or text.count(b"endfacet")
    if len(corners) == 3 * loops or (not loops and len(corners) % 3 == 0):
        return corners.reshape(-1, 3, 3)
    return _fans(text, corners)


def _fans(text: bytes, corners: np.ndarray) -> np.ndarray:
    """Cuts facets of more than three vertices into fans; some programs write quads.

    Raises:
      MeshError: a facet has fewer than three vertices, as the last one of a truncated file.
    """
    facets = re.split(rb"\bfacet\b", text)[1:]
    counts = np.array([facet.count(b"vertex") for facet in facets], np.int64)
    if counts.sum() != len(corners) or (counts < 3).any() or b"endloop" not in facets[-1]:
        complete = sum(len(_VERTEX.findall(facet)) >= 3 for facet in facets)
        raise file_checks.truncated("complete facets", complete, of=len(facets))
    triangles = counts - 2
    start = np.repeat(np.cumsum(counts) - counts, triangles)
    first = np.cumsum(triangles) - triangles
    step = np.arange(triangles.sum()) - np.repeat(first, triangles)
    return corners[np.stack([start, start + step + 1, start + step + 2], axis=1)]
