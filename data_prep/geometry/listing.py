# SPDX-License-Identifier: Apache-2.0
"""Lists the files of a folder: those to read, those that are skipped, and the types of the rest.

Every file is accounted for, except those that accompany meshes (materials, textures, texts,
licences) and those of operating systems.
"""

import collections
import dataclasses
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from data_prep.geometry import formats

# Reasons to skip an entry of a folder; part of the fingerprints of prepared shapes.
LINK_OUTSIDE = "a link that leaves the folder"
LINK_BROKEN = "a link whose target is missing"
LINK_TO_FOLDER = "a link to a folder, not followed"
NOT_A_FILE = "not a regular file"
INCOMPLETE = "an incomplete download"
UNREADABLE = "a folder that cannot be read: {}"
# Reasons that are no errors, since the entry need not be a shape -> a message about one, several.
HARMLESS = {
    LINK_TO_FOLDER: ("link to a folder, not followed", "links to folders, not followed"),
    INCOMPLETE: ("incomplete download, not read", "incomplete downloads, not read"),
}

# Suffixes of files that accompany meshes: materials, textures and buffers; tables and metadata;
# texts and documents. The last line has those of Google Scanned Objects.
COMPANIONS = frozenset(
    "mtl bin png jpg jpeg jfif bmp gif tga tif tiff webp dds ktx ktx2 basis hdr exr svg psd avif "
    "csv tsv jsonl json yaml yml toml xml ini "
    "txt md rst pdf html htm rtf doc docx odt xls xlsx ods log url webloc py sh bat "
    "config sdf pbtxt".split()
)
# Names, in lower case, of files without a suffix that accompany meshes.
_TEXTS = frozenset("license licence copying readme notice authors credits changelog".split())
# Names of operating systems and file servers, in lower case. Names with a leading dot, such as
# .DS_Store and the AppleDouble file ._chair.glb, are ignored as well.
_SYSTEM_NAMES = frozenset(
    ["__macosx", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r", "$recycle.bin"]
    + ["system volume information", "lost+found", "@eadir", "#recycle"]
)
# Suffixes of unfinished downloads; programs use those of the second line for other files, too.
_INCOMPLETE_TYPES = frozenset("crdownload opdownload download filepart aria2 !ut".split())
_TEMPORARY_TYPES = frozenset("part partial tmp temp".split())
# Paths, and types of files, that a message lists.
_MAX_PATHS, _MAX_TYPES = 3, 20
# Bytes of a text file that are read to see whether it holds points, and lines that are compared.
_PEEK_BYTES, _PEEK_LINES = 4_096, 3
_NUMBERS = re.compile(rb"\s*(?:[-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?(?:[\s,;]+|$)){3,}", re.I)


@dataclasses.dataclass
class Listing:
    """Entries of a folder; paths are relative to it, with forward slashes.

    Attributes:
      files: files of known types, in the order of their paths.
      skipped: (path, reason) of each entry that is not read although it may be a shape or hold
        shapes.
      other_types: suffix -> number of files of types that are not read.
    """

    files: list[str] = dataclasses.field(default_factory=list)
    skipped: list[tuple[str, str]] = dataclasses.field(default_factory=list)
    other_types: collections.Counter = dataclasses.field(default_factory=collections.Counter)

    def errors(self) -> list[tuple[str, str]]:
        """Returns the skipped entries whose reason is not one of HARMLESS."""
        return [(path, reason) for path, reason in self.skipped if reason not in HARMLESS]

    def notes(self) -> list[str]:
        """Returns a line per harmless reason, and one about the types that are not read."""
        lines = []
        for reason, (one, several) in HARMLESS.items():
            paths = [path for path, found in self.skipped if found == reason]
            if paths:
                text = one if len(paths) == 1 else several
                lines.append(f"{len(paths)} {text}: {_list_paths(paths)}")
        return lines + describe_types(self.other_types)


def scan(folder: Path | str) -> Listing:
    """Lists a folder and its subfolders.

    Ignores hidden files and folders, those of operating systems, and files that accompany meshes.
    Links to folders are not followed, and a subfolder that cannot be read is one of the skipped
    entries.

    Args:
      folder: folder to list.

    Raises:
      OSError: the folder cannot be read.
    """
    listing = Listing()
    root = os.fspath(folder)
    real_root = os.path.realpath(root)
    # A stack, because nested folders may be deeper than Python's recursion limit.
    stack: list[tuple[str, Iterator[os.DirEntry]]] = [("", iter(_entries(root)))]
    while stack:
        prefix, entries = stack[-1]
        entry = next(entries, None)
        if entry is None:
            stack.pop()
            continue
        if _is_ignored(entry.name):
            continue
        path = prefix + entry.name
        if entry.is_symlink():
            _add_link(listing, path, entry, root=real_root)
        elif entry.is_dir(follow_symlinks=False):
            try:
                stack.append((f"{path}/", iter(_entries(entry.path))))
            except OSError as error:
                listing.skipped.append((path, UNREADABLE.format(error.strerror or error)))
        else:
            _add_file(listing, path, entry)
    return listing


def printable(text: str) -> str:
    r"""Escapes line breaks, control characters and bytes that are not UTF-8, as in "caf\xe9.glb".

    Other texts are returned unchanged. The result can be printed, and encoded as UTF-8.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else _escape(char) for char in text)


def describe_types(counts: Mapping[str, int]) -> list[str]:
    """Returns a line about files of types that are not read; [] if there are none.

    Args:
      counts: suffix -> number of files.
    """
    if not counts:
        return []
    total, types = sum(counts.values()), sorted(counts)
    names = {file_type: printable(file_type) or "no suffix" for file_type in types[:_MAX_TYPES]}
    line = f"{total} file{'s' if total > 1 else ''} of types that are not read: "
    line += ", ".join(names.values())
    if len(types) > len(names):
        line += f" and {len(types) - len(names)} more"
    if total > len(types) > 1:
        each = (f"{counts[file_type]} {name}" for file_type, name in names.items())
        line += f" ({', '.join(each)})"
    advice = collections.defaultdict(list)
    for file_type in types:
        if file_type in formats.UNSUPPORTED:
            advice[formats.UNSUPPORTED[file_type]].append(file_type)
    return ["; ".join([line, *(f"{', '.join(of)}: {text}" for text, of in advice.items())])]


def _entries(folder: str) -> list[os.DirEntry]:
    """Returns the entries of a folder, sorted by name."""
    with os.scandir(folder) as entries:
        return sorted(entries, key=lambda entry: entry.name)


def _is_ignored(name: str) -> bool:
    return name.startswith((".", "~$")) or name.lower() in _SYSTEM_NAMES


def _add_file(listing: Listing, path: str, entry: os.DirEntry) -> None:
    """Adds an entry that is neither a link nor a folder."""
    file_type = _type_of(entry.name)
    if not _is_known(file_type, entry.path):
        _add_other(listing, path, file_type)
    elif entry.is_file(follow_symlinks=False):
        listing.files.append(path)
    else:
        listing.skipped.append((path, NOT_A_FILE))


def _add_link(listing: Listing, path: str, entry: os.DirEntry, *, root: str) -> None:
    """Adds a link; `root` is the folder with all links resolved."""
    file_type = _type_of(entry.name)
    try:
        mode = os.stat(entry.path).st_mode
    except OSError:  # no target, or a cycle of links
        mode = None
    if mode is not None and stat.S_ISDIR(mode):
        listing.skipped.append((path, LINK_TO_FOLDER))
    elif file_type not in formats.FORMATS:
        _add_other(listing, path, file_type)
    elif mode is None:
        listing.skipped.append((path, LINK_BROKEN))
    elif not Path(os.path.realpath(entry.path)).is_relative_to(root):
        listing.skipped.append((path, LINK_OUTSIDE))
    elif not stat.S_ISREG(mode):
        listing.skipped.append((path, NOT_A_FILE))
    elif _is_known(file_type, entry.path):
        listing.files.append(path)


def _add_other(listing: Listing, path: str, file_type: str) -> None:
    """Adds a file of a type that is not read, unless such files accompany meshes."""
    inner_type = _type_of(path[: -len(file_type) - 1]) if file_type else ""
    if file_type in _INCOMPLETE_TYPES or (
        file_type in _TEMPORARY_TYPES and inner_type in formats.FORMATS
    ):
        listing.skipped.append((path, INCOMPLETE))
    elif file_type in COMPANIONS or file_type in _TEMPORARY_TYPES:
        return
    elif file_type or path.rpartition("/")[2].lower() not in _TEXTS:
        listing.other_types[file_type] += 1


def _type_of(name: str) -> str:
    """Returns the suffix of a file name in lower case, without dot, as `formats.suffix` does."""
    return os.path.splitext(name)[1][1:].lower()


def _is_known(file_type: str, path: str) -> bool:
    """Returns whether a file of a folder is read: a text only if it begins with numbers."""
    if file_type not in formats.FORMATS:
        return False
    return file_type != "txt" or _holds_points(path)


def _holds_points(path: str) -> bool:
    """Returns whether one of the first lines of a text file has three numbers."""
    try:
        with open(path, "rb", opener=_open_nonblocking) as file:
            lines = file.read(_PEEK_BYTES).splitlines()
    except OSError:
        return True  # the reader reports the error
    lines = [line for line in lines if line.strip() and not line.startswith((b"#", b"//"))]
    return any(_NUMBERS.match(line) for line in lines[:_PEEK_LINES])


def _open_nonblocking(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _list_paths(paths: Sequence[str]) -> str:
    shown = [printable(path) for path in paths[:_MAX_PATHS]]
    return ", ".join([*shown, "..."] if len(paths) > len(shown) else shown)


def _escape(char: str) -> str:
    # Python decodes a byte that is not UTF-8 as one of these surrogates.
    if "\udc80" <= char <= "\udcff":
        return f"\\x{ord(char) - 0xDC00:02x}"
    return char.encode("unicode_escape").decode()
