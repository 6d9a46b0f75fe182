# SPDX-License-Identifier: Apache-2.0
"""Zip archives of one mesh or point cloud, as download pages offer them."""

import io
import re
import zipfile

import gltf_files
import numpy as np
import pytest

from data_prep.geometry import clouds


def zipped(path, **files):
    """Writes an archive; returns its path."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return path


def content(path):
    return clouds.read_content(path, fill=0.4)


def error(path):
    with pytest.raises(clouds.CloudError) as caught:
        content(path)
    return str(caught.value)


def model():
    file = gltf_files.File()
    file.mesh(file.primitive())
    return {
        "model/scene.gltf": file.gltf(uri="data/scene.bin"),
        "model/data/scene.bin": file.buffer,
    }


def test_mesh_is_read_with_its_files_in_the_archive(tmp_path):
    rest = {"license.txt": b"CC", "__MACOSX/model/._scene.gltf": b"x", "model/.hidden.obj": b"v"}
    found = content(zipped(tmp_path / "a.zip", **model(), **rest))
    assert len(found.surface.triangles) == 1
    assert found.up_axis == "y" and found.notes == ()


def test_files_beside_the_archive_are_not_read(tmp_path):
    files = model()
    (tmp_path / "scene.bin").write_bytes(files.pop("model/data/scene.bin"))
    assert error(zipped(tmp_path / "a.zip", **files)).endswith("missing buffer")


@pytest.mark.parametrize(("name", "up"), [("a.OBJ", "y"), ("a.stl", "z")])
def test_vertical_axis_is_that_of_the_type_in_the_archive(tmp_path, name, up):
    data = {
        "a.OBJ": b"v 0 0 0\nv 1 0 0\nv 0 1 0\nf 1 2 3\n",
        "a.stl": b"solid a\nfacet normal 0 0 1\nouter loop\nvertex 0 0 0\nvertex 1 0 0\n"
        b"vertex 0 1 0\nendloop\nendfacet\nendsolid a\n",
    }[name]
    assert content(zipped(tmp_path / "a.zip", **{name: data})).up_axis == up


def test_array_counts_if_the_archive_holds_nothing_else(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.eye(3))
    found = content(zipped(tmp_path / "a.zip", **{"a.npy": buffer.getvalue()}))
    np.testing.assert_array_equal(found.xyz, np.eye(3))
    mesh = content(zipped(tmp_path / "b.zip", **{"a.npy": buffer.getvalue()}, **model()))
    assert mesh.surface is not None


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"b/x.obj": b"", "a.glb": b""}, "several meshes or point clouds; .*: a.glb, b/x.obj$"),
        ({f"{i}.obj": b"" for i in range(9)}, "0.obj, 1.obj, 2.obj, 3.obj, 4.obj and 4 more$"),
        ({"a.fbx": b"", "t.png": b""}, "^fbx files are not read; open it in Blender"),
        ({"readme.md": b""}, "holds no mesh or point cloud of a known type: readme.md$"),
        ({}, "holds no mesh or point cloud of a known type: it is empty$"),
        ({"inner.zip": b""}, "of a known type: inner.zip$"),
        ({"a.gltf": b"{"}, "truncated or malformed JSON of a glTF file"),
    ],
)
def test_archive_that_is_not_one_mesh_is_an_error_that_lists_it(tmp_path, files, message):
    assert re.search(message, error(zipped(tmp_path / "a.zip", **files)))


def test_corrupt_archive_is_an_error(tmp_path):
    path = zipped(tmp_path / "a.zip", **model())
    path.write_bytes(path.read_bytes()[:-30])
    assert error(path).startswith("not a zip archive")


def test_path_that_leaves_the_archive_is_not_read(tmp_path):
    assert "no mesh or point cloud" in error(zipped(tmp_path / "a.zip", **{"../a.obj": b"v 0 0 0"}))


def test_unpacked_size_is_limited(tmp_path, monkeypatch):
    monkeypatch.setenv("MRD_MAX_MEMBER_BYTES", "1000")
    path = zipped(tmp_path / "a.zip", **{"a.obj": bytes(1001)})
    assert "1001 unpacked bytes, at most 1000" in error(path)
