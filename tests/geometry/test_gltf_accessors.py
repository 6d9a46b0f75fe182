# SPDX-License-Identifier: Apache-2.0
"""glTF: accessors are decoded as the standard defines them."""

import gltf_files
import numpy as np
import pytest

from data_prep.geometry.readers.gltf.document import Document
from data_prep.geometry.scene import MeshError


def decode(file, index=0):
    tree = file.tree | {"buffers": [{"byteLength": len(file.buffer)}]}
    document = Document(tree, binary=memoryview(file.buffer), assets=gltf_files.assets())
    return document.accessor(index)


def decoded(array, **fields):
    file = gltf_files.File()
    return decode(file, file.accessor(array, **fields))


@pytest.mark.parametrize(
    ("values", "want"),
    [
        (np.int8([-128, -127, 0, 127]), [-1, -1, 0, 1]),
        (np.uint8([0, 51, 255]), [0, 0.2, 1]),
        (np.int16([-32768, -32767, 0, 32767]), [-1, -1, 0, 1]),
        (np.uint16([0, 13107, 65535]), [0, 0.2, 1]),
    ],
)
def test_normalised_integers_are_fractions(values, want):
    found = decoded(values, normalized=True)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, want, rtol=1e-6)


@pytest.mark.parametrize("kind", ["int8", "uint8", "int16", "uint16", "uint32", "float32"])
def test_other_numbers_are_kept(kind):
    values = np.array([0, 1, 100], kind)
    found = decoded(values)
    assert found.dtype == values.dtype
    np.testing.assert_array_equal(found, values)


@pytest.mark.parametrize("kind", ["float32", "int16", "uint8"])
def test_interleaved_items_are_read_by_their_stride(kind):
    records = np.zeros(3, [("other", "<f4"), ("item", kind, 3), ("rest", "u1", 4)])
    records["item"] = np.arange(9).reshape(3, 3)
    records["other"], records["rest"] = 77, 88
    file = gltf_files.File()
    view = file.view(records.tobytes(), byteStride=records.itemsize)
    component = gltf_files.COMPONENTS[kind]
    entry = {"bufferView": view, "componentType": component, "count": 3, "type": "VEC3"}
    file.tree["accessors"].append(entry | {"byteOffset": 4})
    np.testing.assert_array_equal(decode(file), np.arange(9).reshape(3, 3))


def test_last_item_may_end_before_its_stride():
    file = gltf_files.File()
    data = np.float32([[1, 2, 3, 9], [4, 5, 6, 9]]).tobytes()[:-4]
    view = file.view(data, byteStride=16)
    entry = {"bufferView": view, "componentType": 5126, "count": 2, "type": "VEC3"}
    file.tree["accessors"].append(entry)
    np.testing.assert_array_equal(decode(file), [[1, 2, 3], [4, 5, 6]])


def test_matrices_are_stored_by_columns():
    found = decoded(np.arange(32, dtype=np.float32).reshape(2, 16))
    np.testing.assert_array_equal(found[1][:, 0], [16, 17, 18, 19])


def test_columns_of_small_matrices_start_at_multiples_of_four_bytes():
    file = gltf_files.File()
    view = file.view(bytes([1, 2, 3, 0, 4, 5, 6, 0, 7, 8, 9]))
    entry = {"bufferView": view, "componentType": 5121, "count": 1, "type": "MAT3"}
    file.tree["accessors"].append(entry)
    np.testing.assert_array_equal(decode(file)[0], [[1, 4, 7], [2, 5, 8], [3, 6, 9]])


@pytest.mark.parametrize("kind", ["uint8", "uint16", "uint32"])
@pytest.mark.parametrize("has_base", [True, False])
def test_sparse_items_replace_those_of_the_base_or_zeros(kind, has_base):
    file = gltf_files.File()
    base = np.float32([[1, 2], [3, 4], [5, 6]])
    file.accessor(base)
    where = file.view(np.array([0, 2], kind).tobytes())
    values = file.view(bytes(4) + np.float32([[7, 8], [9, 10]]).tobytes())
    file.tree["accessors"][0]["sparse"] = {
        "count": 2,
        "indices": {"bufferView": where, "componentType": gltf_files.COMPONENTS[kind]},
        "values": {"bufferView": values, "byteOffset": 4},
    }
    if not has_base:
        del file.tree["accessors"][0]["bufferView"]
    middle = [3, 4] if has_base else [0, 0]
    np.testing.assert_array_equal(decode(file), [[7, 8], middle, [9, 10]])


def test_sparse_values_of_a_normalised_accessor_are_normalised():
    file = gltf_files.File()
    file.accessor(np.uint8([0, 255]), normalized=True)
    sparse = {"bufferView": file.view(b"\1"), "componentType": 5121}
    values = {"bufferView": file.view(b"\x33")}
    file.tree["accessors"][0]["sparse"] = {"count": 1, "indices": sparse, "values": values}
    np.testing.assert_allclose(decode(file), [0, 0.2], rtol=1e-6)


def test_accessor_without_a_buffer_view_holds_zeros():
    found = decoded(np.ones((4, 3), np.float32), bufferView=None)
    np.testing.assert_array_equal(found, np.zeros((4, 3)))


def test_stated_minimum_and_maximum_are_ignored():
    found = decoded(np.float32([1, 2]), min=[5], max=[-5])
    np.testing.assert_array_equal(found, [1, 2])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"count": 3}, "beyond its buffer view, .*: needs 12 of 8 bytes"),
        ({"byteOffset": 4}, "needs 12 of 8 bytes"),
        ({"componentType": 5124}, "an accessor of type 5124 'SCALAR'"),
        ({"type": "VEC5"}, "an accessor of type 5126 'VEC5'"),
        ({"count": None}, "an accessor without 'count'"),
        ({"sparse": {"count": 9}}, "replaces more items than it has: 9"),
        (
            {"sparse": {"count": 1, "indices": {"bufferView": 0, "componentType": 5126}}},
            "indices of a sparse accessor of type 5126",
        ),
        (
            {
                "sparse": {
                    "count": 1,
                    "indices": {"bufferView": 0, "componentType": 5123},
                    "values": {"bufferView": 0},
                }
            },
            "replaces an item that does not exist: 2",
        ),
    ],
)
def test_inconsistent_accessor_is_an_error(fields, message):
    array = np.uint32([2, 0]).view(np.float32)
    with pytest.raises(MeshError, match=message):
        decoded(array, **fields)
