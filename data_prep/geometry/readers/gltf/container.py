# SPDX-License-Identifier: Apache-2.0
"""Containers of glTF: binary files with chunks, and JSON text."""

import base64
import binascii
import codecs
import json
import struct
import urllib.parse
from typing import Any

from data_prep.geometry.readers.gltf import fields
from data_prep.geometry.scene import MeshError

_MAGIC = b"glTF"
_HEADER_BYTES = 12
_CHUNK_HEADER_BYTES = 8
_JSON_CHUNK, _BINARY_CHUNK = 0x4E4F534A, 0x004E4942
_UTF16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
NOT_UTF8 = "text that is not UTF-8, read as Latin-1"
NO_VERSION = "no glTF version, read as glTF 2.0"


def parse(data: bytes, *, notes: list[str]) -> tuple[dict[str, Any], memoryview | None]:
    """Parses a binary or a text file; its content tells which.

    Args:
      data: bytes of the file.
      notes: list to which NOT_UTF8 and NO_VERSION may be appended.

    Returns:
      The JSON, and the binary chunk; None without such a chunk.

    Raises:
      MeshError: the file is not glTF 2, truncated or malformed.
    """
    if not data:
        raise MeshError("empty file")
    if data.startswith(_MAGIC):
        text, binary = _chunks(data)
    else:
        text, binary = data, None
    tree = _parse_json(text, notes=notes)
    _check_version(tree, notes=notes)
    return tree, binary


def parse_data_uri(uri: str) -> bytes | None:
    """Returns the bytes in a `data:` URI; None if the URI is of another kind.

    Raises:
      MeshError: the URI is malformed.
    """
    if uri[:5].lower() != "data:":
        return None
    header, comma, body = uri[5:].partition(",")
    if not comma:
        raise MeshError("malformed data URI, expected a comma")
    payload = urllib.parse.unquote_to_bytes(body) if "%" in body else body.encode()
    if not header.lower().rstrip().endswith(";base64"):
        return payload
    try:
        # Missing padding is common; surplus padding is ignored.
        return base64.b64decode(payload.rstrip() + b"==")
    except binascii.Error as error:
        raise MeshError("malformed data URI, expected base64") from error


def _chunks(data: bytes) -> tuple[bytes, memoryview | None]:
    """Returns the JSON text and the first binary chunk of a binary file."""
    if len(data) < _HEADER_BYTES + _CHUNK_HEADER_BYTES:
        raise MeshError(f"truncated binary glTF file: has {len(data)} bytes")
    version, length = struct.unpack_from("<II", data, 4)
    if version != 2:
        raise _wrong_version(str(version))
    if length > len(data):
        raise MeshError(f"truncated binary glTF file: has {len(data)} of {length} bytes")
    text, binary = None, None
    position = _HEADER_BYTES
    while position + _CHUNK_HEADER_BYTES <= length:
        size, kind = struct.unpack_from("<II", data, position)
        position += _CHUNK_HEADER_BYTES
        missing = position + size - len(data)
        if missing > 0:
            raise MeshError(f"truncated binary glTF file: lacks {missing} bytes")
        if kind == _JSON_CHUNK and text is None:
            text = data[position : position + size]
        elif kind == _BINARY_CHUNK and binary is None:
            binary = memoryview(data)[position : position + size]
        # The standard aligns chunks to 4 bytes, and includes the padding in their size.
        position += size
    if text is None:
        raise MeshError("malformed binary glTF file, expected a JSON chunk")
    return text, binary


def _parse_json(text: bytes, *, notes: list[str]) -> dict[str, Any]:
    if text.startswith(_UTF16_MARKS) or text[:4:2] == b"\0\0" or text[1:4:2] == b"\0\0":
        raise MeshError("the JSON text is UTF-16 or UTF-32; save it as UTF-8")
    text = text.removeprefix(codecs.BOM_UTF8).rstrip(b"\0 \t\r\n")
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        decoded = text.decode("latin-1")
        notes.append(NOT_UTF8)
    try:
        tree = json.loads(decoded)
    except (ValueError, RecursionError) as error:
        if not decoded.lstrip().startswith("{"):
            raise MeshError("not a glTF file: neither binary glTF nor JSON") from error
        raise MeshError(f"truncated or malformed JSON of a glTF file: {str(error)[:80]}") from error
    if not isinstance(tree, dict):
        raise MeshError("not a glTF file: the JSON is no object")
    return tree


def _check_version(tree: dict[str, Any], *, notes: list[str]) -> None:
    """Checks the version of the JSON; the one in the header of a binary file may differ."""
    asset = fields.get_object(tree, "asset")
    version = asset.get("version")
    if version is None:
        # glTF 1.0 keeps meshes in an object by name, glTF 2.0 in a list.
        if isinstance(tree.get("meshes"), dict):
            raise _wrong_version("1.0")
        if not {"meshes", "nodes", "accessors"} & set(tree):
            raise MeshError("not a glTF file: the JSON has no 'asset' and no 'meshes'")
        notes.append(NO_VERSION)
        return
    needed = asset.get("minVersion", version)
    for stated in (version, needed):
        if str(stated).split(".")[0] != "2":
            raise _wrong_version(str(stated)[:20])


def _wrong_version(version: str) -> MeshError:
    if version.split(".")[0] in ("0", "1"):
        return MeshError(
            "glTF 1.0 is not read, only glTF 2.0; convert it with gltf-pipeline, or open it in a "
            f"program that reads it and export it again: version {version}"
        )
    return MeshError(f"this version of glTF is not read, only glTF 2.0: version {version!r}")
