# SPDX-License-Identifier: Apache-2.0
"""Files that a mesh refers to: materials, textures and buffers."""

import posixpath
import typing
import urllib.parse
from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath

import numpy as np

from data_prep.foreign import archives, limits
from data_prep.geometry import images

# Types of files that a mesh refers to. Others are not read outside of the folder of a mesh.
TYPES = ("bin", "mtl", "png", "jpg", "jpeg", "webp", "bmp", "gif", "tga", "tif", "tiff", "ktx2")
# Folders, beside the mesh or beside its folder, in which exporters and data sets keep textures:
# ../images in ShapeNetCore v2, ../materials/textures in Google Scanned Objects.
_FOLDERS = ("textures", "texture", "images", "maps", "tex", "materials/textures", "materials")


class File(typing.NamedTuple):
    """A referenced file: its path, relative to the root of `Assets`, and its bytes."""

    path: str
    data: bytes


class Assets:
    """Reads the files that a mesh refers to, and notes those that are missing or unreadable.

    Attributes:
      name: name of the mesh's own file, or "".
      notes: what was ignored or replaced while the mesh was read, such as "missing texture".
        Readers of meshes add their own.
      files: paths on the disk of the files that were found; empty inside an archive.
    """

    def __init__(
        self,
        read: Callable[[str], bytes],
        *,
        folder: str,
        name: str = "",
        base: Path | None = None,
    ):
        """Creates a reader.

        Args:
          read: function from a path to bytes; raises FileNotFoundError or archives.ArchiveError.
          folder: folder of the mesh; references are relative to it.
          name: name of the mesh's own file.
          base: folder on the disk that paths are relative to; None inside an archive.
        """
        self._base = base
        self.files: list[Path] = []
        self._read = read
        self._folder = folder
        self._bytes_read = 0
        self.name = name
        self.notes: list[str] = []

    def find(self, name: str, *, beside: str = "") -> File | None:
        """Looks for a referenced file: relative to the mesh, else by its bare name near it.

        Args:
          name: reference in the mesh.
          beside: path of a `File` that states the reference; its folder is searched first.

        Returns:
          The file; None if it is missing.

        Raises:
          limits.LimitError: the file, or all referenced files together, are too large.
        """
        folders = [posixpath.dirname(beside), self._folder] if beside else [self._folder]
        for path in dict.fromkeys(_candidates(name.replace("\\", "/"), folders)):
            try:
                data = self._read(path)
            except (FileNotFoundError, archives.ArchiveError):
                continue
            self._bytes_read += len(data)
            limits.ASSET_BYTES.check(self._bytes_read)
            if self._base is not None:
                self.files.append(self._base / path)
            return File(path, data)
        return None

    def read(self, name: str, *, kind: str) -> bytes | None:
        """Reads a referenced file; see `find`.

        Args:
          name: reference in the mesh.
          kind: "materials file", "texture" or "buffer", for the note.

        Returns:
          The bytes; None, and a note, if the file is missing.

        Raises:
          limits.LimitError: the file, or all referenced files together, are too large.
        """
        found = self.find(name)
        if found is None:
            self.notes.append(f"missing {kind}")
            return None
        return found.data

    def texture(self, name: str) -> np.ndarray | None:
        """Reads a referenced picture; see `images.read_texture`. None, and a note, if it fails."""
        data = self.read(name, kind="texture")
        return None if data is None else images.read_texture(data, notes=self.notes)


def beside(path: Path, *, root: Path | None) -> Assets:
    """Returns the reader of the files that a mesh on disk refers to.

    Args:
      path: path of the mesh.
      root: folder that contains the mesh and all that it may refer to; links out of it are not
        followed. None for a file that a person named: everything in its own folder, and files of
        TYPES in and below the folder above, because a mesh in `models/` may refer to a texture in
        `../images/`.
    """
    # A link to a mesh is not resolved: its references are relative to the folder of the link.
    if root is not None:
        folder = path.parent.relative_to(root).as_posix()
        return Assets(archives.folder_reader(root), folder=folder, name=path.name, base=root)
    own = path.parent.resolve()
    if own.parent in (own, own.parent.parent):  # the whole disk is above
        return Assets(archives.folder_reader(own), folder="", name=path.name, base=own)
    read_own, read_above = archives.folder_reader(own), archives.folder_reader(own.parent)

    def read(name: str) -> bytes:
        relative = archives.safe_path(name)
        if relative.startswith(f"{own.name}/"):
            return read_own(relative.removeprefix(f"{own.name}/"))
        if PurePosixPath(relative).suffix[1:].lower() not in TYPES:
            raise archives.ArchiveError(f"path {name!r} leaves the folder of the mesh")
        return read_above(relative)

    return Assets(read, folder=own.name, name=path.name, base=own.parent)


def _candidates(name: str, folders: list[str]) -> Iterator[str]:
    """Yields the paths at which a file may be, the likeliest first."""
    plain = urllib.parse.unquote(name)  # glTF writes spaces as %20
    for folder in folders:
        yield posixpath.join(folder, name)
        yield posixpath.join(folder, plain)
    # An absolute path of the author's disk may end in the name of a file near the mesh.
    bare = name.rsplit("/", 1)[-1]
    if not bare:
        return
    for folder in folders:
        yield posixpath.join(folder, "/".join(name.split("/")[-2:]).lstrip("/"))
        yield posixpath.join(folder, bare)
    for place in _FOLDERS:
        yield posixpath.join(folders[-1], place, bare)
    for place in _FOLDERS:
        yield posixpath.join(folders[-1], "..", place, bare)
