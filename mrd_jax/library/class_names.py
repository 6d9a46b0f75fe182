# SPDX-License-Identifier: Apache-2.0
"""Lists of class names in text files of any length, one name per line."""

import array
import codecs
import dataclasses
import hashlib
import itertools
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from data_prep.geometry.listing import printable

# Longest line in bytes. A teacher reads at most 77 tokens; a longer line is no name.
MAX_LINE = 1_000
# Marks of other encodings at the beginning of a file.
_OTHER_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"PK\x03\x04": "a zip archive or a spreadsheet",
    b"\x1f\x8b": "gzip",
}


@dataclasses.dataclass(frozen=True)
class ClassList:
    """A checked file of class names, which is read again for each use.

    Attributes:
      path: the file.
      count: number of names; a name that occurs twice counts twice.
      notes: what is in the file beside names, one line each.
    """

    path: Path
    count: int
    notes: tuple[str, ...] = ()

    def chunks(self, size: int) -> Iterator[list[str]]:
        """Yields the names in order, at most `size` at a time.

        Raises:
          ValueError: the file has changed since it was checked.
        """
        seen = 0
        with self.path.open("rb") as file:
            names = (name for _, name in _names(file, self.path) if name)
            while chunk := list(itertools.islice(names, size)):
                seen += len(chunk)
                yield chunk
        if seen != self.count:
            raise ValueError(
                f"{printable(str(self.path))} had {self.count} names when it was checked and has "
                f"{seen} now; leave it unchanged while the command runs"
            )


def read(path: Path) -> ClassList:
    """Checks a file of class names: UTF-8, one name per line.

    White space around and between words is normalised, and so are composed letters (NFC). Empty
    lines are skipped. Memory is 8 bytes per line.

    Args:
      path: file to check.

    Raises:
      OSError: the file cannot be read.
      ValueError: it has no names, is not UTF-8, or has a line that is too long or has control
        characters; the message has the number of the line.
    """
    hashes = array.array("Q")
    empty = 0
    with path.open("rb") as file:
        for _, name in _names(file, path):
            if name:
                hashes.append(fingerprint(name))
            else:
                empty += 1
    if not hashes:
        raise ValueError(f"{printable(str(path))} has no names; expected one class per line")
    notes = [f"skipped {empty} empty lines"] if empty else []
    notes += _repeated(hashes, path)
    return ClassList(path, len(hashes), tuple(f"{printable(str(path))}: {note}" for note in notes))


def _repeated(hashes: array.array, path: Path) -> list[str]:
    """Returns a note about names that occur more than once."""
    values = np.frombuffer(hashes, np.uint64)
    unique, counts = np.unique(values, return_counts=True)
    if len(unique) == len(values):
        return []
    repeated = set(unique[counts > 1][:1].tolist())
    with path.open("rb") as file:
        line, name = next(
            (line, name)
            for line, name in _names(file, path)
            if name and fingerprint(name) in repeated
        )
    return [
        f"{len(values) - len(unique)} lines repeat an earlier name, such as {printable(name)!r} of "
        f"line {line}; each name counts once"
    ]


def _names(file: BinaryIO, path: Path) -> Iterator[tuple[int, str]]:
    """Yields the number and the name of each line, "" for an empty one."""
    for number, line in enumerate(iter(lambda: file.readline(MAX_LINE + 1), b""), 1):
        if number == 1:
            for mark, encoding in _OTHER_ENCODINGS.items():
                if line.startswith(mark):
                    raise ValueError(
                        f"{printable(str(path))} is {encoding}; save it as plain text in UTF-8"
                    )
            line = line.removeprefix(codecs.BOM_UTF8)
        if len(line) > MAX_LINE and not line.endswith(b"\n"):
            raise ValueError(
                f"{printable(str(path))}, line {number}: more than {MAX_LINE} bytes; expected one "
                "class name per line"
            )
        try:
            text = line.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{printable(str(path))}, line {number}: byte {line[error.start]:#04x} is not "
                "UTF-8; convert the file, for example with iconv -f LATIN1 -t UTF-8"
            ) from error
        name = unicodedata.normalize("NFC", " ".join(text.split()))
        if any(unicodedata.category(character) == "Cc" for character in name):
            raise ValueError(
                f"{printable(str(path))}, line {number}: a control character; expected plain text"
            )
        yield number, name


def fingerprint(name: str) -> int:
    """Returns a number above 0 of a name; two of a million names share one with chance 3e-8."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little") or 1
