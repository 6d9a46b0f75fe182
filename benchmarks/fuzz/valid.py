# SPDX-License-Identifier: Apache-2.0
"""Valid files to mutate, and functions that pack a mutated part into a whole file."""

import dataclasses
import io
import pickle
import struct
import zipfile
from collections.abc import Callable

import h5py
import numpy as np
import safetensors.numpy
from PIL import Image

from data_prep import records
from data_prep.sources import furniture
from data_prep.teachers.lit.frozen import torch_file

POINTS, DIM = 6, 4
OBJ = """mtllib a.mtl
v 0 0 0 1 0 0
v 1 0 0 1 0 0
v 1 1 0 1 0 0
v 0 1 1 1 0 0
vt 0 0
vt 1 0
vt 1 1
vn 0 0 1
usemtl paint
f 1/1/1 2/2/1 3/3/1
usemtl glass
f 1 3 4
f 1 2 3 4
"""
MTL = "newmtl paint\nKd 0 0 1\nd 0.5\nmap_Kd a.png\nnewmtl glass\nKd 1 1 1\nTr 0.5\n"
PROPERTIES = """# a comment
id=Tiny
license=Public domain
name#1=Box
id#1=Tiny#1
model#1=/m/a.obj
icon#1=/a.png
category#1=Office
tags#1=Seat, Wood
modelRotation#1=1 0 0 0 1 0 0 0 1
name#2=Caf\\u00e9 \\
  table
model#2=m/a.obj
"""
CSV = 'path,name,captions,up_axis\na.glb,"A chair, red",one|two,y\nb.ply,,,\n'


@dataclasses.dataclass(frozen=True)
class Valid:
    """Part of a valid file that is mutated.

    Attributes:
      part: bytes of the part.
      pack: function from the part to the bytes of a file.
    """

    part: bytes
    pack: Callable[[bytes], bytes] = bytes


def picture(kind: str = "PNG", mode: str = "RGBA") -> bytes:
    """Returns a small picture."""
    pixels = np.random.default_rng(0).integers(0, 255, (6, 5, 4), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, kind)
    return buffer.getvalue()


def zipped(compression: int = zipfile.ZIP_DEFLATED, **files: bytes | str) -> bytes:
    """Returns an archive; in names, `__` stands for a slash and `_` for a dot."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return buffer.getvalue()


def catalogues() -> list[Valid]:
    """Returns a whole catalogue, and its parts, which are packed with valid checksums."""

    def pack(**changed: bytes) -> bytes:
        whole = {"m__a_obj": OBJ, "m__a_mtl": MTL, "m__a_png": picture(), "a_png": picture()}
        name = furniture.CATALOGUE_FILE.replace(".", "_")
        return zipped(**{name: PROPERTIES, **whole, **changed})

    name = furniture.CATALOGUE_FILE.replace(".", "_")
    return [
        Valid(pack()),
        Valid(PROPERTIES.encode(), lambda part: pack(**{name: part})),
        Valid(OBJ.encode(), lambda part: pack(m__a_obj=part)),
        Valid(MTL.encode(), lambda part: pack(m__a_mtl=part)),
        Valid(picture(), lambda part: pack(m__a_png=part)),
    ]


def npy(array: np.ndarray) -> bytes:
    """Returns a file of `numpy.save`."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


def pickled() -> list[Valid]:
    """Returns dicts in npy files, in several pickle protocols."""
    shape = {
        "id": "abc",
        "xyz": np.arange(12.0).reshape(4, 3),
        "words": np.array(["a", "b"]),
        "text": ["one", "two"],
        "feat": [{"original": np.zeros(3, np.float16)}],
        "numbers": (1, 2.5, None, True, -(2**80), b"\xff", np.float32(1)),
    }
    wrapped = np.array(shape, dtype=object)
    listed = np.array([shape, shape], dtype=object)
    header = npy(wrapped)[: npy(wrapped).index(b"\n") + 1]
    old = [header + pickle.dumps(wrapped, protocol) for protocol in (2, 4)]
    return [Valid(npy(wrapped)), Valid(npy(listed)), *map(Valid, old), Valid(npy(np.eye(3)))]


def torch_files() -> list[Valid]:
    """Returns a state dict of one tensor in the format of PyTorch before 1.6."""
    storage = "(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    storage += "X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x06NtQ"
    call = f"ctorch._utils\n_rebuild_tensor_v2\n({storage}K\x00K\x02K\x03\x86K\x01K\x02\x86\x89NtR"
    parts = (torch_file.MAGIC, torch_file.PROTOCOL, {"little_endian": True})
    head = b"".join(pickle.dumps(part, protocol=2) for part in parts)
    state = f"\x80\x02}}X\x01\x00\x00\x00w{call}s.".encode("latin1")
    tail = pickle.dumps(["0"], protocol=2) + struct.pack("<q", 6) + bytes(24)
    return [Valid(head + state + tail), Valid(state, lambda part: head + part + tail)]


def safetensors_files() -> list[Valid]:
    """Returns a state dict of three dtypes, and its header as a separate part."""
    arrays = {"w": np.eye(3, dtype=np.float32), "b": np.ones(2, np.float16), "n": np.int64([[7]])}
    whole = safetensors.numpy.save(arrays)
    (size,) = struct.unpack_from("<Q", whole)
    header, data = whole[8 : 8 + size], whole[8 + size :]
    return [Valid(whole), Valid(header, lambda part: struct.pack("<Q", len(part)) + part + data)]


def hdf5_files() -> list[Valid]:
    """Returns two labelled point clouds, uncompressed and in compressed chunks."""
    files = []
    for options in ({}, {"compression": "gzip", "chunks": (1, 4, 3)}):
        buffer = io.BytesIO()
        with h5py.File(buffer, "w") as file:
            clouds = np.random.default_rng(0).random((2, 8, 3), np.float32)
            file.create_dataset("data", data=clouds, **options)
            file.create_dataset("label", data=np.uint8([[1], [0]]))
        files.append(Valid(buffer.getvalue()))
    return files


def serialised() -> list[Valid]:
    """Returns serialised records with and without images."""
    rng = np.random.default_rng(0)
    record = {
        **dict.fromkeys(("id", "source", "name", "creator", "licence", "picture"), "w\u00f6rd"),
        "xyz": rng.normal(size=(POINTS, 3)).astype(np.float16),
        "rgb": rng.integers(0, 256, (POINTS, 3)).astype(np.uint8),
        "image_features": rng.normal(size=(2, DIM)).astype(np.float16),
        "image_kinds": ["render", "picture"],
        "text_features": rng.normal(size=(1, DIM)).astype(np.float16),
        "captions": ["a chair"],
        "caption_kinds": ["name"],
        "label": 3,
    }
    bare = record | {"image_features": np.zeros((0, DIM), np.float16), "image_kinds": []}
    schema = records.schema(points=POINTS, dim=DIM)
    return [Valid(schema.serialize_example(example)) for example in (record, bare)]
