# SPDX-License-Identifier: Apache-2.0
"""Primitives compressed with Draco, by the extension KHR_draco_mesh_compression."""

from typing import Any

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry.readers.gltf import accessors, fields
from data_prep.geometry.readers.gltf.document import Document
from data_prep.geometry.scene import MeshError

NAME = "KHR_draco_mesh_compression"


def is_needed(document: Document, primitive: dict[str, Any]) -> bool:
    """Returns whether a primitive has to be decompressed, because it has no other data.

    A file may hold the same primitive without compression for readers without Draco. That data is
    not quantised.
    """
    if fields.get_extension(primitive, NAME) is None:
        return False
    position = fields.get_index(fields.get_object(primitive, "attributes"), "POSITION")
    if position is None:
        return True
    accessor = fields.get_item(document.tree, "accessors", position)
    return accessor.get("bufferView") is None and not fields.get_object(accessor, "sparse")


def decode(
    document: Document, primitive: dict[str, Any]
) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """Decompresses a primitive.

    Args:
      document: open file.
      primitive: object of the JSON with the extension.

    Returns:
      faces, integers [faces, 3], and attributes by name, [vertices, width], normalised as their
      accessors state.

    Raises:
      MeshError: DracoPy is not installed, or the data is corrupt.
      limits.LimitError: there are too many faces or vertices.
    """
    try:
        import DracoPy
    except ModuleNotFoundError as error:
        raise MeshError(
            f"uses the glTF extension {NAME}, which needs the package DracoPy; run pip install "
            '"mrd_jax[prep]"'
        ) from error
    extension = fields.get_extension(primitive, NAME)
    _check_declared(document, primitive)
    view = fields.get_index(extension, "bufferView")
    if view is None:
        raise MeshError(f"malformed JSON: the glTF extension {NAME} without 'bufferView'")
    try:
        mesh = DracoPy.decode(bytes(document.bytes_of_view(view)))
        faces = np.asarray(mesh.faces).reshape(-1, 3)
    # DracoPy raises its own exceptions, derived from Exception, and ValueError for corrupt data.
    except (DracoPy.FileTypeException, ValueError, RuntimeError, AttributeError) as error:
        raise MeshError(f"corrupt data of the glTF extension {NAME}") from error
    limits.FACES.check(len(faces))
    attributes = {}
    for name, unique in fields.get_object(extension, "attributes").items():
        found = [item for item in mesh.attributes if item["unique_id"] == unique]
        if not found:
            raise MeshError(f"corrupt data of the glTF extension {NAME}, lacks {name[:20]}")
        index = fields.get_index(fields.get_object(primitive, "attributes"), name)
        values = np.asarray(found[0]["data"])
        attributes[name] = values if index is None else _typed(document, index, values)
    return faces, attributes


def _check_declared(document: Document, primitive: dict[str, Any]) -> None:
    """Compares the counts of a primitive's accessors with the limits, before it is decoded."""
    tree = document.tree
    indices = fields.get_index(primitive, "indices")
    if indices is not None:
        accessor = fields.get_item(tree, "accessors", indices)
        limits.FACES.check(fields.get_index(accessor, "count", 0) // 3)
    for name in fields.get_object(primitive, "attributes"):
        index = fields.get_index(fields.get_object(primitive, "attributes"), name)
        accessor = fields.get_item(tree, "accessors", index)
        limits.VERTICES.check(fields.get_index(accessor, "count", 0))


def _typed(document: Document, index: int, values: np.ndarray) -> np.ndarray:
    """Normalises integers if the accessor of the attribute states it."""
    accessor = fields.get_item(document.tree, "accessors", index)
    is_normalised = fields.get_flag(accessor, "normalized") and values.dtype.kind in "iu"
    return accessors.normalise(values) if is_normalised else values
