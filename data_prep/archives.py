# SPDX-License-Identifier: Apache-2.0
"""Reading archives and folders from strangers: no path leaves them, no member is endless."""

import posixpath
import zipfile
from collections.abc import Callable
from pathlib import Path

# The largest member of the Sweet Home 3D catalogues unpacks to 9 MB.
MAX_MEMBER_BYTES = 256 * 2**20


class ArchiveError(ValueError):
    """An archive, or a path asked of it, that must not or cannot be read."""


def safe_path(name: str) -> str:
    """The normal form of a path inside an archive; refuses one that leaves it.

    Args:
      name: path as written in an archive, a catalogue or a material file; back slashes count as
        separators and one leading slash means the archive's root, as Java resources are written.

    Returns:
      The path with forward slashes and without `.` or `..`.

    Raises:
      ArchiveError: the path is empty, climbs above the root or names a drive.
    """
    path = posixpath.normpath(name.replace("\\", "/").removeprefix("/"))
    if path in ("", ".") or path.startswith(("/", "../")) or path == ".." or path[1:2] == ":":
        raise ArchiveError(f"path {name!r} leaves its archive; expected a path inside it")
    return path


def folder_reader(root: Path) -> Callable[[str], bytes]:
    """Reads files below a folder by name; links that lead out of it are not followed.

    Args:
      root: the folder.

    Returns:
      path below the folder -> bytes of the file. It raises FileNotFoundError where there is none,
      and ArchiveError where the path or a link leaves the folder.
    """
    root = root.resolve()

    def read(name: str) -> bytes:
        path = (root / safe_path(name)).resolve()
        if not path.is_relative_to(root):
            raise ArchiveError(f"path {name!r} leaves its folder")
        if not path.is_file():
            raise FileNotFoundError(name)
        return path.read_bytes()

    return read


class Archive:
    """A zip file opened for reading by safe paths, letter case ignored where that is unambiguous.

    Catalogues were made on systems that ignore case, so `Wood.JPG` may be stored as `wood.jpg`.
    """

    def __init__(self, path: Path | str, *, max_member_bytes: int = MAX_MEMBER_BYTES):
        """Opens the archive and indexes the members whose own names are safe.

        Args:
          path: the zip file.
          max_member_bytes: a member that unpacks to more than this is refused.

        Raises:
          ArchiveError: the file is not a zip archive.
        """
        self.path = Path(path)
        self._limit = max_member_bytes
        try:
            self._zip = zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            raise ArchiveError(f"{self.path}: not a zip archive ({error})") from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._folded: dict[str, zipfile.ZipInfo] = {}
        for member in self._zip.infolist():
            if member.is_dir():
                continue
            try:
                name = safe_path(member.filename)
            except ArchiveError:
                continue  # never indexed, so it cannot be read; asking for it by name says why
            self._members[name] = member
            self._folded.setdefault(name.lower(), member)

    def __contains__(self, name: str) -> bool:
        """Whether `read(name)` would find a member."""
        path = safe_path(name)
        return path in self._members or path.lower() in self._folded

    def read(self, name: str) -> bytes:
        """Unpacks one member.

        Raises:
          ArchiveError: the path leaves the archive, or the member is too large or damaged.
          FileNotFoundError: there is no such member.
        """
        path = safe_path(name)
        member = self._members.get(path) or self._folded.get(path.lower())
        if member is None:
            raise FileNotFoundError(f"{self.path}: no member {path!r}")
        try:
            with self._zip.open(member) as stream:
                # The size in the header may lie: the stream itself is what is limited.
                data = stream.read(self._limit + 1)
        except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise ArchiveError(f"{self.path}: member {path!r} is unreadable: {error}") from error
        if len(data) > self._limit:
            raise ArchiveError(f"{self.path}: member {path!r} unpacks to over {self._limit} bytes")
        return data
