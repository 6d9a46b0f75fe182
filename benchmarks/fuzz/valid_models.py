# SPDX-License-Identifier: Apache-2.0
"""Valid meshes and point clouds of every format of `data_prep.geometry.formats` to mutate."""

import gzip
import io
import json
import struct
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import trimesh
from PIL import Image

from benchmarks.fuzz import valid_texts
from benchmarks.fuzz.valid import MTL, OBJ, Valid, npy, picture, zipped

# Points in most files; the box of trimesh has eight corners as well.
_XYZ = np.random.default_rng(0).random((8, 3))
# Bytes of a page of an E57 file, of which the last four are a checksum.
_PAGE = 1024
_RGB = np.random.default_rng(1).integers(0, 256, (8, 3), np.uint8)


def files(kind: str) -> list[Valid]:
    """Returns files of a type.

    Args:
      kind: key of `WRITERS`.
    """
    return WRITERS[kind]()


def _box() -> trimesh.Trimesh:
    mesh = trimesh.creation.box()
    mesh.visual = trimesh.visual.ColorVisuals(mesh, vertex_colors=np.full((8, 4), 200, np.uint8))
    return mesh


def _obj() -> list[Valid]:
    return [Valid(OBJ.encode()), Valid(_box().export(file_type="obj").encode())]


def _gltf() -> list[Valid]:
    whole = trimesh.Scene(_painted()).export(file_type="gltf", embed_buffers=True)
    return [Valid(whole["model.gltf"]), Valid(json.dumps(_scene()).encode())]


def _glb_files() -> list[Valid]:
    whole = [trimesh.Scene(part).export(file_type="glb") for part in (_box(), _painted())]
    return [*map(Valid, whole), Valid(json.dumps(_scene()).encode(), _glb)]


def _stl() -> list[Valid]:
    return [
        Valid(_box().export(file_type="stl")),
        Valid(_box().export(file_type="stl_ascii").encode()),
    ]


def _ply() -> list[Valid]:
    cloud = trimesh.PointCloud(_box().vertices, np.full((8, 4), 9, np.uint8))
    return [
        Valid(_box().export(file_type="ply")),
        Valid(_box().export(file_type="ply", encoding="ascii")),
        Valid(cloud.export(file_type="ply")),
        Valid(valid_texts.PLY.encode()),
    ]


def _off() -> list[Valid]:
    data = trimesh.creation.box().export(file_type="off")
    joined = data.replace("OFF\n", "OFF", 1)
    square = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0]], ">f4").tobytes()
    binary = b"OFF BINARY\n" + struct.pack(">3i", 3, 1, 0) + square
    binary += struct.pack(">5i", 3, 0, 1, 2, 0)
    return [*(Valid(text.encode()) for text in (data, joined, valid_texts.COFF)), Valid(binary)]


def _painted() -> trimesh.Trimesh:
    mesh = trimesh.creation.box()
    image = Image.open(io.BytesIO(picture("JPEG", "RGB")))
    material = trimesh.visual.material.PBRMaterial(baseColorTexture=image)
    uv = np.random.default_rng(0).random((8, 2))
    mesh.visual = trimesh.visual.TextureVisuals(uv=uv, material=material)
    return mesh


def _scene() -> dict:
    """Returns a glTF scene of two nodes and a triangle with an embedded buffer."""
    uri = "data:application/octet-stream;base64,AAAAAAAAAAAAAAAAAACAPwAAAAAAAAAAAAAAAAAAgD8AAAAA"
    return {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"children": [1], "scale": [1, 2, 3]}, {"mesh": 0, "rotation": [0, 0, 0, 1]}],
        "meshes": [{"primitives": [{"attributes": {"POSITION": 0}, "material": 0}]}],
        "materials": [{"pbrMetallicRoughness": {"baseColorFactor": [1, 0, 0, 0.5]}}],
        "accessors": [{"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"}],
        "bufferViews": [{"buffer": 0, "byteLength": 36, "byteStride": 12}],
        "buffers": [{"byteLength": 36, "uri": uri}],
    }


def _glb(header: bytes) -> bytes:
    return struct.pack("<4s4I", b"glTF", 2, 20 + len(header), len(header), 0x4E4F534A) + header


def arrays(kind: str) -> list[Valid]:
    """Returns point clouds in npy or npz files."""
    cloud = np.random.default_rng(0).random((8, 6))
    if kind == "npy":
        return [Valid(npy(cloud)), Valid(npy(np.asfortranarray(cloud[:, :3], ">f4")))]
    rgb = npy((cloud[:, 3:] * 255).astype(np.uint8))
    return [
        Valid(zipped(zipfile.ZIP_STORED, xyz_npy=npy(cloud[:, :3]), rgb_npy=rgb)),
        Valid(zipped(points_npy=npy(cloud[:, :3]))),
        Valid(npy(cloud[:, :3]), lambda part: zipped(xyz_npy=part, rgb_npy=rgb)),
    ]


def _archive(kind: str) -> Callable[[], list[Valid]]:
    """Returns the function for zip or zae archives of a mesh with its texture."""

    def write() -> list[Valid]:
        dae = valid_texts.COLLADA
        if kind == "zae":
            manifest = '<?xml version="1.0"?><dae_root>./m/a.dae</dae_root>'
            whole = [{"manifest_xml": manifest, "m__a_dae": dae, "m__a_png": picture()}]
            parts = [Valid(dae.encode(), lambda part: zipped(m__a_dae=part, m__a_png=picture()))]
        else:
            whole = [{"m__a_obj": OBJ, "m__a_mtl": MTL, "m__a_png": picture()}]
            parts = [
                Valid(MTL.encode(), lambda part: zipped(a_obj=OBJ, a_mtl=part, a_png=picture())),
                Valid(picture(), lambda part: zipped(a_obj=OBJ, a_mtl=MTL, a_png=part)),
                Valid(_box().export(file_type="ply"), lambda part: zipped(a_ply=part)),
            ]
        stored = [zipped(zipfile.ZIP_STORED, **members) for members in whole]
        return [*(Valid(zipped(**members)) for members in whole), *map(Valid, stored), *parts]

    return write


def _three_mf() -> list[Valid]:
    def pack(part: bytes) -> bytes:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("_rels/.rels", valid_texts.RELATIONSHIPS)
            archive.writestr("3D/3dmodel.model", part)
            archive.writestr("3D/Texture/a.png", picture())
        return buffer.getvalue()

    model = valid_texts.THREE_MF.encode()
    return [Valid(pack(model)), Valid(model, pack)]


def _pcd() -> list[Valid]:
    packed = (_RGB.astype(np.uint32) * np.uint32([1 << 16, 1 << 8, 1])).sum(axis=1)
    columns = [*_XYZ.astype("<f4").T, packed.astype("<u4")]
    text = "".join("{} {} {} {}\n".format(*row) for row in zip(*columns, strict=True)).encode()
    plain = b"".join(np.ascontiguousarray(column).tobytes() for column in columns)
    # LZF of plain bytes, and one copy of the last four of them.
    pieces = [plain[i : i + 32] for i in range(0, len(plain), 32)]
    literal = b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)
    sizes = struct.pack("<II", len(literal), len(plain))
    header = valid_texts.PCD
    return [
        Valid(header.format("ascii").encode() + text),
        Valid(header.format("binary").encode() + np.rec.fromarrays(columns).tobytes()),
        Valid(header.format("binary_compressed").encode() + sizes + literal),
        Valid(header.format("binary_compressed").encode(), lambda part: part + sizes + literal),
    ]


def _las(kind: str) -> Callable[[], list[Valid]]:
    """Returns the function for LAS files, or for compressed ones."""

    def write() -> list[Valid]:
        import laspy

        written = []
        for point_format, version in ((3, "1.2"), (7, "1.4")):
            header = laspy.LasHeader(point_format=point_format, version=version)
            header.scales = [0.001] * 3
            data = laspy.LasData(header)
            data.x, data.y, data.z = _XYZ.T
            data.red, data.green, data.blue = _RGB.T
            buffer = io.BytesIO()
            data.write(buffer, do_compress=kind == "laz")
            written.append(Valid(buffer.getvalue()))
        return written

    return write


def _e57() -> list[Valid]:
    import pye57

    columns = {f"cartesian{axis}": _XYZ[:, i].copy() for i, axis in enumerate("XYZ")}
    columns |= {f"color{n}": _RGB[:, i].copy() for i, n in enumerate(("Red", "Green", "Blue"))}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.e57")
        with pye57.E57(str(path), mode="w") as file:
            file.write_scan_raw(columns, translation=np.ones(3))
        whole = path.read_bytes()
    pages = [whole[i : i + _PAGE - 4] for i in range(0, len(whole), _PAGE)]
    return [Valid(whole), Valid(b"".join(pages), _paged)]


def _paged(part: bytes) -> bytes:
    """Returns an E57 file with valid checksums and a valid size in its header."""
    size = _PAGE - 4
    pages = [part[i : i + size].ljust(size, b"\0") for i in range(0, len(part), size)]
    if pages:
        total = struct.pack("<Q", _PAGE * len(pages))
        pages[0] = pages[0][:16] + total + pages[0][24:]
    return b"".join(page + struct.pack(">I", _crc32c(page)) for page in pages)


def _crc32c(data: bytes) -> int:
    """Returns the checksum of E57, CRC-32C."""
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    return value ^ 0xFFFFFFFF


def _text_points() -> list[Valid]:
    rows = [" ".join(map(str, row)) for row in np.hstack([_XYZ, _RGB])]
    commas = "x,y,z,r,g,b\n" + "\n".join(row.replace(" ", ",") for row in rows)
    counted = "8\n" + "\n".join(" ".join([*row.split()[:3], "7", *row.split()[3:]]) for row in rows)
    return [Valid(text.encode()) for text in ("\n".join(rows), commas, counted)]


def _texts(*texts: str) -> Callable[[], list[Valid]]:
    """Returns the function for some texts."""
    return lambda: [Valid(text.encode()) for text in texts]


WRITERS: dict[str, Callable[[], list[Valid]]] = {
    "glb": _glb_files,
    "gltf": _gltf,
    "obj": _obj,
    "off": _off,
    "ply": _ply,
    "stl": _stl,
    "dae": _texts(valid_texts.COLLADA),
    "zae": _archive("zae"),
    "3mf": _three_mf,
    "wrl": _texts(valid_texts.VRML, valid_texts.VRML_1),
    "wrz": lambda: [Valid(valid_texts.VRML.encode(), gzip.compress)],
    "x3d": _texts(valid_texts.X3D),
    "x3dv": _texts(valid_texts.X3DV),
    "step": _texts(valid_texts.STEP),
    "iges": _texts(valid_texts.IGES),
    "npy": lambda: arrays("npy"),
    "npz": lambda: arrays("npz"),
    "pcd": _pcd,
    "las": _las("las"),
    "laz": _las("laz"),
    "e57": _e57,
    "xyz": _text_points,
    "zip": _archive("zip"),
}
