# SPDX-License-Identifier: Apache-2.0
"""Writes small glTF files."""

import base64
import json
import struct

import numpy as np

from data_prep.geometry import meshes, surface
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers.gltf import reader

COMPONENTS = {"int8": 5120, "uint8": 5121, "int16": 5122, "uint16": 5123, "uint32": 5125}
COMPONENTS |= {"float32": 5126}
TYPES = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4", 16: "MAT4"}
# A triangle with sides 1, 2 and its hypotenuse, area 1.
TRIANGLE = np.float32([[0, 0, 0], [1, 0, 0], [0, 2, 0]])
# The corners of a unit cube, and its 12 triangles.
CORNERS = np.float32([[x, y, z] for x in (0, 1) for y in (0, 1) for z in (0, 1)])
SIDES = ((0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3))
CUBE = np.uint16([[t for a, b, c, d in SIDES for t in (a, b, c, a, c, d)]]).reshape(-1)


class File:
    """JSON and one buffer of a glTF file."""

    def __init__(self):
        self.buffer = b""
        self.tree = {
            "asset": {"version": "2.0"},
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0}],
            "meshes": [],
            "accessors": [],
            "bufferViews": [],
        }

    def view(self, data, **fields):
        """Appends a buffer view; returns its index."""
        self.buffer += bytes(-len(self.buffer) % 4)
        view = {"buffer": 0, "byteOffset": len(self.buffer), "byteLength": len(data), **fields}
        self.tree["bufferViews"].append(view)
        self.buffer += data
        return len(self.tree["bufferViews"]) - 1

    def accessor(self, array, **fields):
        """Appends an accessor with a buffer view of its own; returns its index."""
        rows = np.ascontiguousarray(array).reshape(len(array), -1)
        entry = {
            "bufferView": self.view(rows.tobytes()),
            "componentType": COMPONENTS[str(rows.dtype)],
            "count": len(rows),
            "type": TYPES[rows.shape[1]],
            **fields,
        }
        self.tree["accessors"].append({k: v for k, v in entry.items() if v is not None})
        return len(self.tree["accessors"]) - 1

    def primitive(self, positions=TRIANGLE, indices=None, attributes=None, **fields):
        """Returns a primitive; positions, indices and attributes are arrays or accessors."""
        arrays = {"POSITION": positions, **(attributes or {})}
        numbers = {name: self._index(array) for name, array in arrays.items()}
        primitive = {"attributes": numbers, **fields}
        return primitive if indices is None else primitive | {"indices": self._index(indices)}

    def mesh(self, *primitives, **fields):
        """Appends a mesh; returns its index."""
        self.tree["meshes"].append({"primitives": list(primitives), **fields})
        return len(self.tree["meshes"]) - 1

    def glb(self, *, extra_buffer=None):
        """Returns the bytes of a binary file; `extra_buffer` describes a second buffer."""
        self.tree["buffers"] = [{"byteLength": len(self.buffer)}]
        self.tree["buffers"] += [extra_buffer] if extra_buffer else []
        text = json.dumps(self.tree).encode()
        text += b" " * (-len(text) % 4)
        binary = self.buffer + bytes(-len(self.buffer) % 4)
        chunks = chunk(b"JSON", text) + chunk(b"BIN\0", binary)
        return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks

    def gltf(self, uri=None):
        """Returns the bytes of a text file; the buffer is in it unless `uri` names another."""
        data = "data:application/octet-stream;base64," + base64.b64encode(self.buffer).decode()
        self.tree["buffers"] = [{"byteLength": len(self.buffer), "uri": uri or data}]
        return json.dumps(self.tree).encode()

    def _index(self, array):
        return array if isinstance(array, int) else self.accessor(array)


def chunk(kind, data):
    """Returns a chunk of a binary file."""
    return struct.pack("<I4s", len(data), kind) + data


def assets(**files):
    """Returns a reader of the given files, whose names have underscores instead of dots."""
    named = {name.replace("__", "."): data for name, data in files.items()}

    def read(name):
        if name not in named:
            raise FileNotFoundError(name)
        return named[name]

    return Assets(read, folder="")


def scene(data, **files):
    """Reads a file; returns the scene and the notes."""
    references = assets(**files)
    return reader.read(data, assets=references, file_type="gltf"), references.notes


def extent(data, **files):
    """Returns the extents of all triangles [3], their area, and the notes."""
    found, notes = scene(data, **files)
    triangles = np.concatenate([part.triangles for part in found.parts])
    corners = triangles.reshape(-1, 3)
    edges = triangles[:, 1:] - triangles[:, :1]
    area = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1).sum() / 2
    return np.ptp(corners, axis=0), area, notes


def error(data, **files):
    """Returns the message of the error of a file, as users see it."""
    try:
        meshes.load(data, file_type="gltf", references=assets(**files), fill=0.4)
    except ValueError as error:
        return str(error)
    raise AssertionError("the file was read")


def colours(data, points=500):
    """Returns the sampled colours of a file, uint8 [points, 3]."""
    content = meshes.load(data, file_type="gltf", references=assets(), fill=0.4)
    rng = np.random.default_rng(0)
    return surface.sample_points(content.surface, points=points, rng=rng)[1]
