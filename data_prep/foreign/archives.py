# SPDX-License-Identifier: Apache-2.0
"""Reads untrusted archives and folders: paths stay inside, and sizes are limited."""

import functools
import itertools
import os
import posixpath
import struct
import unicodedata
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from data_prep.foreign import limits

# Exceptions of zipfile for corrupt archives and unsupported features.
_CORRUPT = (
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, OSError),
    *(RuntimeError, ValueError, OverflowError),
)
# Archives of models use no others; LZMA can allocate up to 4 GB to unpack one byte.
_COMPRESSIONS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ArchiveError(ValueError):
    """Raised for an archive, or a path in it, that cannot or must not be read."""


def safe_path(name: str) -> str:
    """Normalises a path inside an archive; rejects a path that leaves it.

    Args:
      name: path in an archive, a catalogue or a material file. Backslashes are separators, and one
        leading slash denotes the root of the archive, as in Java resources.

    Returns:
      The path with forward slashes and without `.` or `..`.

    Raises:
      ArchiveError: the path is empty, leads above the root, or contains a drive or a zero byte.
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
    """Returns a function that reads files below a folder; links out of it are not followed.

    Letter case, and the form and encoding of accented letters, are ignored where a name is not
    found otherwise and the match is unambiguous.

    Args:
      root: folder of the files.

    Returns:
      Function from a path relative to the folder to the bytes of the file. Raises
      FileNotFoundError for a missing file, ArchiveError for a path or a link that leaves the
      folder, and limits.LimitError for a file that is too large.
    """
    root = root.resolve()

    def read(name: str) -> bytes:
        try:
            relative = safe_path(name)
            path = (root / relative).resolve()
            if not path.exists():
                path = _similar_path(root, relative).resolve()
            if not path.is_relative_to(root):
                raise ArchiveError(f"path {name!r} leaves its folder")
            return limits.read_file(path)
        # Cyclic links, names that are too long, folders.
        except (OSError, RuntimeError) as error:
            raise FileNotFoundError(name) from error

    return read


def _similar_path(root: Path, relative: str) -> Path:
    """Returns a path below a folder, each part of which is an existing name or similar to one."""
    path = root
    for part in relative.split("/"):
        if not (path / part).exists():
            resolved = path.resolve()
            if not resolved.is_relative_to(root):  # a link to a folder elsewhere is not listed
                raise FileNotFoundError(relative)
            names = _similar_names(resolved, resolved.stat().st_mtime_ns)
            part = names.get(_folded(part), "")
            if not part:  # none, or several
                raise FileNotFoundError(relative)
        path = path / part
    return path


@functools.lru_cache(maxsize=16)
def _similar_names(folder: Path, modified: int) -> dict[str, str]:
    """Returns folded name -> name in a folder, "" if several names fold to the same.

    `modified` is part of the cache key only.
    """
    del modified
    names: dict[str, str] = {}
    for name in itertools.islice(os.listdir(folder), limits.MEMBERS.maximum()):
        folded = _folded(name)
        names[folded] = "" if folded in names else name
    return names


def _folded(name: str) -> str:
    """Returns a name that is the same for all letter cases, Unicode forms and encodings."""
    try:
        name.encode()
    except UnicodeEncodeError:  # a name that is not UTF-8
        name = os.fsencode(name).decode("latin-1")
    return unicodedata.normalize("NFC", name.casefold())


class Archive:
    """Zip file that is read by safe paths; letter case is ignored unless it is ambiguous.

    Catalogues were made on systems that ignore case, so `Wood.JPG` may be stored as `wood.jpg`.
    """

    def __init__(self, file: Path | str | BinaryIO):
        """Opens the archive and indexes the members with safe names.

        Args:
          file: path of the zip file, or an open file, of which messages omit the name.

        Raises:
          FileNotFoundError: the file does not exist.
          ArchiveError: the file is not a zip archive, or is too large.
        """
        is_path = isinstance(file, Path | str)
        self._prefix = f"{Path(file)}: " if is_path else ""
        try:
            if is_path:
                limits.FILE_BYTES.check(Path(file).stat().st_size)
            self._zip = zipfile.ZipFile(file)
            limits.MEMBERS.check(len(self._zip.infolist()))
        except FileNotFoundError:
            raise
        except limits.LimitError as error:
            raise ArchiveError(f"{self._prefix}{error}") from error
        except _CORRUPT as error:
            raise ArchiveError(f"{self._prefix}not a zip archive ({error})") from error
        self._members: dict[str, zipfile.ZipInfo] = {}
        self._folded: dict[str, zipfile.ZipInfo] = {}
        for member in self._zip.infolist():
            try:
                name = safe_path(member.filename)
            except ArchiveError:
                continue  # not indexed; `read` raises the same error for this name
            if member.is_dir():  # after safe_path, because it fails for an empty name
                continue
            self._members[name] = member
            self._folded.setdefault(name.lower(), member)

    def names(self) -> list[str]:
        """Returns the normalised paths of the members that can be read, without folders."""
        return list(self._members)

    def __contains__(self, name: str) -> bool:
        """Returns True if the archive has a member of this name."""
        path = safe_path(name)
        return path in self._members or path.lower() in self._folded

    def read(self, name: str) -> bytes:
        """Unpacks one member.

        Raises:
          ArchiveError: the path leaves the archive, or the member is too large or corrupt.
          FileNotFoundError: the archive has no such member.
        """
        path = safe_path(name)
        member = self._members.get(path) or self._folded.get(path.lower())
        if member is None:
            raise FileNotFoundError(f"{self._prefix}no member {path!r}")
        limit = limits.MEMBER_BYTES.maximum()
        try:
            if member.compress_type not in _COMPRESSIONS:
                raise ValueError(f"compression type is {member.compress_type}, expected deflate")
            with self._zip.open(member) as stream:
                # The size in the header may be wrong, so the limit applies to the stream.
                data = stream.read(limit + 1)
        except _CORRUPT as error:
            raise ArchiveError(f"{self._prefix}member {path!r} is unreadable: {error}") from error
        try:
            limits.MEMBER_BYTES.check(len(data))
        except limits.LimitError as error:
            raise ArchiveError(f"{self._prefix}member {path!r} is {error}") from error
        return data
