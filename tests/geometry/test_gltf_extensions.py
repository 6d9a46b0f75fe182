# SPDX-License-Identifier: Apache-2.0
"""glTF: extensions are read, noted, harmless or refused, as the documentation says."""

import base64
import builtins
import re
import sys
from pathlib import Path

import gltf_files
import numpy as np
import pytest

from data_prep.geometry.readers.gltf import extensions, graph

DOCUMENT = Path(__file__).parents[2] / "docs" / "formats.md"
WORDS = {"read": "READ", "noted": "NOTED", "harmless": "HARMLESS", "refused": "REFUSED"}


def table():
    """Returns the extensions in the documentation, {name: treatment}."""
    section = DOCUMENT.read_text().split("## glTF", 1)[1].split("\n## ", 1)[0]
    rows = re.findall(r"^\| `([A-Z][A-Z0-9]+\w*)` \| (\w+) \|", section, re.MULTILINE)
    assert len(rows) == len(dict(rows)), "an extension has two rows"
    return dict(rows)


def test_documentation_lists_every_extension_with_its_treatment():
    expected = {name: word for word, group in WORDS.items() for name in getattr(extensions, group)}
    assert table() == expected


def test_no_extension_is_in_two_groups():
    groups = [set(getattr(extensions, group)) for group in WORDS.values()]
    assert sum(map(len, groups)) == len(set.union(*groups))


def using(name, *, required):
    file = gltf_files.File()
    file.mesh(file.primitive())
    file.tree["extensionsUsed"] = [name]
    if required:
        file.tree["extensionsRequired"] = [name]
    return file.glb()


@pytest.mark.parametrize("required", [False, True])
@pytest.mark.parametrize(
    ("name", "notes"),
    [
        ("KHR_mesh_quantization", []),
        ("KHR_lights_punctual", []),
        ("KHR_materials_volume", ["glTF extension ignored: KHR_materials_volume"]),
    ],
)
def test_extension_that_is_used(name, notes, required):
    assert gltf_files.extent(using(name, required=required))[2] == notes


def test_unknown_extension_is_noted_and_refused_if_it_is_required():
    name = "ACME_new_shapes"
    assert gltf_files.extent(using(name, required=False))[2] == [
        "unknown glTF extension ignored: ACME_new_shapes"
    ]
    message = gltf_files.error(using(name, required=True))
    assert message.startswith("requires the glTF extension ACME_new_shapes, which is not read")


@pytest.mark.parametrize("name", sorted(extensions.REFUSED))
def test_required_extension_that_holds_the_geometry_is_refused_with_a_remedy(name):
    message = gltf_files.error(using(name, required=True))
    assert message == (
        f"requires the glTF extension {name}, which is not read; {extensions.REFUSED[name]}"
    )


# meshoptimizer.


def with_meshopt(name, *, placeholder=True, data=None, encode=None, filter_name="NONE"):
    """Returns a binary file of a cube whose positions are compressed, and are 0 beside it."""
    meshopt = pytest.importorskip("meshopt")
    file = gltf_files.File()
    positions = file.accessor(gltf_files.CORNERS, bufferView=None)
    indices = file.accessor(gltf_files.CUBE)
    compressed = meshopt.encode_gltf_buffer(gltf_files.CORNERS, "ATTRIBUTES")
    compressed = compressed if data is None else data
    at = file.view(compressed)
    start = file.tree["bufferViews"][at]["byteOffset"]
    extension = {"buffer": 0, "byteOffset": start, "byteLength": len(compressed)}
    extension |= {"byteStride": 12, "count": 8, "mode": "ATTRIBUTES", "filter": filter_name}
    view = {"buffer": 1, "byteLength": 96, "extensions": {name: extension}}
    file.tree["bufferViews"].append(view)
    file.tree["accessors"][positions]["bufferView"] = len(file.tree["bufferViews"]) - 1
    file.mesh({"attributes": {"POSITION": positions}, "indices": indices})
    file.tree["extensionsUsed"] = [name]
    zeros = "data:application/octet-stream;base64," + base64.b64encode(bytes(96)).decode()
    beside = {"extensions": {name: {"fallback": True}}} if placeholder else {"uri": zeros}
    return file.glb(extra_buffer={"byteLength": 96} | beside)


@pytest.mark.parametrize("name", ["EXT_meshopt_compression", "KHR_meshopt_compression"])
def test_compressed_views_are_decompressed(name):
    assert gltf_files.extent(with_meshopt(name))[0] == pytest.approx([1, 1, 1])


def test_uncompressed_data_beside_meshopt_is_preferred():
    # The data beside it has all corners at the origin.
    extent = gltf_files.extent(with_meshopt("EXT_meshopt_compression", placeholder=False))[0]
    assert extent.tolist() == [0, 0, 0]


@pytest.mark.parametrize("change", [{"data": b"\xa1" + bytes(99)}, {"filter_name": "UNKNOWN"}])
def test_corrupt_meshopt_data_is_named(change):
    message = gltf_files.error(with_meshopt("EXT_meshopt_compression", **change))
    assert message == "corrupt data of the glTF extension EXT_meshopt_compression"


def test_missing_package_of_meshopt_is_named(monkeypatch):
    data = with_meshopt("EXT_meshopt_compression")
    monkeypatch.setitem(sys.modules, "meshopt", None)
    assert 'run pip install "mrd_jax[formats]"' in gltf_files.error(data)


# Draco.


def compressed(positions, faces, *, fallback=False, required=True, corrupt=False, **options):
    """Returns a file with a Draco primitive; the ids of its attributes are those of DracoPy."""
    DracoPy = pytest.importorskip("DracoPy")
    data = DracoPy.encode(positions, faces, quantization_bits=24, **options)
    ids = {item["attribute_type"]: item["unique_id"] for item in DracoPy.decode(data).attributes}
    names = {0: "POSITION", 2: "COLOR_0", 3: "TEXCOORD_0"}
    file = gltf_files.File()
    view = file.view(data[:30] if corrupt else data)
    extension = {"bufferView": view, "attributes": {names[k]: i for k, i in ids.items()}}
    attributes = {}
    for kind in ids:
        array = {0: positions, 2: options.get("colors"), 3: options.get("tex_coord")}[kind]
        array = array if kind == 2 else np.float32(array)
        index = file.accessor(array, normalized=kind == 2)
        if not fallback:
            del file.tree["accessors"][index]["bufferView"]
        attributes[names[kind]] = index
    indices = file.accessor(np.uint16(faces).ravel())
    if not fallback:
        del file.tree["accessors"][indices]["bufferView"]
    primitive = {"attributes": attributes, "indices": indices}
    primitive["extensions"] = {"KHR_draco_mesh_compression": extension}
    file.mesh(primitive)
    file.tree["extensionsUsed"] = ["KHR_draco_mesh_compression"]
    if required:
        file.tree["extensionsRequired"] = ["KHR_draco_mesh_compression"]
    return file


FACES = gltf_files.CUBE.reshape(-1, 3)


def test_draco_keeps_positions_to_its_quantisation():
    positions = gltf_files.CORNERS * [1, 2, 3] + [1000, 0, 0]
    found, _ = gltf_files.scene(compressed(positions, FACES).glb())
    triangles = found.parts[0].triangles
    assert len(triangles) == 12
    np.testing.assert_allclose(triangles.min(axis=(0, 1)), [1000, 0, 0], atol=1e-4)
    np.testing.assert_allclose(triangles.max(axis=(0, 1)), [1001, 2, 3], atol=1e-4)


def test_draco_keeps_the_attributes_of_each_corner():
    uv = gltf_files.CORNERS[:, :2] * np.float32([0.5, 0.25])
    colours = np.uint8([[255 * x, 255 * y, 51, 255] for x, y, _ in gltf_files.CORNERS])
    file = compressed(gltf_files.CORNERS, FACES, colors=colours, tex_coord=uv.astype(float))
    document = gltf_files.reader.open_document(file.glb(), assets=gltf_files.assets())
    primitive = file.tree["meshes"][0]["primitives"][0]
    found = gltf_files.reader.primitives.read(document, primitive, skinned=False)
    assert found.attributes["COLOR_0"].dtype == np.float32
    # Vertices are in another order, so each is compared with the values of its position.
    x, y = np.round(found.positions[:, :2]).T
    colours_of = np.stack([x, y, np.full_like(x, 0.2), np.ones_like(x)], axis=1)
    uv_of = np.stack([x / 2, y / 4], axis=1)
    np.testing.assert_allclose(found.attributes["COLOR_0"], colours_of, atol=1e-6)
    np.testing.assert_allclose(found.attributes["TEXCOORD_0"], uv_of, atol=1e-5)


def test_uncompressed_data_beside_draco_is_preferred():
    file = compressed(gltf_files.CORNERS, FACES, fallback=True, required=False, corrupt=True)
    size, area, _ = gltf_files.extent(file.glb())
    assert size.tolist() == [1, 1, 1] and area == pytest.approx(6)


def test_corrupt_draco_data_is_an_error_that_names_the_extension():
    message = gltf_files.error(compressed(gltf_files.CORNERS, FACES, corrupt=True).glb())
    assert message == "corrupt data of the glTF extension KHR_draco_mesh_compression"


def test_draco_without_its_package_is_an_error_that_says_how_to_install_it(monkeypatch):
    file = compressed(gltf_files.CORNERS, FACES)
    whole = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "DracoPy":
            raise ModuleNotFoundError(name=name)
        return whole(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert 'DracoPy; run pip install "mrd_jax[prep]"' in gltf_files.error(file.glb())


def test_declared_faces_of_draco_are_limited_before_they_are_decoded(monkeypatch):
    file = compressed(gltf_files.CORNERS, FACES)
    file.tree["accessors"][-1]["count"] = 3_000_000_000
    assert gltf_files.error(file.glb()).startswith("too large: 1000000000 faces")


def test_colours_of_instances_are_noted():
    file = gltf_files.File()
    file.mesh(file.primitive())
    colours = {"_COLOR_0": file.accessor(np.ones((1, 4), np.float32))}
    places = {"TRANSLATION": file.accessor(np.zeros((1, 3), np.float32))}
    instancing = {"EXT_mesh_gpu_instancing": {"attributes": colours | places}}
    file.tree["nodes"][0]["extensions"] = instancing
    assert gltf_files.extent(file.glb())[2] == [graph.INSTANCE_COLOURS]
