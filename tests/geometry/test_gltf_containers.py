# SPDX-License-Identifier: Apache-2.0
"""glTF: binary and text files, buffers, and errors that name the cause."""

import codecs
import json
import re
import struct

import gltf_files
import numpy as np
import pytest

from data_prep.geometry.readers.gltf import container


def triangle():
    file = gltf_files.File()
    file.mesh(file.primitive())
    return file


@pytest.mark.parametrize("file_type", ["glb", "gltf"])
@pytest.mark.parametrize("form", ["glb", "gltf"])
def test_content_and_not_the_suffix_tells_binary_and_text_apart(form, file_type):
    data = getattr(triangle(), form)()
    found = gltf_files.reader.read(data, assets=gltf_files.assets(), file_type=file_type)
    np.testing.assert_array_equal(found.parts[0].triangles[0], gltf_files.TRIANGLE)
    assert found.up_axis == "y"


def test_buffer_beside_the_file_is_read():
    file = triangle()
    size, _, notes = gltf_files.extent(
        file.gltf(uri="my%20mesh.bin"), **{"my mesh.bin": file.buffer}
    )
    assert size.tolist() == [1, 2, 0] and notes == []


def test_missing_buffer_is_named():
    message = gltf_files.error(triangle().gltf(uri="gone.bin"))
    assert message == "the file that holds the geometry was not found: gone.bin; missing buffer"


def test_missing_buffer_that_nothing_uses_does_not_matter():
    file = triangle()
    tree = json.loads(file.gltf())
    tree["buffers"].append({"byteLength": 9, "uri": "gone.bin"})
    assert gltf_files.extent(json.dumps(tree).encode())[2] == []


@pytest.mark.parametrize(
    ("uri", "want"),
    [
        ("data:application/octet-stream;base64,AAEC", b"\0\1\2"),
        ("data:;base64,AAE=", b"\0\1"),
        ("data:;base64,AAE", b"\0\1"),
        ("data:;base64,AAE%3D", b"\0\1"),
        ("DATA:application/gltf-buffer;BASE64,AAE=", b"\0\1"),
        ("data:text/plain;base64,AA\nE=", b"\0\1"),
        ("data:,a%20b", b"a b"),
        ("a.bin", None),
        ("http://host/a.bin", None),
    ],
)
def test_data_uri_is_decoded(uri, want):
    assert container.parse_data_uri(uri) == want


def test_byte_order_mark_and_padding_are_ignored():
    data = codecs.BOM_UTF8 + triangle().gltf() + b"\0\0 \n"
    assert gltf_files.extent(data)[2] == []


def test_names_in_latin_1_are_read():
    file = triangle()
    file.tree["nodes"][0]["name"] = "Tür"
    text = file.gltf().replace(rb"T\u00fcr", "Tür".encode("latin-1"))
    assert gltf_files.extent(text)[2] == [container.NOT_UTF8]


def test_file_without_a_version_is_read_as_gltf_2():
    file = triangle()
    del file.tree["asset"]
    assert gltf_files.extent(file.glb())[2] == [container.NO_VERSION]


def test_unknown_chunks_are_skipped_and_the_binary_chunk_may_be_longer():
    data = triangle().glb() + gltf_files.chunk(b"XXXX", b"abcd")
    data = data[:8] + struct.pack("<I", len(data)) + data[12:]
    assert gltf_files.extent(data)[0].tolist() == [1, 2, 0]


def test_bytes_behind_the_stated_length_are_ignored():
    assert gltf_files.extent(triangle().glb() + b"more")[2] == []


EMPTY = '{"asset": {"version": "2.0"}}'
V1 = b'{"asset": {"version": "1.0"}, "meshes": {}}'


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "empty file"),
        (b"glTF", "truncated binary glTF file"),
        (V1, "glTF 1.0 is not read, only glTF 2.0; convert it"),
        (b'{"meshes": {"a": {}}}', "glTF 1.0 is not read"),
        (struct.pack("<4sIIII", b"glTF", 1, 64, 44, 0) + V1, "glTF 1.0 is not read"),
        (b'{"asset": {"version": "3.1"}}', "this version of glTF is not read, .*: version '3.1'"),
        (b'{"asset": {"version": "2.0", "minVersion": "2.9"}}', "no faces and no points"),
        (b'{"a": 1}', "not a glTF file: the JSON has no 'asset' and no 'meshes'"),
        (b"[1]", "JSON, such as the message of a server, not the file"),
        (b"solid a", "not a glTF file: neither binary glTF nor JSON"),
        (b'{"asset": {"version": "2.0"}, "nodes": [', "truncated or malformed JSON of a glTF file"),
        (b"[" * 100_000, "not a glTF file"),
        (
            '{"asset": {"version": "2.0"}}'.encode("utf-16"),
            ".*UTF-16.*; save it as UTF-8",
        ),
        ('{"asset": {"version": "2.0"}}'.encode("utf-16-le"), "the JSON text is UTF-16 or UTF-32"),
        ('{"asset": {"version": "2.0"}}'.encode("utf-32-be"), "the JSON text is UTF-16 or UTF-32"),
        (b'{"asset": {"version": "2.0"}, "scene": "a"}', "no faces and no points"),
        (b'{"asset": [], "meshes": []}', "malformed JSON, expected an object: 'asset' is '\\[\\]'"),
    ],
)
def test_error_names_the_cause(data, message):
    """Some causes are found before the file gets to its reader."""
    assert re.match(message, gltf_files.error(data))


@pytest.mark.parametrize("left", [13, 30, -40, -1])
def test_truncated_binary_file_is_named(left):
    assert "truncated binary glTF file: has" in gltf_files.error(triangle().glb()[:left])


def test_chunk_that_reaches_beyond_the_file_is_named():
    data = triangle().glb()
    data = data[:12] + struct.pack("<I", len(data)) + data[16:]
    assert "truncated binary glTF file: lacks" in gltf_files.error(data)


def test_truncated_buffer_is_named():
    file = triangle()
    data = file.gltf(uri="a.bin")
    message = gltf_files.error(data, **{"a.bin": file.buffer[:-1]})
    assert message.startswith(
        "a buffer view reaches beyond its buffer, the file is corrupt or trun"
    )


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("nodes",), {}),
        (("nodes", 0), 7),
        (("nodes", 0, "mesh"), "a"),
        (("nodes", 0, "mesh"), True),
        (("nodes", 0, "mesh"), 10**400),
        (("nodes", 0, "children"), [-1]),
        (("nodes", 0, "matrix"), [1]),
        (("nodes", 0, "scale"), [1, 1, "a"]),
        (("nodes", 0, "translation"), [1, 1, 1e999]),
        (("meshes", 0, "primitives"), {}),
        (("accessors", 0, "count"), None),
        (("accessors", 0, "byteOffset"), 0.5),
        (("accessors", 0, "normalized"), 1),
        (("bufferViews", 0, "byteOffset"), -4),
        (("buffers", 0, "uri"), 5),
    ],
)
def test_field_of_a_wrong_type_is_an_error_that_names_it(path, value):
    tree = json.loads(triangle().gltf())
    owner = tree
    for name in path[:-1]:
        owner = owner[name]
    owner[path[-1]] = value
    message = gltf_files.error(json.dumps(tree).encode())
    assert message.startswith("malformed JSON")
    assert [name for name in path if isinstance(name, str)][-1] in message


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (("scenes", 0, "nodes", 0), "names a node that does not exist: 9"),
        (("nodes", 0, "mesh"), "names an item of 'meshes' that does not exist: 9"),
        (("nodes", 0, "skin"), "names an item of 'skins' that does not exist: 9"),
        (("meshes", 0, "primitives", 0, "attributes", "POSITION"), "'accessors' that does not exi"),
        (("accessors", 0, "bufferView"), "'bufferViews' that does not exist: 9"),
        (("bufferViews", 0, "buffer"), "'buffers' that does not exist: 9"),
    ],
)
def test_index_out_of_range_is_an_error_that_names_the_list(path, message):
    file = triangle()
    file.tree["meshes"][0]["primitives"][0]["attributes"] |= skin_attributes(file)
    tree = json.loads(file.gltf())
    owner = tree
    for name in path[:-1]:
        owner = owner[name]
    owner[path[-1]] = 9
    assert message in gltf_files.error(json.dumps(tree).encode())


def skin_attributes(file):
    joints, weights = np.zeros((3, 4), np.uint8), np.ones((3, 4), np.float32)
    return {"JOINTS_0": file.accessor(joints), "WEIGHTS_0": file.accessor(weights)}


def test_integers_may_have_a_decimal_point():
    file = triangle()
    file.tree["nodes"][0]["mesh"] = 0.0
    assert gltf_files.extent(file.glb())[0].tolist() == [1, 2, 0]
