# SPDX-License-Identifier: Apache-2.0
"""Recognises files that are not what their names say, before a reader looks at them."""

import json
import re

from data_prep.geometry import formats
from data_prep.geometry.scene import MeshError

# Types that may be binary glTF or JSON: their reader looks at the content.
_GLTF_TYPES = ("glb", "gltf", "vrm")
_LFS = (b"version https://git-lfs.github.com/spec/", b"version https://hawser.github.com/spec/")
_ANNEX = re.compile(rb"\s*(?:\.\./)*(?:\.git)?/annex/objects/")
_SERVER_ERROR = re.compile(
    rb"\s*(?:(?:error:? ?)?[45]\d\d:? +[a-z]|access denied|not found|forbidden|unauthorized"
    rb"|bad gateway|service unavailable|too many requests|repository not found)",
    re.IGNORECASE,
)
# Longest text that is taken for the message of a server.
_LONGEST_MESSAGE = 65_536
# First bytes -> name of a packed file, and the types of files that are of this kind.
_PACKED = (
    (b"\x1f\x8b", "gzip", ("gz", "wrz", "wrl", "vrml", "x3d", "x3dv")),
    (
        b"PK\x03\x04",
        "a zip archive",
        ("npz", "npy", "zip", "3mf", "usdz", "sh3f", "kmz", "zae", "amf"),
    ),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", ("7z",)),
    (b"Rar!\x1a\x07", "a rar archive", ("rar",)),
    (b"\xfd7zXZ\x00", "xz", ("xz",)),
    (b"\x28\xb5\x2f\xfd", "zstd", ("zst",)),
    (b"BZh", "bzip2", ("bz2",)),
)
# First bytes -> name of a document.
_DOCUMENTS = (
    (b"\x89PNG\r\n\x1a\n", "a PNG picture"),
    (b"\xff\xd8\xff", "a JPEG picture"),
    (b"GIF8", "a GIF picture"),
    (b"II*\x00", "a TIFF picture"),
    (b"MM\x00*", "a TIFF picture"),
    (b"%PDF-", "a PDF document"),
)
# First bytes, in lower case and without white space before them -> name, and types of files.
_MODELS = (
    (re.compile(rb"gltf[\x01\x02]\0\0\0"), "binary glTF", _GLTF_TYPES),
    (re.compile(rb"ply[ \t]*[\r\n]+\s*(?:format|comment|obj_info|element)\b"), "PLY", ("ply",)),
    (re.compile(rb"(?:st)?c?n?c?4?n?off(?:[ \t]+binary)?\s*[\d#\r\n]"), "OFF", ("off", "coff")),
    (re.compile(rb"solid\b[^\0]*?\bfacet\s+normal\s"), "STL", ("stl", "stla")),
    (re.compile(rb"\x93numpy"), "a NumPy array", ("npy", "npz")),
    (re.compile(rb"# \.pcd v|version [0-9.]+\s+fields "), "PCD", ("pcd",)),
    (re.compile(rb"lasf[\0-\xff]{20}\x01[\x00-\x04]"), "LAS", ("las", "laz")),
    (re.compile(rb"astm-e57"), "E57", ("e57",)),
    (re.compile(rb"kaydara fbx binary|; fbx "), "FBX", ("fbx",)),
    (re.compile(rb"blender[-_][vr]\d"), "Blender", ("blend",)),
    (re.compile(rb"iso-10303-21;"), "STEP", ("step", "stp", "p21")),
    (re.compile(rb"#(?:vrml|x3d) v"), "VRML", ("wrl", "vrml", "wrz", "x3dv")),
    (re.compile(rb"pxr-usdc|#usda "), "USD", ("usd", "usdc", "usda")),
    (re.compile(rb"dracon?"), "Draco", ("drc",)),
    (re.compile(rb"ac3d[0-9a-f]"), "AC3D", ("ac",)),
)
# Every line ends with its line break, so that there is one way only to match a text.
_OBJ = re.compile(rb"(?:(?:#|(?:mtllib|usemtl|o|g|s|vt|vn)\b)[^\r\n]*[\r\n]\s*)*v[ \t]+[-+.\d]")
# Types of which the content is XML.
_XML_TYPES = ("dae", "x3d", "xml", "amf", "3dxml", "collada")
_XML_MODELS = ((b"<collada", "COLLADA", "dae"), (b"<x3d", "X3D", "x3d"))


def check(data: bytes, *, file_type: str) -> None:
    """Checks that a file may be of its type, by its first bytes.

    Args:
      data: bytes of the file.
      file_type: suffix of the file, without dot.

    Raises:
      MeshError: the file is empty or something else; the message says what it is.
    """
    _check_empty(data)
    start = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if file_type == "stl" and _is_binary_stl(data):
        return  # its header may contain anything
    for first_bytes, name in _DOCUMENTS:
        if data.startswith(first_bytes):
            raise MeshError(f"{name}, not a file of type {_named(file_type)}")
    for first_bytes, name, types in _PACKED:
        if data.startswith(first_bytes) and file_type not in types:
            raise MeshError(f"the content is {name}, but the name ends in .{file_type}; unpack it")
    _check_markup(start, data, file_type=file_type)
    _check_message(start, data, file_type=file_type)
    _check_models(data, file_type=file_type)


def truncated(what: str, found: int, *, of: int) -> MeshError:
    """Returns the error for a file that ends too early.

    Args:
      what: what the file counts, such as "triangles".
      found: number of complete ones.
      of: number that the file states.
    """
    return MeshError(f"the file is truncated; {what} found: {found} of {of}")


def _named(file_type: str) -> str:
    known = formats.FORMATS.get(file_type)
    return known.name if known else file_type


def _check_empty(data: bytes) -> None:
    if not data:
        raise MeshError("empty file")
    if data[:64].count(0) == len(data[:64]) and data.count(0) == len(data):
        raise MeshError("only zero bytes; the file was not copied or downloaded completely")
    if data.startswith(_LFS):
        raise MeshError("a Git LFS pointer, not the file; run git lfs pull")
    if len(data) < 4096 and _ANNEX.match(data):
        raise MeshError("a git-annex pointer, not the file; run git annex get")
    if data.startswith((b"\0\5\x16\7", b"\0\5\x16\0")):
        raise MeshError("an AppleDouble file of macOS, which holds attributes and no model")


def _is_binary_stl(data: bytes) -> bool:
    """Returns whether the size of a file is that of the triangles that it counts."""
    return len(data) >= 84 and len(data) == 84 + 50 * int.from_bytes(data[80:84], "little")


def _check_markup(start: bytes, data: bytes, *, file_type: str) -> None:
    """Rejects pages of HTML, and XML under the name of another type."""
    if not start.startswith(b"<"):
        return
    text = data[:65_536].lower()
    if start.startswith((b"<!doctype html", b"<html", b"<head", b"<body")) or (
        b"<html" in text and start.startswith((b"<?xml", b"<!"))
    ):
        raise MeshError("a page of HTML, not the file; download it again")
    if file_type in _XML_TYPES:
        return
    for tag, name, suffix in _XML_MODELS:
        if tag in text:
            raise _misnamed(name, (suffix,), file_type)
    if re.match(rb"<[a-z?!]", start):
        raise MeshError("XML, such as the message of a server, not the file; download it again")


def _check_message(start: bytes, data: bytes, *, file_type: str) -> None:
    """Rejects JSON and text that a server sent in place of the file."""
    is_short = len(data) <= _LONGEST_MESSAGE
    if start.startswith((b"{", b"[")):
        if file_type not in _GLTF_TYPES and re.search(rb'"asset"\s*:', data[:_LONGEST_MESSAGE]):
            raise _misnamed("glTF", ("gltf",), file_type)
        if is_short and _is_message(data, file_type=file_type):
            raise MeshError(
                "JSON, such as the message of a server, not the file; download it again"
            )
    elif len(data) < 1024 and _SERVER_ERROR.match(data) and not re.search(rb"\n\s*-?\d", data):
        raise MeshError("an error message of a server, not the file; download it again")


def _is_message(data: bytes, *, file_type: str) -> bool:
    """Returns whether data is JSON, and not of the structure of glTF."""
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return False
    if file_type not in _GLTF_TYPES:
        return True
    keys = {str(key).lower() for key in tree} if isinstance(tree, dict) else set()
    return bool(keys & {"error", "errors", "message", "detail", "status", "code"}) and not (
        keys & {"asset", "meshes", "nodes", "scenes", "buffers", "accessors"}
    )


def _check_models(data: bytes, *, file_type: str) -> None:
    """Rejects the content of another known type."""
    own = [types for _, _, types in _MODELS if file_type in types]
    begin = data[:4096].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    for pattern, name, types in _MODELS:
        if file_type not in types and pattern.match(begin):
            if name == "a NumPy array" and file_type not in formats.FORMATS:
                continue
            raise _misnamed(name, types, file_type)
    if own and file_type != "npz" and _OBJ.match(begin) and re.search(rb"[\r\n]f +\d", data):
        raise _misnamed("OBJ", ("obj",), file_type)


def _misnamed(name: str, types: tuple[str, ...], file_type: str) -> MeshError:
    """Returns the error for the content of another type."""
    message = f"the content is {name}, but the name ends in .{file_type}"
    if types[0] in formats.UNSUPPORTED:
        return MeshError(f"{message}; {formats.UNSUPPORTED[types[0]]}")
    if types[0] in formats.FORMATS:
        return MeshError(f"{message}; rename it")
    return MeshError(f"{message}; this format is not read")
