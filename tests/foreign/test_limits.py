# SPDX-License-Identifier: Apache-2.0
"""A file above a limit is rejected with its size, the limit and a remedy."""

import io
import json
import os
import pickle
import struct
import time
import zipfile

import numpy as np
import pytest
import tiny_catalogue
import trimesh
from small_shapes import box, picture

from data_prep import shapes
from data_prep.foreign import archives, limits, safe_pickle
from data_prep.geometry import clouds, images
from data_prep.geometry.scene import MeshError
from data_prep.sources import furniture
from data_prep.teachers.lit.frozen import torch_file

RULES = clouds.Conventions(
    points=32, up_axis="z", from_y_up="rotate", normalisation="unit_sphere", colour_fill=0.4
)


def write(path, data):
    path.write_bytes(data)
    return path


def mesh_of(path, *, faces=12):
    """Writes a box of 8 vertices with some of its 12 faces."""
    mesh = box()
    mesh.update_faces(np.arange(12) < faces)
    return write(path, mesh.export(file_type=path.suffix[1:]))


def cloud_of(path, *, points):
    xyz = np.random.default_rng(0).normal(size=(points, 3))
    return write(path, trimesh.PointCloud(xyz).export(file_type=path.suffix[1:]))


def archive_of(path, **files):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def textured(folder, *, side=4, extra=0):
    """Writes a square with one texture; its materials file is padded by `extra` bytes."""
    folder.mkdir(exist_ok=True)
    (folder / "paint.png").write_bytes(picture("red", size=(side, side)))
    (folder / "square.mtl").write_text("newmtl paint\nmap_Kd paint.png\n" + "#" * extra)
    return write(folder / "square.obj", tiny_catalogue.SQUARE.encode())


def read(path):
    return clouds.read_cloud(path, conventions=RULES)


def sizes(path):
    """Returns the total size of the files that a mesh refers to."""
    return sum(file.stat().st_size for file in path.parent.iterdir() if file != path)


LINES = b"v 1 2 3\nv 4 5 6\n" + b"#" * 100
# Case -> (limit, function that writes a file with n items, n, reader).
CASES = {
    "file": ("FILE_BYTES", lambda at, n: write(at / "a.obj", LINES[:n]), 80, read),
    "faces": ("FACES", lambda at, n: mesh_of(at / "a.ply", faces=n), 10, read),
    "points": ("POINTS", lambda at, n: cloud_of(at / "a.ply", points=n), 50, read),
    "points of an array": (
        *("POINTS", lambda at, n: write(at / "a.npy", npy(np.eye(n, 3) + np.arange(3))), 50, read),
    ),
    "pixels": (
        *("PIXELS", lambda at, n: picture("red", size=(n, 1)), 30, images.open_image),
    ),
    "members": (
        *("MEMBERS", lambda at, n: archive_of(at / "a.zip", **{f"m{i}": b"" for i in range(n)})),
        *(20, archives.Archive),
    ),
    "unpacked bytes": (
        *("MEMBER_BYTES", lambda at, n: archive_of(at / "b.zip", a=bytes(n)), 90),
        lambda path: archives.Archive(path).read("a"),
    ),
    "materials": (
        *("PARTS", lambda at, n: write(at / "a.obj", painted(n)), 12, read),
    ),
    "solids": ("PARTS", lambda at, n: write(at / "a.stl", SOLID * n), 5, read),
    "nodes": ("NODES", lambda at, n: write(at / "a.gltf", scene(nodes=n)), 7, read),
    "primitives": ("PARTS", lambda at, n: write(at / "a.gltf", primitives(n)), 7, read),
    "instances": ("NODES", lambda at, n: write(at / "a.gltf", instances(n)), 7, read),
    "levels": ("DEPTH", lambda at, n: write(at / "a.gltf", nested(n)), 5, read),
    "triangles placed": ("FACES", lambda at, n: write(at / "a.gltf", scene(nodes=n)), 7, read),
    "vertices placed": (
        *("VERTICES", lambda at, n: write(at / "a.gltf", scene(nodes=n // 3)), 27, read),
    ),
}  # fmt: skip
STEP = {"vertices placed": 3}
SOLID = b"solid a\nvertex 0 0 0\nvertex 1 0 0\nvertex 0 1 0\nendsolid\n"


def npy(array):
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def painted(count):
    lines = ["v 0 0 0", "v 1 0 0", "v 0 1 0"]
    for number in range(count):
        lines += [f"usemtl m{number}", "f 1 2 3", f"usemtl m{number}", "f 1 2 3"]
    return "\n".join([*lines, ""]).encode()


def scene(*, nodes, **accessor):
    """Returns a glTF file of one triangle that several nodes place."""
    uri = "data:application/octet-stream;base64,AAAAAAAAAAAAAAAAAACAPwAAAAAAAAAAAAAAAAAAgD8AAAAA"
    item = {"bufferView": 0, "componentType": 5126, "count": 3, "type": "VEC3"} | accessor
    return json.dumps(
        {
            "asset": {"version": "2.0"},
            "scenes": [{"nodes": [*range(nodes)]}],
            "nodes": [{"mesh": 0}] * nodes,
            "meshes": [{"primitives": [{"attributes": {"POSITION": 0}}]}],
            "accessors": [{k: v for k, v in item.items() if v is not None}],
            "bufferViews": [{"buffer": 0, "byteLength": 36}],
            "buffers": [{"byteLength": 36, "uri": uri}],
        }
    ).encode()


def primitives(count):
    """Returns a glTF file of one mesh with several primitives."""
    tree = json.loads(scene(nodes=1))
    tree["meshes"][0]["primitives"] *= count
    return json.dumps(tree).encode()


def instances(count):
    """Returns a glTF file of one node that places several instances, all at the origin."""
    tree = json.loads(scene(nodes=1))
    tree["accessors"].append({"componentType": 5126, "count": count, "type": "VEC3"})
    instancing = {"attributes": {"TRANSLATION": 1}}
    tree["nodes"][0]["extensions"] = {"EXT_mesh_gpu_instancing": instancing}
    return json.dumps(tree).encode()


def nested(nodes, *, last=()):
    """Returns a glTF file of nested nodes."""
    tree = json.loads(scene(nodes=nodes))
    tree["scenes"][0]["nodes"] = [0]
    tree["nodes"] = [{"mesh": 0, "children": [i + 1]} for i in range(nodes - 1)]
    tree["nodes"].append({"mesh": 0, "children": [*last]})
    return json.dumps(tree).encode()


def test_cyclic_nodes_are_rejected(tmp_path):
    path = write(tmp_path / "a.gltf", nested(3, last=[1]))
    with pytest.raises(clouds.CloudError, match="nodes form a cycle"):
        read(path)


@pytest.mark.parametrize("case", CASES)
def test_file_at_the_limit_is_read_and_file_above_is_rejected(tmp_path, monkeypatch, case):
    name, make, maximum, reader = CASES[case]
    limit = getattr(limits, name)
    assert limit.variable == f"MRD_MAX_{name}" and limit.maximum() == limit.default > maximum
    monkeypatch.setenv(limit.variable, str(maximum))
    reader(make(tmp_path, maximum))
    above = maximum + STEP.get(case, 1)
    message = (
        f"too large: {above} {limit.unit}, at most {maximum} are read; .*{limit.variable}={above}"
    )
    with pytest.raises(ValueError, match=message):
        reader(make(tmp_path, above))


def test_total_size_of_referenced_files_is_limited(tmp_path, monkeypatch):
    path = textured(tmp_path)
    monkeypatch.setenv("MRD_MAX_ASSET_BYTES", str(sizes(path)))
    assert read(path).faults == ()
    textured(tmp_path, extra=1)
    with pytest.raises(clouds.CloudError, match=f"{sizes(path)} bytes of referenced files"):
        read(path)


def test_textures_are_limited_in_total_and_individually(tmp_path, monkeypatch):
    path = textured(tmp_path, side=4)
    monkeypatch.setenv("MRD_MAX_TEXELS", "16")
    read(path)
    with pytest.raises(clouds.CloudError, match="25 pixels of textures, at most 16"):
        read(textured(tmp_path, side=5))
    monkeypatch.setenv("MRD_MAX_PIXELS", "24")
    with pytest.raises(clouds.CloudError, match="25 pixels, at most 24"):
        read(path)


def test_declared_size_of_an_array_is_limited(tmp_path, monkeypatch):
    path = write(tmp_path / "a.npy", npy(np.ones((10, 3))))
    with pytest.raises(clouds.CloudError, match="368 bytes of arrays, at most 367"):  # the file
        monkeypatch.setenv("MRD_MAX_ARRAY_BYTES", "367")
        read(path)
    np.savez_compressed(tmp_path / "a.npz", np.ones((1000, 3)))
    with pytest.raises(clouds.CloudError, match="24000 bytes of arrays, at most 1000"):
        monkeypatch.setenv("MRD_MAX_ARRAY_BYTES", "1000")
        read(tmp_path / "a.npz")
    # A number of the same length in the header.
    write(path, path.read_bytes().replace(b"(10, 3)", b"(99, 3)"))
    monkeypatch.delenv("MRD_MAX_ARRAY_BYTES")
    with pytest.raises(clouds.CloudError, match=r"says float64 \[99, 3\], but there are 368 bytes"):
        read(path)


def test_file_that_grows_while_it_is_read_is_rejected(tmp_path, monkeypatch):
    path = write(tmp_path / "a.obj", b"v 0 0 0\n")
    before = os.stat(path)
    write(path, b"v 0 0 0\nv 1 1 1\n")
    monkeypatch.setattr(limits.os, "fstat", lambda number: before)
    with pytest.raises(OSError, match="a.obj: the file grew while it was read; try again"):
        limits.read_file(path)


@pytest.mark.parametrize("value", ["0", "-1", "1e9", "", "many", "\u00b2"])
def test_environment_variable_must_be_a_positive_integer(monkeypatch, value):
    monkeypatch.setenv("MRD_MAX_FACES", value)
    with pytest.raises(ValueError, match="MRD_MAX_FACES is .*; expected a positive integer"):
        limits.FACES.maximum()


@pytest.mark.parametrize(
    ("accessor", "message"),
    [
        ({"bufferView": None, "count": 10**9}, "12000000000 bytes of arrays, at most 2147483648"),
        ({"count": 4}, "beyond its buffer view, .*: needs 48 of 36 bytes"),
        ({"count": -1}, "expected a non-negative integer: 'count' is '-1'"),
        ({"byteOffset": 1}, "beyond its buffer view, .*: needs 37 of 36 bytes"),
    ],
)
def test_gltf_accessor_beyond_its_buffer_is_rejected(tmp_path, accessor, message):
    started = time.process_time()
    with pytest.raises(clouds.CloudError, match=message):
        read(write(tmp_path / "a.gltf", scene(nodes=1, **accessor)))
    assert time.process_time() - started < 5


def test_corrupt_gltf_is_not_replaced_by_model_gltf(tmp_path):
    write(tmp_path / "model.gltf", scene(nodes=1))
    with pytest.raises(clouds.CloudError, match="truncated or malformed JSON of a glTF file"):
        read(write(tmp_path / "a.gltf", b"{"))


@pytest.mark.parametrize(
    "uri",
    [
        *("file:///etc/passwd", "/etc/passwd", "http://host/a.bin", "a\0.bin", "l.bin"),
        *("../../a.bin", "../a.txt", "../up.bin"),
    ],
)
def test_gltf_buffer_outside_the_folder_is_not_read(tmp_path, uri):
    """Of the folder above, files of the types of buffers and textures are read, but no links."""
    top = tmp_path / "top"
    (top / "below").mkdir(parents=True)
    write(tmp_path / "a.bin", bytes(36))
    write(top / "a.txt", bytes(36))
    (top / "up.bin").symlink_to(tmp_path / "a.bin")
    (top / "below" / "l.bin").symlink_to("l.bin")
    tree = json.loads(scene(nodes=1))
    tree["buffers"][0]["uri"] = uri
    with pytest.raises(clouds.CloudError, match="geometry was not found: .*; missing buffer"):
        read(write(top / "below" / "a.gltf", json.dumps(tree).encode()))


def test_pipe_is_rejected_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.obj")
    with pytest.raises(clouds.CloudError, match="cannot be read: .*not a regular file"):
        read(tmp_path / "a.obj")


@pytest.mark.parametrize("compression", [zipfile.ZIP_LZMA, zipfile.ZIP_BZIP2])
def test_archive_of_other_compression_is_rejected(tmp_path, compression):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", compression) as archive:
        archive.writestr("a", b"content")
    with pytest.raises(
        archives.ArchiveError, match=f"compression type is {compression}, expected deflate"
    ):
        archives.Archive(tmp_path / "a.zip").read("a")


def test_eps_file_is_not_opened():
    page = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n%%EOF\n"
    with pytest.raises(ValueError, match="unreadable picture"):
        images.open_image(page)


def test_counts_of_an_off_file_are_limited_before_its_body_is_read(tmp_path, monkeypatch):
    monkeypatch.setenv("MRD_MAX_VERTICES", "3")
    data = b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n"
    read(write(tmp_path / "a.off", data))
    for counts, message in (
        (b"4 1 0", "4 vertices, at most 3"),
        (b"3 99999999 0", "99999999 faces"),
    ):
        with pytest.raises(clouds.CloudError, match=f"too large: {message}"):
            read(write(tmp_path / "a.off", data.replace(b"3 1 0", counts)))
    with pytest.raises(clouds.CloudError, match="a face names a vertex that does not exist"):
        read(write(tmp_path / "a.off", data.replace(b"3 0 1 2", b"3 0 1 %d" % 2**64)))


def test_non_ascii_digits_do_not_number_a_model(tmp_path):
    catalogue = tiny_catalogue.write_catalogue(tmp_path / "a.sh3f", [], {})
    with zipfile.ZipFile(catalogue, "w") as archive:
        text = "name#\u00b2=square\nname#99999999999=long\nname#1=one\nmodel#1=a.obj\n"
        archive.writestr("PluginFurnitureCatalog.properties", text.encode("latin-1"))
    assert [item.name for item in furniture.read_catalogue(catalogue)] == ["one"]


def test_coordinates_whose_square_overflows_are_rejected():
    with pytest.raises(shapes.SkipShape, match="non-finite coordinates"):
        shapes.normalise(np.array([[1e200, 0, 0], [0, 0, 0]]))
    assert np.isfinite(shapes.normalise(np.array([[1e100, 0, 0], [0, 0, 0]]))).all()


def test_nan_opacity_is_opaque():
    files = {"square.obj": tiny_catalogue.SQUARE, "square.mtl": "newmtl paint\nd nan\n"}
    assert tiny_catalogue.surface(files)[0].opacity.tolist() == [1.0]


def test_pickle_with_a_huge_memo_index_is_rejected_before_it_is_read(tmp_path):
    """The unpickler would allocate 32 GB for it."""
    bomb = b"\x80\x04K\x01r" + struct.pack("<I", 2**31 - 1) + b"."
    whole = npy(np.zeros(1)).replace(b"'<f8'", b"'|O' ").replace(b"(1,)", b"()  ")
    path = write(tmp_path / "a.npy", whole[:128] + bomb)
    with pytest.raises(safe_pickle.UnsafePickleError, match="object 2147483647 of at most 2"):
        safe_pickle.load(path)
    with pytest.raises(ValueError, match="object 2147483647 of at most 2"):
        torch_file.load(write(path, bomb))


def test_tensor_larger_than_its_storage_is_rejected(tmp_path):
    storage = b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
    storage += b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x01NtQ"
    call = (
        b"ctorch._utils\n_rebuild_tensor_v2\n(" + storage + b"K\x00J\xff\xff\xff\x7f\x85K\x00\x85"
    )
    parts = (torch_file.MAGIC, torch_file.PROTOCOL, {"little_endian": True})
    data = b"".join(pickle.dumps(part, 2) for part in parts)
    data += b"\x80\x02}X\x01\x00\x00\x00w" + call + b"\x89NtRs."
    data += pickle.dumps(["0"], 2) + struct.pack("<qf", 1, 1.0)
    with pytest.raises(ValueError, match=r"shape \(2147483647,\) exceeds its storage"):
        torch_file.load(write(tmp_path / "a.pth", data))
    # A pickle must not change a number type either: numpy shares it within the process.
    attack = b"\x80\x02ctorch\nFloatStorage\n(K\x03X\x01\x00\x00\x00<NNNJ\xff\xff\xff\xffJ\xff\xff"
    attack += b"\xff\xffK?tb."
    with pytest.raises(ValueError, match="expected a state dict of plain tensors"):
        torch_file.load(write(tmp_path / "a.pth", attack))
    assert np.dtype("<f4").hasobject is False


def test_faces_above_the_limit_are_not_rendered(monkeypatch):
    monkeypatch.setenv("MRD_MAX_FACES", "1")
    with pytest.raises(MeshError, match="2 faces, at most 1"):
        tiny_catalogue.surface({"square.obj": tiny_catalogue.SQUARE, "square.mtl": ""})
