# SPDX-License-Identifier: Apache-2.0
"""Files that are not what their names say: each is named by a sentence of its own."""

import gzip
import io
import json
import struct
import time
import zipfile

import numpy as np
import ply_files
import pytest
import tiny_catalogue
import trimesh

from data_prep.geometry import file_checks, formats
from data_prep.geometry.scene import MeshError

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 1234\n"
EMPTY = "empty file"
ZEROS = "only zero bytes; the file was not copied or downloaded completely"
POINTER = "a Git LFS pointer, not the file; run git lfs pull"
ANNEX = "a git-annex pointer, not the file; run git annex get"
APPLE = "an AppleDouble file of macOS, which holds attributes and no model"
HTML = "a page of HTML, not the file; download it again"
XML = "XML, such as the message of a server, not the file; download it again"
JSON = "JSON, such as the message of a server, not the file; download it again"
MESSAGE = "an error message of a server, not the file; download it again"
MESH_TYPES = ("glb", "gltf", "obj", "off", "ply", "stl", "npy", "npz", "pcd", "xyz", "step")


def packed():
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("model.obj", "v 0 0 0\n")
    return buffer.getvalue()


def error_of(data, file_type):
    """Returns the message of the error."""
    with pytest.raises(MeshError) as caught:
        file_checks.check(data.encode() if isinstance(data, str) else data, file_type=file_type)
    return str(caught.value)


WRONG = {
    "empty": (b"", EMPTY),
    "zeros": (bytes(500), ZEROS),
    "one zero": (b"\0", ZEROS),
    "Git LFS": (LFS, POINTER),
    "hawser": (LFS.replace(b"git-lfs.github.com", b"hawser.github.com"), POINTER),
    "git-annex": (b"/annex/objects/SHA256E-s12--ab.glb\n", ANNEX),
    "git-annex link": (b"../../.git/annex/objects/X1/Y2/SHA256E-s12--ab.glb", ANNEX),
    "AppleDouble": (b"\0\5\x16\7\0\2\0\0Mac OS X        " + bytes(60), APPLE),
    "AppleSingle": (b"\0\5\x16\0\0\2\0\0" + bytes(60) + b"x", APPLE),
    "page": (b"<html>Access denied</html>", HTML),
    "page with a type": (b"\n<!DOCTYPE html>\n<html lang='en'>", HTML),
    "page in capitals": (b"<HTML><HEAD></HEAD></HTML>", HTML),
    "page with a byte order mark": (b"\xef\xbb\xbf<!doctype HTML><p>", HTML),
    "page in XML": (b'<?xml version="1.0"?><!DOCTYPE html><html xmlns="x"/>', HTML),
    "page with a comment": (b"<!-- saved --><html></html>", HTML),
    "message in XML": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', XML),
    "message in XML without a declaration": (b"<Error><Code>NoSuchKey</Code></Error>", XML),
    "message in JSON": (b'{"error": "rate limit"}', JSON),
    "message in JSON, pretty": (b'\n{\n  "message": "Not Found", "status": "404"\n}\n', JSON),
    "status": (b"404: Not Found", MESSAGE),
    "status 2": (b"403 Forbidden\n", MESSAGE),
    "Error 502": (b"Error 502 bad gateway", MESSAGE),
    "denied": (b"Access denied.", MESSAGE),
    "not found": (b"Not Found", MESSAGE),
    "too many": (b"Too Many Requests\n", MESSAGE),
}


@pytest.mark.parametrize("file_type", MESH_TYPES)
@pytest.mark.parametrize("case", WRONG)
def test_what_is_no_model_is_named(case, file_type):
    data, message = WRONG[case]
    assert error_of(data, file_type) == message


@pytest.mark.parametrize("file_type", ["obj", "ply", "xyz"])
def test_a_list_in_json_is_a_message_except_for_gltf(file_type):
    assert error_of("[1, 2]", file_type) == JSON


def test_json_of_gltf_without_any_error_is_left_to_its_reader():
    file_checks.check(b'{"asset": {"version": "2.0"}, "status": 1}', file_type="gltf")
    file_checks.check(b'{"asset": {"version": "1.0"}}', file_type="glb")


PACKED = {
    "gzip": (gzip.compress(b"x", mtime=0), "gzip"),
    "zip": (packed(), "a zip archive"),
    "7z": (b"7z\xbc\xaf\x27\x1c" + bytes(9), "a 7z archive"),
    "rar": (b"Rar!\x1a\x07\x00", "a rar archive"),
    "xz": (b"\xfd7zXZ\x00" + bytes(9), "xz"),
    "zstd": (b"\x28\xb5\x2f\xfd" + bytes(9), "zstd"),
    "bzip2": (b"BZh91AY&SY", "bzip2"),
}


@pytest.mark.parametrize("file_type", ["glb", "obj", "ply", "stl", "step"])
@pytest.mark.parametrize("case", PACKED)
def test_a_packed_file_is_named(case, file_type):
    data, name = PACKED[case]
    want = f"the content is {name}, but the name ends in .{file_type}; unpack it"
    assert error_of(data, file_type) == want


@pytest.mark.parametrize(
    ("data", "file_type"),
    [(packed(), "zip"), (packed(), "3mf"), (packed(), "npz"), (packed(), "npy"), (packed(), "zae")]
    + [(gzip.compress(b"#VRML V2.0 utf8", mtime=0), name) for name in ("wrl", "wrz", "x3d")],
)
def test_packed_files_of_packed_types_pass(data, file_type):
    file_checks.check(data, file_type=file_type)


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (tiny_catalogue.png([[(1, 2, 3)]]), "a PNG picture"),
        (b"\xff\xd8\xff\xe0\x00\x10JFIF", "a JPEG picture"),
        (b"GIF89a", "a GIF picture"),
        (b"II*\0", "a TIFF picture"),
        (b"MM\0*", "a TIFF picture"),
        (b"%PDF-1.7", "a PDF document"),
    ],
)
@pytest.mark.parametrize(("file_type", "kind"), [("glb", "glTF"), ("obj", "OBJ"), ("stl", "STL")])
def test_pictures_and_documents_are_named(data, name, file_type, kind):
    assert error_of(data, file_type) == f"{name}, not a file of type {kind}"


BOX = trimesh.creation.box()
OBJ = "# by a program\no box\nv 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"
NPY = io.BytesIO()
np.save(NPY, np.zeros((4, 3)))
# Content -> (name in the message, its own types, remedy).
MODELS = {
    "binary glTF": (BOX.export(file_type="glb"), ("glb", "gltf"), "rename it"),
    "PLY": (ply_files.ply(("vertex", ply_files.XYZ, [(0, 0, 0)])), ("ply",), "rename it"),
    "OFF": ("OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n", ("off",), "rename it"),
    "STL": (BOX.export(file_type="stl_ascii"), ("stl",), "rename it"),
    "a NumPy array": (NPY.getvalue(), ("npy", "npz"), "rename it"),
    "PCD": ("# .PCD v0.7 - Point Cloud\nVERSION 0.7\nFIELDS x y z\n", ("pcd",), "rename it"),
    "LAS": (b"LASF" + bytes(20) + b"\1\2" + bytes(200), ("las", "laz"), "rename it"),
    "E57": (b"ASTM-E57" + bytes(40), ("e57",), "rename it"),
    "FBX": (b"Kaydara FBX Binary  \0\x1a\0", ("fbx",), "open it in Blender and export it as .glb"),
    "Blender": (b"BLENDER-v293RENDH", ("blend",), "open it in Blender and export it as .glb"),
    "STEP": ("ISO-10303-21;\nHEADER;\n", ("step", "stp"), "rename it"),
    "VRML": ("#VRML V2.0 utf8\n", ("wrl", "vrml"), "rename it"),
    "USD": ("#usda 1.0\n", ("usda",), "open it in Blender and export it as .glb"),
    "Draco": (b"DRACO\2\2\1", ("drc",), "this format is not read"),
    "glTF": (json.dumps({"asset": {"version": "2.0"}}), ("glb", "gltf"), "rename it"),
    "COLLADA": ('<?xml version="1.0"?>\n<COLLADA version="1.4.1">', ("dae",), "rename it"),
    "X3D": ('<?xml version="1.0"?>\n<X3D version="3.0">', ("x3d",), "rename it"),
    "OBJ": (OBJ, ("obj",), "rename it"),
}


@pytest.mark.parametrize("file_type", ["glb", "obj", "ply", "stl", "off"])
@pytest.mark.parametrize("name", MODELS)
def test_the_content_of_another_model_type_is_named(name, file_type):
    data, own, remedy = MODELS[name]
    data = data.encode() if isinstance(data, str) else data
    if file_type in own:
        file_checks.check(data, file_type=file_type)
        return
    want = f"the content is {name}, but the name ends in .{file_type}; {remedy}"
    assert error_of(data, file_type) == want


@pytest.mark.parametrize("name", MODELS)
def test_content_of_its_own_type_passes(name):
    data, own, _ = MODELS[name]
    for file_type in own:
        file_checks.check(data.encode() if isinstance(data, str) else data, file_type=file_type)


@pytest.mark.parametrize(
    ("data", "file_type"),
    [
        (b"\xef\xbb\xbf" + OBJ.encode(), "obj"),
        (OBJ.encode("utf-16"), "obj"),
        ("mtllib a.mtl\n# 404: Not Found\nv 0 0 0\n", "obj"),
        ("0 0 0\n1 1 1\n", "xyz"),
        ("404 0 0\n1 1 1\n", "xyz"),
        ("500 error\n1 2 3\n", "xyz"),
        ("OFF6586 5534 0\n", "off"),
        ("COFF\n0 0 0\n", "off"),
        (b"\0" * 64 + b"\1", "stl"),
        (b"<html>".ljust(80) + struct.pack("<I", 0), "stl"),
        (b"\x89PNG\r\n\x1a\n".ljust(80) + struct.pack("<I", 1) + bytes(50), "stl"),
        ("ply\nformat ascii 1.0\n", "ply"),
        ("offset 1\n", "obj"),
        ("solid body\n", "obj"),
    ],
    ids=str,
)
def test_odd_files_of_their_own_type_pass(data, file_type):
    file_checks.check(data.encode() if isinstance(data, str) else data, file_type=file_type)


@pytest.mark.parametrize("file_type", formats.TYPES)
def test_every_type_names_an_empty_file(file_type):
    assert error_of(b"", file_type) == EMPTY


@pytest.mark.parametrize("word", ["o ", "# ", "g o ", "st", "solid ", "<!", "\t", "\n", "{"])
def test_repeated_words_take_no_time(word):
    data = (word * 100_000).encode()
    started = time.process_time()
    for file_type in ("off", "obj", "glb", "stl"):
        try:
            file_checks.check(data, file_type=file_type)
        except MeshError:
            pass
    assert time.process_time() - started < 1


def test_a_truncated_file_is_named_with_its_counts():
    error = file_checks.truncated("triangles", 7, of=12)
    assert str(error) == "the file is truncated; triangles found: 7 of 12"
