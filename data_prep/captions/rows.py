# SPDX-License-Identifier: Apache-2.0
"""Reads caption files row by row, and rows again by their position in the file.

| type | content |
| --- | --- |
| .csv, .tsv | two columns without a header, id and caption (Cap3D), or a header that names them |
| .jsonl | one JSON object per line, with an id and a caption or a list of captions |

Text is UTF-8, with or without a byte order mark, with lines that end in LF or CR LF; a caption in
double quotes may contain line breaks. Only one row is in memory at a time.
"""

import codecs
import csv
import dataclasses
import io
import json
import os
import stat
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

DELIMITERS = {".csv": ",", ".tsv": "\t"}
TYPES = (*DELIMITERS, ".jsonl")
# Names of columns and fields, in lower case.
ID_NAMES = ("id", "uid", "path", "file", "object_id", "obj_id", "model_id", "sha256", "modelid")
CAPTION_NAMES = ("caption", "captions", "text", "texts", "description")
_EXPECTED = (
    f"an id ({', '.join(ID_NAMES[:4])}, ...) and a caption ({', '.join(CAPTION_NAMES[:3])}, ...)"
)


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a caption file.

    Attributes:
      id: id as the file has it.
      texts: captions with collapsed white space; may be empty.
      start: position of its first byte in the file.
      stop: position behind its last byte.
      line: number of its first line, from 1; 0 if it was read by its position.
    """

    id: str
    texts: tuple[str, ...]
    start: int
    stop: int
    line: int = 0

    @property
    def is_utf8(self) -> bool:
        """Returns whether the bytes of id and captions are valid UTF-8."""
        return all(text.isascii() or _encodes(text) for text in (self.id, *self.texts))


class Reader:
    """Rows of a caption file.

    Args:
      path: file of one of `TYPES`.

    Raises:
      ValueError: the file is of another type, is not a regular file, or is UTF-16.
      OSError: the file cannot be read.
    """

    def __init__(self, path: Path):
        self.path = path
        self._suffix = path.suffix.lower()
        if self._suffix not in TYPES:
            raise ValueError(
                f"{path}: captions are read from {', '.join(TYPES)} files; unpack or rename it"
            )
        self._status = path.stat()
        if not stat.S_ISREG(self._status.st_mode):
            raise ValueError(f"{path}: not a regular file; captions are read more than once")
        with path.open("rb") as file:
            mark = file.read(3)
        if mark.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ValueError(f"{path}: UTF-16 text; save it as UTF-8")
        self._start = 3 if mark == codecs.BOM_UTF8 else 0
        # Columns of id and caption; None until the first row of a CSV file is known.
        self._columns: tuple[int, int, int] | None = None

    def rows(self) -> Iterator[Row]:
        """Yields the rows in order, without blank ones.

        Raises:
          ValueError: a row is not of the described form; the message has its line.
        """
        with self._open() as file:
            file.seek(self._start)
            yield from self._json_rows(file) if self._suffix == ".jsonl" else self._csv_rows(file)

    def read(self, spans: Iterable[tuple[int, int]]) -> Iterator[Row]:
        """Reads rows again, after `rows` has found them.

        Args:
          spans: `Row.start` and `Row.stop` of each.

        Raises:
          ValueError: the file was replaced or changed since this object was made.
        """
        with self._open() as file:
            for start, stop in spans:
                file.seek(start)
                data = file.read(stop - start)
                if self._suffix == ".jsonl":
                    identifier, texts = _json_entry(data.decode("utf-8", "surrogateescape"))
                else:
                    # A row may have line breaks, which the parser expects at the end of lines.
                    lines = _CountedLines(io.BytesIO(data), start)
                    identifier, texts = self._cells(next(self._parse(lines)))
                yield Row(identifier, texts, start, stop)

    def _open(self) -> BinaryIO:
        """Opens the file. Raises ValueError if it has changed."""
        file = self.path.open("rb")
        status = os.fstat(file.fileno())
        if (status.st_size, status.st_mtime_ns) != (self._status.st_size, self._status.st_mtime_ns):
            file.close()
            raise ValueError(f"{self.path}: changed while it was in use; run again")
        return file

    def _json_rows(self, file: BinaryIO) -> Iterator[Row]:
        stop = self._start
        for number, line in enumerate(file, start=1):
            start, stop = stop, stop + len(line)
            if not line.strip():
                continue
            try:
                identifier, texts = _json_entry(line.decode("utf-8", "surrogateescape"))
            except ValueError as error:
                raise ValueError(f"{self.path}, line {number}: {error}") from error
            yield Row(identifier, texts, start, stop, number)

    def _csv_rows(self, file: BinaryIO) -> Iterator[Row]:
        lines = _CountedLines(file, self._start)
        cells = self._parse(lines)
        while True:
            start, number = lines.position, lines.number + 1
            try:
                values = next(cells)
                if self._columns is None:
                    self._columns, is_header = _find_columns(values)
                    if is_header:
                        continue
                if not any(value.strip() for value in values):
                    continue
                identifier, texts = self._cells(values)
            except StopIteration:
                return
            except (csv.Error, ValueError) as error:
                raise ValueError(f"{self.path}, line {number}: {error}") from error
            yield Row(identifier, texts, start, lines.position, number)

    def _parse(self, lines: Iterator[str]) -> Iterator[list[str]]:
        return csv.reader(lines, strict=True, delimiter=DELIMITERS[self._suffix])

    def _cells(self, values: list[str]) -> tuple[str, tuple[str, ...]]:
        """Returns the id and the captions of a row of a CSV file."""
        id_column, caption_column, count = self._columns or (0, 1, 2)
        if len(values) != count:
            raise ValueError(
                f"{len(values)} cells, expected {count}; put captions that contain the separator "
                "in double quotes"
            )
        return values[id_column].strip(), _clean([values[caption_column]])


class _CountedLines:
    """Lines of a binary file as text, with the position behind the last one.

    Args:
      file: file at its first line.
      position: current position in the file.
    """

    def __init__(self, file: BinaryIO, position: int):
        self._file = file
        self.position = position
        self.number = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self._file.readline()
        if not line:
            raise StopIteration
        self.position += len(line)
        self.number += 1
        return line.decode("utf-8", "surrogateescape")


def _find_columns(values: list[str]) -> tuple[tuple[int, int, int], bool]:
    """Returns (column of the id, column of the caption, columns), and whether it is a header.

    Args:
      values: cells of the first row.
    """
    names = [value.strip().lower() for value in values]
    known = _first(names, ID_NAMES), _first(names, CAPTION_NAMES)
    if known[0] and known[1]:
        return (names.index(known[0]), names.index(known[1]), len(values)), True
    if len(values) != 2:
        raise ValueError(
            f"{len(values)} cells, expected an id and a caption, or a header with {_EXPECTED}"
        )
    return (0, 1, 2), False


def _json_entry(line: str) -> tuple[str, tuple[str, ...]]:
    """Returns the id and the captions of one line."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"not a JSON object ({error})") from error
    fields = entry if isinstance(entry, dict) else {}
    fields = {name.lower(): value for name, value in fields.items()}
    identifier = fields.get(_first(fields, ID_NAMES))
    caption_name = _first(fields, CAPTION_NAMES)
    if not isinstance(identifier, str) or not caption_name:
        raise ValueError(f"{line.strip()[:60]!r}; expected an object with {_EXPECTED}")
    value = fields[caption_name]
    texts = value if isinstance(value, list) else [value]
    if not all(text is None or isinstance(text, str) for text in texts):
        raise ValueError(f"{caption_name} is {value!r:.60}; expected a string or a list of strings")
    return identifier.strip(), _clean(texts)


def _first(names: Collection[str], known: Sequence[str]) -> str:
    """Returns the first of the known names that is among others; "" if none is."""
    return next((name for name in known if name in names), "")


def _clean(texts: list[str | None]) -> tuple[str, ...]:
    """Collapses white space, and drops empty texts."""
    cleaned = (" ".join(text.split()) for text in texts if text)
    return tuple(text for text in cleaned if text)


def _encodes(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
