# SPDX-License-Identifier: Apache-2.0
"""Files that a mesh refers to: materials, textures and buffers."""

import posixpath
import urllib.parse
from collections.abc import Callable

import trimesh

from data_prep.foreign import archives, limits
from data_prep.geometry import materials

# Kind of a referenced file by its suffix; any other file is a texture.
_KINDS = {".mtl": "materials file", ".bin": "buffer"}


class AssetResolver(trimesh.resolvers.Resolver):
    """Resolver that reads the files that a mesh refers to, and records those that fail.

    trimesh ignores unreadable materials and textures silently. `faults` lists them, and `refusal`
    is the error of a file that is too large.
    """

    def __init__(self, read: Callable[[str], bytes], *, folder: str):
        """Creates a resolver.

        Args:
          read: function from a path to bytes; raises FileNotFoundError or archives.ArchiveError.
          folder: folder of the mesh; references are relative to it.
        """
        self._read = read
        self._folder = folder
        self._bytes_read = 0
        self.faults: list[str] = []
        self.refusal: limits.LimitError | None = None

    def get(self, name: str) -> bytes:
        """Reads a referenced file by its path relative to the mesh, else by its bare name."""
        kind = _KINDS.get(posixpath.splitext(name)[1].lower(), "texture")
        path = name.replace("\\", "/")
        # glTF writes spaces as %20. An absolute path of the author's disk may end in the name of a
        # file in the folder of the mesh.
        for candidate in dict.fromkeys((path, urllib.parse.unquote(path), path.rsplit("/", 1)[-1])):
            try:
                data = self._read(posixpath.join(self._folder, candidate))
                self._bytes_read += len(data)
                limits.ASSET_BYTES.check(self._bytes_read)
                if kind == "texture":
                    materials.open_image(data)
            except (FileNotFoundError, archives.ArchiveError):
                continue
            except limits.LimitError as error:
                self.refusal = error
                raise
            except ValueError as error:
                self.faults.append("unreadable texture")
                raise FileNotFoundError(f"{name}: not an image") from error
            return data
        self.faults.append(f"missing {kind}")
        raise FileNotFoundError(name)

    def keys(self) -> list[str]:
        """Returns no names; trimesh lists files only to guess a file's name."""
        return []

    def namespaced(self, namespace: str) -> "AssetResolver":
        """Returns a resolver, with its own faults, for a folder below this one."""
        return AssetResolver(self._read, folder=posixpath.join(self._folder, namespace))

    def write(self, name: str, data: bytes) -> None:
        """Raises OSError: sources are read only."""
        raise OSError(f"{name}: sources are read only")
