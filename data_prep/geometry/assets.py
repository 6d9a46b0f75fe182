# SPDX-License-Identifier: Apache-2.0
"""Files that a mesh refers to: materials, textures and buffers."""

import posixpath
import urllib.parse
from collections.abc import Callable

from data_prep.foreign import archives, limits
from data_prep.geometry import images


class Assets:
    """Reads the files that a mesh refers to, and notes those that are missing or unreadable.

    Attributes:
      notes: what was ignored or replaced while the mesh was read, such as "missing texture".
        Readers of meshes add their own.
    """

    def __init__(self, read: Callable[[str], bytes], *, folder: str):
        """Creates a reader.

        Args:
          read: function from a path to bytes; raises FileNotFoundError or archives.ArchiveError.
          folder: folder of the mesh; references are relative to it.
        """
        self._read = read
        self._folder = folder
        self._bytes_read = 0
        self.notes: list[str] = []

    def read(self, name: str, *, kind: str) -> bytes | None:
        """Reads a referenced file by its path relative to the mesh, else by its bare name.

        Args:
          name: reference in the mesh.
          kind: "materials file", "texture" or "buffer", for the note.

        Returns:
          The bytes; None, and a note, if the file is missing.

        Raises:
          limits.LimitError: the file, or all referenced files together, are too large.
        """
        path = name.replace("\\", "/")
        # glTF writes spaces as %20. An absolute path of the author's disk may end in the name of a
        # file in the folder of the mesh.
        for candidate in dict.fromkeys((path, urllib.parse.unquote(path), path.rsplit("/", 1)[-1])):
            try:
                data = self._read(posixpath.join(self._folder, candidate))
            except (FileNotFoundError, archives.ArchiveError):
                continue
            self._bytes_read += len(data)
            limits.ASSET_BYTES.check(self._bytes_read)
            return data
        self.notes.append(f"missing {kind}")
        return None

    def texture(self, name: str):
        """Reads a referenced picture; see `images.read_texture`. None, and a note, if it fails."""
        data = self.read(name, kind="texture")
        return None if data is None else images.read_texture(data, notes=self.notes)
