# SPDX-License-Identifier: Apache-2.0
"""Writes triangles or points with colours as a binary glTF file (glb).

The page reads these files by `mrd_jax/demo/static/glb.js`, which expects exactly this layout; they
are valid glTF 2.0 without extensions, so other programs open a downloaded one.
"""

import json
import struct

import numpy as np

from data_prep.geometry import colour_spaces

# Constants of glTF.
_FLOAT, _UINT16, _UINT32 = 5126, 5123, 5125
_POINTS, _TRIANGLES = 0, 4
_MAGIC, _JSON_CHUNK, _BINARY_CHUNK = 0x46546C67, 0x4E4F534A, 0x004E4942
# glTF has y up; shapes of an index have z up.
_Z_UP_TO_Y_UP = np.array([[1.0, 0, 0], [0, 0, -1.0], [0, 1.0, 0]])
# A lower alpha makes the material transparent.
_OPAQUE = 252


def write(xyz: np.ndarray, rgba: np.ndarray, faces: np.ndarray | None = None) -> bytes:
    """Returns the bytes of a glb file.

    Args:
      xyz: [vertices, 3], z up.
      rgba: uint8 [vertices, 4], sRGB colours and linear alpha.
      faces: int [faces, 3], numbers of vertices; None for a point cloud.
    """
    positions = np.ascontiguousarray(np.asarray(xyz, np.float64) @ _Z_UP_TO_Y_UP, "<f4")
    colours = np.concatenate([colour_spaces.to_linear(rgba[:, :3]), rgba[:, 3:] / 255], axis=1)
    arrays = [positions, np.rint(colours * 65_535).astype("<u2")]
    primitive: dict = {"attributes": {"POSITION": 0, "COLOR_0": 1}, "material": 0}
    primitive["mode"] = _POINTS if faces is None else _TRIANGLES
    if faces is not None:
        arrays.append(faces.reshape(-1).astype("<u2" if len(xyz) < 65_535 else "<u4"))
        primitive["indices"] = 2
    accessors = [
        {
            "componentType": _FLOAT,
            "count": len(xyz),
            "type": "VEC3",
            "min": positions.min(axis=0).tolist(),
            "max": positions.max(axis=0).tolist(),
        },
        {"componentType": _UINT16, "count": len(xyz), "type": "VEC4", "normalized": True},
    ]
    if faces is not None:
        kind = _UINT16 if arrays[2].itemsize == 2 else _UINT32
        accessors.append({"componentType": kind, "count": faces.size, "type": "SCALAR"})
    views, binary = [], b""
    for number, array in enumerate(arrays):
        accessors[number]["bufferView"] = number
        data = array.tobytes()
        views.append({"buffer": 0, "byteOffset": len(binary), "byteLength": len(data)})
        binary += data + bytes(-len(data) % 4)
    opaque = bool(rgba[:, 3].min() >= _OPAQUE)
    material = {
        "doubleSided": True,
        "alphaMode": "OPAQUE" if opaque else "BLEND",
        "pbrMetallicRoughness": {"metallicFactor": 0, "roughnessFactor": 0.8},
    }
    return _pack(
        {
            "asset": {"version": "2.0", "generator": "mrd_jax"},
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [{"primitives": [primitive]}],
            "materials": [material],
            "accessors": accessors,
            "bufferViews": views,
            "buffers": [{"byteLength": len(binary)}],
        },
        binary,
    )


def _pack(document: dict, binary: bytes) -> bytes:
    """Joins the two chunks of a glb file."""
    text = json.dumps(document, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    return b"".join(
        (
            struct.pack("<III", _MAGIC, 2, total),
            struct.pack("<II", len(text), _JSON_CHUNK),
            text,
            struct.pack("<II", len(binary), _BINARY_CHUNK),
            binary,
        )
    )
