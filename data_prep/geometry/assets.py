# SPDX-License-Identifier: Apache-2.0
"""The files that a mesh refers to: materials, textures and buffers."""

import posixpath
import urllib.parse
from collections.abc import Callable

import trimesh

from data_prep.foreign import archives, limits
from data_prep.geometry import materials

# What a mesh refers to, by ending; anything else is a texture.
_KINDS = {".mtl": "materials file", ".bin": "buffer"}


class AssetResolver(trimesh.resolvers.Resolver):
    """Gives trimesh the files that a mesh refers to, and counts those it could not give.

    trimesh drops unreadable materials and textures without a word; `faults` keeps the count, and
    `refusal` the error of a file that is too large.
    """

    def __init__(self, read: Callable[[str], bytes], *, folder: str):
        """Wraps a reader.

        Args:
          read: path -> bytes; raises FileNotFoundError or archives.ArchiveError.
          folder: folder of the mesh, which its references are relative to.
        """
        self._read = read
        self._folder = folder
        self._given = 0
        self.faults: list[str] = []
        self.refusal: limits.LimitError | None = None

    def get(self, name: str) -> bytes:
        """Reads one referenced file: relative to the mesh, else by its bare name beside it."""
        kind = _KINDS.get(posixpath.splitext(name)[1].lower(), "texture")
        path = name.replace("\\", "/")
        # glTF writes spaces as %20. Paths of the author's disk sometimes end in a file that does
        # lie beside the mesh.
        for candidate in dict.fromkeys((path, urllib.parse.unquote(path), path.rsplit("/", 1)[-1])):
            try:
                data = self._read(posixpath.join(self._folder, candidate))
                self._given += len(data)
                limits.ASSET_BYTES.check(self._given)
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
        """Nothing can be listed; trimesh asks only to guess a file's name."""
        return []

    def namespaced(self, namespace: str) -> "AssetResolver":
        """A resolver for a folder below this one, with faults of its own."""
        return AssetResolver(self._read, folder=posixpath.join(self._folder, namespace))

    def write(self, name: str, data: bytes) -> None:
        """Refused: sources are read only."""
        raise OSError(f"{name}: sources are read only")
