# SPDX-License-Identifier: Apache-2.0
"""Reading archives and folders from strangers: no path leaves them, no member is endless."""

import posixpath
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

from data_prep.foreign import limits

# What zipfile raises on damaged archives, and on what it does not know.
_DAMAGED = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(RuntimeError, ValueError, OverflowError),
)
# Others are not made for models; LZMA asks for up to 4 GB to unpack a byte.
_PACKINGS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


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
      ArchiveError: the path is empty, climbs above the root, names a drive or holds a zero byte.
    """
    path = posixpath.normpath(name.replace("\\", "/").removeprefix("/"))
    if (
        "\0" in path
        or path in ("", ".")
        or path.startswith(("/", "../"))
        or path == ".."
        or path[1:2] == ":"
    ):
        raise ArchiveError(f"path {name!r} leaves its archive; expected a path inside it")
    return path


def folder_reader(root: Path) -> Callable[[str], bytes]:
    """Reads files below a folder by name; links that lead out of it are not followed.

    Args:
      root: the folder.

    Returns:
      path below the folder -> bytes of the file. It raises FileNotFoundError where there is none,
      ArchiveError where the path or a link leaves the folder, and limits.LimitError where the file
      is too large.
    """
    root = root.resolve()

    def read(name: str) -> bytes:
        try:
            path = (root / safe_path(name)).resolve()
            if not path.is_relative_to(root):
                raise ArchiveError(f"path {name!r} leaves its folder")
            return limits.read_file(path)
        # Links that go round in circles, names that are too long, folders.
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(name) from error

    return read


class Archive:
    """A zip file opened for reading by safe paths, letter case ignored where that is unambiguous.

    Catalogues were made on systems that ignore case, so `Wood.JPG` may be stored as `wood.jpg`.
    """

    def __init__(self, path: Path | str):
        """Opens the archive and indexes the members whose own names are safe.

        Args:
          path: the zip file.

        Raises:
          FileNotFoundError: there is no such file.
          ArchiveError: the file is not a zip archive, or is too large.
        """
        self.path = Path(path)
        try:
            limits.FILE_BYTES.check(self.path.stat().st_size)
            self._zip = zipfile.ZipFile(self.path)
            limits.MEMBERS.check(len(self._zip.infolist()))
        except FileNotFoundError:
            raise
        except limits.LimitError as error:
            raise ArchiveError(f"{self.path}: {error}") from error
        except _DAMAGED as error:
            raise ArchiveError(f"{self.path}: not a zip archive ({error})") from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._folded: dict[str, zipfile.ZipInfo] = {}
        for member in self._zip.infolist():
            try:
                name = safe_path(member.filename)
            except ArchiveError:
                continue  # never indexed, so it cannot be read; asking for it by name says why
            if member.is_dir():  # which does not know a name of no length
                continue
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
        limit = limits.MEMBER_BYTES.most()
        try:
            if member.compress_type not in _PACKINGS:
                raise ValueError(f"packed in way {member.compress_type}, expected deflate")
            with self._zip.open(member) as stream:
                # The size in the header may lie: the stream itself is what is limited.
                data = stream.read(limit + 1)
        except _DAMAGED as error:
            raise ArchiveError(f"{self.path}: member {path!r} is unreadable: {error}") from error
        try:
            limits.MEMBER_BYTES.check(len(data))
        except limits.LimitError as error:
            raise ArchiveError(f"{self.path}: member {path!r} is {error}") from error
        return data
