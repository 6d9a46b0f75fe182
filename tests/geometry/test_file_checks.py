# SPDX-License-Identifier: Apache-2.0
"""Files that are something else than their name says: each has its own sentence."""

import gzip
import zipfile

import gltf_files
import ply_files
import pytest
import tiny_catalogue
from loading import load

from data_prep.geometry import clouds, formats
from data_prep.geometry.scene import MeshError

OBJ = "v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n"


def glb():
    file = gltf_files.File()
    file.mesh(file.primitive())
    return file.glb()


PLY = ply_files.cloud([])
CASES = {
    "pointer": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n", "Git LFS"),
    "annex": (b"/annex/objects/SHA256E-s1234--00.glb\n", "git-annex pointer"),
    "page": (b"<!DOCTYPE html><html><body>Sign in</body></html>", "a page of HTML"),
    "answer": (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "XML, such as"),
    "message": (b'{"error": {"code": 404}}', "JSON, such as the message of a server"),
    "empty": (b"", "empty file"),
    "zeros": (bytes(1000), "only zero bytes"),
    "apple": (b"\x00\x05\x16\x07\x00\x02\x00\x00Mac OS X", "AppleDouble"),
    "packed": (gzip.compress(OBJ.encode()), "the content is gzip"),
    "picture": (tiny_catalogue.png([[(1, 2, 3)]]), "picture|PNG"),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("file_type", ["glb", "gltf", "obj", "ply", "stl", "off"])
def test_content_that_is_no_model_is_named(name, file_type):
    data, message = CASES[name]
    with pytest.raises(MeshError, match=message) as error:
        load(data, file_type)
    assert "unreadable" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "file_type", "name"),
    [
        (PLY, "obj", "PLY"),
        (PLY, "stl", "PLY"),
        (glb(), "obj", "glTF"),
        (glb(), "ply", "glTF"),
        (b"OFF\n3 1 0\n0 0 0\n1 0 0\n0 1 0\n3 0 1 2\n", "ply", "OFF"),
        (OBJ.encode(), "ply", "OBJ"),
    ],
)
def test_model_of_another_type_is_named_with_the_remedy(data, file_type, name):
    message = f"the content is .*{name}.*, but the name ends in .{file_type}; rename it"
    with pytest.raises(MeshError, match=message):
        load(data, file_type)


def test_glb_and_gltf_are_told_apart_by_their_content():
    assert len(load(glb(), "gltf").surface.triangles) == 1


@pytest.mark.parametrize("file_type", ["fbx", "blend", "usdz", "3ds", "skp"])
def test_types_that_are_not_read_have_advice(tmp_path, file_type):
    (tmp_path / f"a.{file_type}").write_bytes(b"x")
    with pytest.raises(clouds.CloudError) as error:
        clouds.read_content(tmp_path / f"a.{file_type}", fill=0.4)
    assert str(error.value) == f"{file_type} files are not read; {formats.UNSUPPORTED[file_type]}"


def test_unknown_type_lists_the_known_ones(tmp_path):
    (tmp_path / "a.xyzzy").write_bytes(b"x")
    with pytest.raises(clouds.CloudError, match="unknown type 'xyzzy'; expected one of glb, gltf"):
        clouds.read_content(tmp_path / "a.xyzzy", fill=0.4)


def test_folder_and_missing_file_are_named(tmp_path):
    (tmp_path / "folder.glb").mkdir()
    with pytest.raises(clouds.CloudError, match="a folder, not a file"):
        clouds.read_content(tmp_path / "folder.glb", fill=0.4)
    with pytest.raises(clouds.CloudError, match="cannot be read: No such file"):
        clouds.read_content(tmp_path / "gone.glb", fill=0.4)


def test_zip_of_one_model_is_read_and_of_several_is_named(tmp_path):
    path = tmp_path / "model.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("model/a.obj", OBJ)
        archive.writestr("__MACOSX/model/._a.obj", b"\x00\x05\x16\x07")
    assert len(clouds.read_content(path, fill=0.4).surface.triangles) == 1
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("model/b.obj", OBJ)
    with pytest.raises(clouds.CloudError, match="a.obj.*b.obj"):
        clouds.read_content(path, fill=0.4)
