# SPDX-License-Identifier: Apache-2.0
"""Checks of mesh files before trimesh reads them.

trimesh trusts the file. It allocates memory for the counts in a glTF file. It reads a strided
accessor from any position, guarded only by an `assert`, which Python can disable. It reads
`model.gltf` in place of a `.gltf` file that is not JSON. It takes time that grows at least with the
square of the number of solids, materials and nested nodes.
"""

import json
import math
import re
import struct
from typing import Any

from data_prep.foreign import limits

# glTF: bytes per number by component type, and numbers per item by item type.
_NUMBER_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
_NUMBERS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_JSON_CHUNK = 0x4E4F534A


def check(data: bytes, *, file_type: str) -> None:
    """Checks the size of a file and the counts in it.

    Args:
      data: bytes of the file.
      file_type: suffix of the file, without dot.

    Raises:
      limits.LimitError: the file exceeds a limit, or states a count that does.
      ValueError: a glTF file is inconsistent.
    """
    limits.FILE_BYTES.check(len(data))
    if file_type in ("glb", "gltf"):
        try:
            _check_gltf(json.loads(_gltf_header(data) if file_type == "glb" else data))
        except (TypeError, AttributeError, LookupError, RecursionError, struct.error) as error:
            raise ValueError(f"not the structure of a glTF file ({error})") from error
    elif file_type == "stl":
        limits.PARTS.check(data.lower().count(b"endsolid"))
    elif file_type == "obj":
        limits.PARTS.check(len(set(re.findall(rb"usemtl[^\r\n]*", data))))


def _gltf_header(data: bytes) -> bytes:
    """Returns the JSON text of a binary file, which is its first chunk."""
    length, kind = struct.unpack_from("<II", data, 12)
    if kind != _JSON_CHUNK or length > len(data) - 20:
        raise ValueError("no header of a binary glTF file")
    return data[20 : 20 + length]


def _check_gltf(tree: dict[str, Any]) -> None:
    for name in ("accessors", "bufferViews", "buffers", "images", "materials", "nodes"):
        limits.PARTS.check(len(tree.get(name, ())))
    limits.PARTS.check(sum(len(mesh["primitives"]) for mesh in tree.get("meshes", ())))
    limits.PARTS.check(sum(len(node.get("children", ())) for node in tree.get("nodes", ())))
    _check_depth(tree.get("nodes", ()))
    views = tree.get("bufferViews", ())
    total = 0
    for accessor in tree.get("accessors", ()):
        total += _accessor_bytes(accessor, views)
        limits.ARRAY_BYTES.check(total)
    for view in views:
        if min(_integer(view, "byteOffset", 0), _integer(view, "byteLength")) < 0:
            raise ValueError("a buffer view of negative offset or length")


def _check_depth(nodes: list[dict[str, Any]]) -> None:
    """Rejects deeply nested nodes; a cycle exceeds every limit."""
    parents = {child: i for i, node in enumerate(nodes) for child in node.get("children", ())}
    for node in parents:
        level = 1
        while node in parents:
            node, level = parents[node], level + 1
            limits.DEPTH.check(level)


def _accessor_bytes(accessor: dict[str, Any], views: list[dict[str, Any]]) -> int:
    """Returns the bytes of an accessor's items. ValueError if they exceed its buffer view."""
    count, start = _integer(accessor, "count"), _integer(accessor, "byteOffset", 0)
    item = _NUMBER_BYTES[accessor["componentType"]] * _NUMBERS[accessor["type"]]
    if min(count, start) < 0:
        raise ValueError(f"an accessor of {count} items from byte {start}")
    if "bufferView" in accessor and count:
        view = views[accessor["bufferView"]]
        stride = _integer(view, "byteStride", item)
        if stride < 1 or start + (count - 1) * stride + item > _integer(view, "byteLength"):
            raise ValueError(f"an accessor of {count} items that reaches beyond its buffer view")
    return count * item


def _integer(fields: dict[str, Any], name: str, default: int | None = None) -> int:
    """Returns an integer field; JSON may write it with a decimal point."""
    value = fields[name] if default is None else fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{name} is {value!r}")
    return math.ceil(value)
