# SPDX-License-Identifier: Apache-2.0
"""Binary glTF files of one square, for materials and textures.

The square spans x and y from 0 to 1 in the plane z = 0. By default the picture of its texture is
upright: the first row of pixels lies at y = 1.
"""

import io
import json
import struct

import numpy as np
from PIL import Image

from data_prep.geometry import meshes
from data_prep.geometry import surface as surfaces
from data_prep.geometry.assets import Assets

CORNERS = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
FACES = np.array([0, 1, 2, 0, 2, 3], np.uint16)
UPRIGHT = np.array([[0, 1], [1, 1], [1, 0], [0, 0]], np.float32)
_CODES = {"int8": 5120, "uint8": 5121, "int16": 5122, "uint16": 5123, "float32": 5126}
_KINDS = {1: "SCALAR", 2: "VEC2", 3: "VEC3", 4: "VEC4"}


def picture(pixels, *, mode=None, file_type="PNG", **options):
    """Encodes pixels, an array or a picture, as a file."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(np.uint8(pixels))
    buffer = io.BytesIO()
    (image.convert(mode) if mode else image).save(buffer, file_type, **options)
    return buffer.getvalue()


def texture(index=0, **more):
    """Returns the object of a material that names a texture."""
    return {"index": index, **more}


def write(*materials, pictures=(), attributes=None, normalised=(), uv=UPRIGHT, **tree):
    """Returns the bytes of a file with one square per material.

    Args:
      *materials: objects of materials; None for a square without material.
      pictures: bytes of picture files, texture i shows the ith.
      attributes: further arrays [4, channels] by name.
      normalised: names of attributes whose integers are normalised.
      uv: [4, 2], TEXCOORD_0; None for none.
      **tree: further fields at the top of the JSON, which replace the generated ones.
    """
    blob, views, accessors = b"", [], []

    def add_view(data):
        nonlocal blob
        blob += bytes(-len(blob) % 4)
        views.append({"buffer": 0, "byteOffset": len(blob), "byteLength": len(data)})
        blob += data
        return len(views) - 1

    def add_accessor(array, **more):
        accessors.append(
            {
                "bufferView": add_view(np.ascontiguousarray(array).tobytes()),
                "componentType": _CODES[str(array.dtype)],
                "count": len(array),
                "type": _KINDS[1 if array.ndim == 1 else array.shape[1]],
                **more,
            }
        )
        return len(accessors) - 1

    arrays = {"POSITION": CORNERS, **({} if uv is None else {"TEXCOORD_0": np.asarray(uv)})}
    arrays |= attributes or {}
    names = {
        name: add_accessor(array, **({"normalized": True} if name in normalised else {}))
        for name, array in arrays.items()
    }
    indices = add_accessor(FACES)
    stated = [material for material in materials if material is not None]
    primitives = []
    for material in materials:
        number = {} if material is None else {"material": stated.index(material)}
        primitives.append({"attributes": names, "indices": indices, **number})
    images = [{"bufferView": add_view(data)} for data in pictures]
    blob += bytes(-len(blob) % 4)
    whole = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0}],
        "meshes": [{"primitives": primitives}],
        "materials": stated,
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": len(blob)}],
        "images": images,
        "textures": [{"source": number} for number in range(len(images))],
        **tree,
    }
    text = json.dumps(whole).encode()
    text += b" " * (-len(text) % 4)
    chunks = struct.pack("<I4s", len(text), b"JSON") + text
    chunks += struct.pack("<I4s", len(blob), b"BIN\0") + blob
    return struct.pack("<4sII", b"glTF", 2, 12 + len(chunks)) + chunks


def load(data):
    """Returns the content of a file."""

    def read(path):
        raise FileNotFoundError(path)

    assets = Assets(read, folder="")
    return meshes.load(data, file_type="glb", references=assets, fill=0.4)


def rgba_at(surface, x, y, *, square=0):
    """Returns the colour [4] of a surface at a point of a square; alpha without the opacity."""
    weights = [1 - x, x - y, y] if x >= y else [1 - y, x, y - x]
    face = 2 * square + (0 if x >= y else 1)
    return surfaces.colours_at(surface, np.array([face]), weights=np.array([weights]))[0].tolist()


def rgb(data, x=0.6, y=0.3):
    """Returns the colour [3] of a file at a point of its square."""
    return rgba_at(load(data).surface, x, y)[:3]


def to_linear(level):
    """Returns the linear value of a level of 0 to 255, by the definition of sRGB."""
    value = level / 255
    return value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4


def to_level(linear):
    """Returns the sRGB level, 0 to 255, of a linear value."""
    value = 12.92 * linear if linear <= 0.0031308 else 1.055 * linear ** (1 / 2.4) - 0.055
    return round(255 * value)
