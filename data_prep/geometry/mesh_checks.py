# SPDX-License-Identifier: Apache-2.0
"""What is looked at in a mesh file before trimesh reads it, so that no promise in it is believed.

trimesh makes room for the counts that a glTF file states, takes the values of a strided accessor
from wherever its numbers point (an `assert`, which Python can leave out, is the only guard), reads
`model.gltf` in place of a `.gltf` that is no JSON, and takes time that grows with the square, or
faster, of the number of solids, of materials, and of nodes below one another.
"""

import json
import math
import re
import struct
from typing import Any

from data_prep.foreign import limits

# Bytes of a number, by its code in glTF; numbers of an item, by its type.
_NUMBER_BYTES = {5120: 1, 5121: 1, 5122: 2, 5123: 2, 5125: 4, 5126: 4}
_NUMBERS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT2": 4, "MAT3": 9, "MAT4": 16}
_JSON_CHUNK = 0x4E4F534A


def check(data: bytes, *, file_type: str) -> None:
    """Looks at a file.

    Args:
      data: the file's bytes.
      file_type: its ending, without dot.

    Raises:
      limits.LimitError: it holds or promises too much.
      ValueError: a glTF file contradicts itself.
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
    """The JSON text of a binary file, which is its first chunk."""
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
        if min(_whole(view, "byteOffset", 0), _whole(view, "byteLength")) < 0:
            raise ValueError("a buffer view of negative place or length")


def _check_depth(nodes: list[dict[str, Any]]) -> None:
    """Refuses a long row of nodes; one that comes back to its start counts as longer than any."""
    parents = {child: node for node, one in enumerate(nodes) for child in one.get("children", ())}
    for node in parents:
        level = 1
        while node in parents:
            node, level = parents[node], level + 1
            limits.DEPTH.check(level)


def _accessor_bytes(accessor: dict[str, Any], views: list[dict[str, Any]]) -> int:
    """Bytes of an accessor's items, which must lie in its buffer view."""
    count, start = _whole(accessor, "count"), _whole(accessor, "byteOffset", 0)
    item = _NUMBER_BYTES[accessor["componentType"]] * _NUMBERS[accessor["type"]]
    if min(count, start) < 0:
        raise ValueError(f"an accessor of {count} items from byte {start}")
    if "bufferView" in accessor and count:
        view = views[accessor["bufferView"]]
        stride = _whole(view, "byteStride", item)
        if stride < 1 or start + (count - 1) * stride + item > _whole(view, "byteLength"):
            raise ValueError(f"an accessor of {count} items that reaches beyond its buffer view")
    return count * item


def _whole(fields: dict[str, Any], name: str, default: int | None = None) -> int:
    """A field that holds a whole number; JSON may write it with a point."""
    value = fields[name] if default is None else fields.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise TypeError(f"{name} is {value!r}")
    return math.ceil(value)
