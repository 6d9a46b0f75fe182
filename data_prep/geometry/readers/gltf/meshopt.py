# SPDX-License-Identifier: Apache-2.0
"""Buffer views compressed with meshoptimizer: EXT_meshopt_compression and its KHR successor."""

from collections.abc import Callable
from typing import Any

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry.readers.gltf import fields
from data_prep.geometry.scene import MeshError

NAMES = ("EXT_meshopt_compression", "KHR_meshopt_compression")
_MODES = ("ATTRIBUTES", "TRIANGLES", "INDICES")
_FILTERS = ("NONE", "OCTAHEDRAL", "QUATERNION", "EXPONENTIAL", "COLOR")


def name_in(tree: dict[str, Any]) -> str | None:
    """Returns the name of the extension that a buffer or a buffer view has; None for neither."""
    names = (name for name in NAMES if fields.get_extension(tree, name) is not None)
    return next(names, None)


def decode(
    view: dict[str, Any], name: str, *, buffer: Callable[[int], memoryview]
) -> tuple[memoryview, int]:
    """Decompresses a buffer view.

    Args:
      view: object of the JSON with the extension.
      name: name of the extension.
      buffer: function from the index of a buffer to its bytes.

    Returns:
      The bytes and the stride of the view.

    Raises:
      MeshError: the package meshopt is not installed, or the data is corrupt.
      limits.LimitError: the view declares more bytes than are read.
    """
    try:
        import meshopt
    except ModuleNotFoundError as error:
        raise MeshError(
            f"uses the glTF extension {name}, which needs the package meshopt; run pip install "
            '"mrd_jax[formats]"'
        ) from error
    extension = fields.get_extension(view, name) or {}
    start, size, stride, count = (
        fields.get_index(extension, field, 0)
        for field in ("byteOffset", "byteLength", "byteStride", "count")
    )
    mode = fields.get_string(extension, "mode")
    filter_name = fields.get_string(extension, "filter", "NONE")
    limits.ARRAY_BYTES.check(count * stride)
    data = bytes(buffer(fields.get_index(extension, "buffer", 0))[start : start + size])
    if len(data) < size or mode not in _MODES or filter_name not in _FILTERS or not count:
        raise MeshError(f"corrupt data of the glTF extension {name}")
    try:
        chosen = None if filter_name == "NONE" else filter_name
        decoded = meshopt.decode_gltf_buffer(data, count, stride, mode, chosen)
    except (ValueError, RuntimeError, TypeError) as error:
        raise MeshError(f"corrupt data of the glTF extension {name}") from error
    return memoryview(np.ascontiguousarray(decoded)).cast("B"), stride
