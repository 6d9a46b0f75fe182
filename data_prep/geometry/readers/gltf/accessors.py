# SPDX-License-Identifier: Apache-2.0
"""Decodes the accessors of glTF: typed views of bytes, strided, sparse or normalised."""

from collections.abc import Callable
from typing import Any

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry.readers.gltf import fields
from data_prep.geometry.scene import MeshError

_DTYPES = {5120: "<i1", 5121: "<u1", 5122: "<i2", 5123: "<u2", 5125: "<u4", 5126: "<f4"}
# Item type -> shape; matrices are stored by columns.
_SHAPES = {
    **{"SCALAR": (), "VEC2": (2,), "VEC3": (3,), "VEC4": (4,)},
    **{"MAT2": (2, 2), "MAT3": (3, 3), "MAT4": (4, 4)},
}

# Function from the index of a buffer view to its bytes and its stride, None if it has none.
ViewReader = Callable[[int], tuple[memoryview, int | None]]


def decoded_bytes(accessor: dict[str, Any]) -> int:
    """Returns the size of the decoded items; checks the fields that determine it.

    Raises:
      MeshError: the accessor is malformed.
      limits.LimitError: there are too many items.
    """
    dtype, shape = _item_type(accessor)
    count = _count(accessor)
    is_normalised = fields.get_flag(accessor, "normalized")
    item = int(np.prod(shape, dtype=np.int64)) * (4 if is_normalised else dtype.itemsize)
    limits.ARRAY_BYTES.check(count * item)
    return count * item


def decode(accessor: dict[str, Any], *, view: ViewReader) -> np.ndarray:
    """Decodes an accessor.

    Args:
      accessor: object of the JSON.
      view: reads buffer views.

    Returns:
      [items], [items, 2 to 4], or for matrices [items, rows, columns]. float32 if the numbers are
      floats or normalised integers, else integers as they are stored. The array may be read-only.

    Raises:
      MeshError: the accessor is malformed, or reaches beyond its buffer view.
      limits.LimitError: there are too many items.
    """
    decoded_bytes(accessor)
    dtype, shape = _item_type(accessor)
    count = _count(accessor)
    index = fields.get_index(accessor, "bufferView")
    if index is None:
        values = np.zeros((count, *shape), dtype)
    else:
        data, stride = view(index)
        offset = fields.get_index(accessor, "byteOffset", 0)
        values = _items(data, dtype, shape, count=count, offset=offset, stride=stride)
    sparse = fields.get_object(accessor, "sparse")
    if sparse:
        values = _replace(values, sparse, view=view)
    if fields.get_flag(accessor, "normalized") and dtype.kind in "iu":
        values = normalise(values)
    return values.swapaxes(1, 2) if len(shape) == 2 else values


def _count(accessor: dict[str, Any]) -> int:
    count = fields.get_index(accessor, "count")
    if count is None:
        raise MeshError("malformed JSON: an accessor without 'count'")
    return count


def _item_type(accessor: dict[str, Any]) -> tuple[np.dtype, tuple[int, ...]]:
    """Returns the type of a number and the shape of an item."""
    component = fields.get_index(accessor, "componentType")
    name = fields.get_string(accessor, "type")
    if component not in _DTYPES or name not in _SHAPES:
        raise MeshError(f"malformed JSON: an accessor of type {component} {name[:20]!r}")
    return np.dtype(_DTYPES[component]), _SHAPES[name]


def _items(
    data: memoryview,
    dtype: np.dtype,
    shape: tuple[int, ...],
    *,
    count: int,
    offset: int = 0,
    stride: int | None = None,
) -> np.ndarray:
    """Returns a view of items in bytes."""
    size = dtype.itemsize
    # Columns of matrices start at multiples of 4 bytes.
    column = -(-size * shape[0] // 4) * 4 if len(shape) == 2 else 0
    item = column * shape[1] if column else size * int(np.prod(shape, dtype=np.int64))
    stride = stride or item
    # The padding behind the last column may be absent.
    end = offset + (count - 1) * stride + item - (column - size * shape[0] if column else 0)
    if count and end > len(data):
        raise MeshError(
            "an accessor reaches beyond its buffer view, the file is corrupt or truncated: "
            f"needs {end} of {len(data)} bytes"
        )
    if not count:
        return np.zeros((0, *shape), dtype)
    strides = {0: (stride,), 1: (stride, size), 2: (stride, column, size)}[len(shape)]
    return np.ndarray((count, *shape), dtype, buffer=data, offset=offset, strides=strides)


def _replace(values: np.ndarray, sparse: dict[str, Any], *, view: ViewReader) -> np.ndarray:
    """Returns a copy in which some items are replaced, as a sparse accessor states."""
    count = _count(sparse)
    if count > len(values):
        raise MeshError(f"a sparse accessor replaces more items than it has: {count}")
    where = fields.get_object(sparse, "indices")
    component = fields.get_index(where, "componentType")
    if component not in (5121, 5123, 5125):
        raise MeshError(f"malformed JSON: indices of a sparse accessor of type {component}")
    indices = _sparse_items(where, np.dtype(_DTYPES[component]), (), count=count, view=view)
    items = _sparse_items(
        fields.get_object(sparse, "values"), values.dtype, values.shape[1:], count=count, view=view
    )
    if count and indices.max() >= len(values):
        raise MeshError(f"a sparse accessor replaces an item that does not exist: {indices.max()}")
    values = values.copy()
    values[indices] = items
    return values


def _sparse_items(
    fields_of: dict[str, Any],
    dtype: np.dtype,
    shape: tuple[int, ...],
    *,
    count: int,
    view: ViewReader,
) -> np.ndarray:
    index = fields.get_index(fields_of, "bufferView")
    if index is None:
        raise MeshError("malformed JSON: a sparse accessor without a buffer view")
    data, _ = view(index)
    offset = fields.get_index(fields_of, "byteOffset", 0)
    return _items(data, dtype, shape, count=count, offset=offset)


def normalise(values: np.ndarray) -> np.ndarray:
    """Converts integers to fractions, 0 to 1 or -1 to 1, as glTF defines it."""
    scale = np.float32(np.iinfo(values.dtype).max)
    fractions = values.astype(np.float32) / scale
    return np.maximum(fractions, np.float32(-1)) if values.dtype.kind == "i" else fractions
