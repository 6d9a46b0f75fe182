# SPDX-License-Identifier: Apache-2.0
"""Open glTF file: its JSON, and the bytes and arrays that the JSON refers to."""

from typing import Any

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers.gltf import accessors, container, fields, meshopt
from data_prep.geometry.scene import MeshError

MISSING_TEXTURE, UNREADABLE_TEXTURE = "missing texture", "unreadable texture"


class Document:
    """glTF file; buffers and accessors are read when they are first used, and kept.

    Attributes:
      tree: JSON; read its fields with `fields`.
      assets: reads external files, and collects the notes.
      cache: what other modules decoded, each under its own key.
    """

    def __init__(self, tree: dict[str, Any], *, binary: memoryview | None, assets: Assets):
        """Creates a document.

        Args:
          tree: JSON of the file.
          binary: binary chunk of the file, or None.
          assets: reads external files.
        """
        self.tree = tree
        self.assets = assets
        self.cache: dict[str, Any] = {}
        self._binary = binary
        self._buffers: dict[int, memoryview] = {}
        self._arrays: dict[int, np.ndarray] = {}
        self._decompressed: dict[int, tuple[memoryview, int]] = {}
        self._array_bytes = 0

    def bytes_of_view(self, index: int) -> memoryview:
        """Returns the bytes of a buffer view.

        Raises:
          MeshError: the view does not exist, is malformed, or reaches beyond its buffer.
        """
        return self._view(index)[0]

    def accessor(self, index: int) -> np.ndarray:
        """Returns the decoded array of an accessor; see `accessors.decode`. Do not write to it.

        Raises:
          MeshError: the accessor does not exist or is malformed.
          limits.LimitError: all arrays together are too large.
        """
        if index not in self._arrays:
            accessor = fields.get_item(self.tree, "accessors", index)
            self._array_bytes += accessors.decoded_bytes(accessor)
            limits.ARRAY_BYTES.check(self._array_bytes)
            self._arrays[index] = accessors.decode(accessor, view=self._view)
        return self._arrays[index]

    def image_bytes(self, index: int) -> bytes | None:
        """Returns the bytes of a picture file.

        Returns:
          The bytes; None, and a note, if the picture is missing or cannot be read.

        Raises:
          limits.LimitError: all external files together are too large.
        """
        try:
            image = fields.get_item(self.tree, "images", index)
            view = fields.get_index(image, "bufferView")
            if view is not None:
                return bytes(self.bytes_of_view(view))
            uri = fields.get_string(image, "uri")
            embedded = container.parse_data_uri(uri)
        except MeshError:
            # The geometry is usable without the picture.
            self.assets.notes.append(UNREADABLE_TEXTURE)
            return None
        if embedded is not None:
            return embedded
        if not uri:
            self.assets.notes.append(MISSING_TEXTURE)
            return None
        return self.assets.read(uri, kind="texture")

    def _view(self, index: int) -> tuple[memoryview, int | None]:
        """Returns the bytes and the stride of a buffer view."""
        view = fields.get_item(self.tree, "bufferViews", index)
        buffer = fields.get_index(view, "buffer", 0)
        compression = meshopt.name_in(view)
        # Uncompressed data in its place, for readers without meshoptimizer, is preferred.
        if compression is not None and not self._has_content(buffer):
            if index not in self._decompressed:
                decoded = meshopt.decode(view, compression, buffer=self._buffer)
                self._decompressed[index] = decoded
            return self._decompressed[index]
        data = self._buffer(buffer)
        start = fields.get_index(view, "byteOffset", 0)
        size = fields.get_index(view, "byteLength", 0)
        if start + size > len(data):
            raise MeshError(
                "a buffer view reaches beyond its buffer, the file is corrupt or truncated: needs "
                f"{start + size} of {len(data)} bytes"
            )
        stride = fields.get_index(view, "byteStride")
        return data[start : start + size], stride

    def _has_content(self, index: int) -> bool:
        """Returns whether a buffer has content, in the file or in another one."""
        buffer = fields.get_item(self.tree, "buffers", index)
        return bool(fields.get_string(buffer, "uri")) or (index == 0 and self._binary is not None)

    def _buffer(self, index: int) -> memoryview:
        if index not in self._buffers:
            self._buffers[index] = self._read_buffer(index)
        return self._buffers[index]

    def _read_buffer(self, index: int) -> memoryview:
        buffer = fields.get_item(self.tree, "buffers", index)
        uri = fields.get_string(buffer, "uri")
        if not uri:
            if index == 0 and self._binary is not None:
                return self._binary
            raise MeshError("a buffer without content, the file is corrupt or truncated")
        data = container.parse_data_uri(uri)
        if data is None:
            data = self.assets.read(uri, kind="buffer")
        if data is None:
            raise MeshError(f"the file that holds the geometry was not found: {uri[:80]}")
        return memoryview(data)


def open_document(data: bytes, *, assets: Assets) -> Document:
    """Opens a glTF file, binary or text.

    Args:
      data: bytes of the file; the content tells binary and text apart.
      assets: reads external files, and collects the notes.

    Raises:
      MeshError: the file is not glTF 2.0, truncated or malformed.
    """
    tree, binary = container.parse(data, notes=assets.notes)
    return Document(tree, binary=binary, assets=assets)
