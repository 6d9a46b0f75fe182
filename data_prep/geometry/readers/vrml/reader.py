# SPDX-License-Identifier: Apache-2.0
"""Reads VRML and X3D files."""

import re
import zlib

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers.vrml import scene_graph, state_graph, xml
from data_prep.geometry.readers.vrml.text import Parser


def read(data: bytes, *, assets: Assets, file_type: str) -> scene.Scene:
    """Reads a scene; lengths stay in the unit of the file.

    The first line tells the version. Files may be compressed by gzip.

    Args:
      data: bytes of the file.
      assets: reads textures, and collects the notes.
      file_type: unused.

    Raises:
      scene.MeshError: the file is corrupt, or has prototypes.
      limits.LimitError: the file exceeds a limit.
    """
    del file_type
    if data[:2] == b"\x1f\x8b":
        data = _unpacked(data)
    builder = scene_graph.Builder(assets)
    start = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip()
    if start.startswith(b"<") or start[:2] in (b"\xff\xfe", b"\xfe\xff"):
        builder.walk(xml.parse(data, notes=assets.notes))
        return scene.Scene(tuple(builder.parts), tuple(builder.points))
    header = re.match(rb"#(VRML|X3D) *V?(\d)", start)
    if header is None:
        raise scene.MeshError("no VRML or X3D file; its first line is missing")
    # Names and strings are UTF-8; VRML 1.0 is ASCII.
    text = data.decode("utf-8", errors="replace")
    root = Parser(text, notes=assets.notes).parse()
    if header[1] == b"VRML" and header[2] == b"1":
        old = state_graph.Builder(assets)
        old.walk(root)
        return scene.Scene(tuple(old.parts), tuple(old.points))
    builder.walk(root)
    return scene.Scene(tuple(builder.parts), tuple(builder.points))


def _unpacked(data: bytes) -> bytes:
    """Unpacks a file that gzip compressed."""
    limit = limits.MEMBER_BYTES.maximum()
    try:
        unpacked = zlib.decompressobj(wbits=31).decompress(data, limit + 1)
    except zlib.error as error:
        raise scene.MeshError("a corrupt gzip file") from error
    limits.MEMBER_BYTES.check(len(unpacked))
    return unpacked
