# SPDX-License-Identifier: Apache-2.0
"""Reader of tables that describe the shapes of a folder: CSV with a header, or JSON Lines."""

import codecs
import csv
import dataclasses
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.foreign import limits
from data_prep.sources import table_columns
from data_prep.sources.table_columns import COLUMNS, LISTS, PATHS, Row

TYPES = (".csv", ".jsonl", ".tsv")
# Separates captions or images in one cell of a CSV file; JSON Lines files use lists.
SEPARATOR = "|"
# Separators of cells; spreadsheets of many European countries write semicolons.
DELIMITERS = (",", ";", "\t")
# Marks at the start of a text. Without one, a text is UTF-8. UTF-32 begins as UTF-16 does.
_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
UP_AXES = ("y", "z")
# TFDS reserves "all" for the union of all splits.
_SPLIT = re.compile(r"(?!all$)[A-Za-z][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Table:
    """Content of a table.

    Attributes:
      rows: one row per shape.
      notes: what was ignored, one line each.
    """

    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()


def find(folder: Path) -> Path | None:
    """Returns the path of the table of a folder, or None.

    Raises:
      ValueError: the folder has several tables.
    """
    tables = find_all(folder)
    if len(tables) > 1:
        raise ValueError(
            f"{folder}: found {[path.name for path in tables]}; expected one table, so move the "
            "others to another folder"
        )
    return tables[0] if tables else None


def find_all(folder: Path) -> list[Path]:
    """Returns the files at the top of a folder that may be tables, without hidden files."""
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in TYPES and not path.name.startswith((".", "~$")) and path.is_file()
    )


def read(path: Path) -> Table:
    """Reads a table.

    Args:
      path: text in UTF-8, or in UTF-16 with a byte order mark: either CSV with column names in the
        first line and commas, semicolons or tabs between the cells, or one JSON object per line.
        Column names are those of `Row` in any order; case does not matter.

    Returns:
      The rows, and a note that names the columns that are not those of `Row`.

    Raises:
      ValueError: the file is not a table, is empty, or has an invalid cell.
      OSError: the file cannot be read.
    """
    unknown: dict[str, None] = {}
    lines = _json_lines if path.suffix.lower() == ".jsonl" else _csv_lines
    try:
        text = _decode(limits.read_file(path))
        entries = lines(text, path=path, unknown=unknown)
        rows = [_row(entry, where=f"{path}, line {number}") for number, entry in entries]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV file ({error})") from error
    except limits.LimitError as error:
        raise ValueError(f"{path}: {error}") from error
    if not rows:
        raise ValueError(f"{path}: no shapes in it; expected one per line")
    without_split = [row.where for row in rows if not row.split]
    if without_split and len(without_split) < len(rows):
        raise ValueError(
            f"{without_split[0]}: no split, but other lines have one; fill or remove the column"
        )
    _check_groups(rows)
    note = table_columns.describe_unknown(list(unknown))
    return Table(tuple(rows), (f"{path}: {note}",) if note else ())


def _decode(data: bytes) -> str:
    """Decodes a text; UTF-8 without a byte order mark."""
    for mark, encoding in _MARKS.items():
        if data.startswith(mark):
            return data.decode(encoding)
    if b"\0" in data[:2]:  # UTF-16 without a mark: column names are ASCII
        return data.decode("utf-16-le" if data[1:2] == b"\0" else "utf-16-be")
    return data.decode("utf-8")


def _csv_lines(
    text: str, *, path: Path, unknown: dict[str, None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the number and the cells of each line; adds the names of unknown columns."""
    lines = io.StringIO(text, newline="")
    delimiter, skipped = _find_delimiter(text)
    for _ in range(skipped):
        lines.readline()
    cells = csv.reader(lines, strict=True, delimiter=delimiter)
    names = _columns(next(cells, []), where=f"{path}, line {1 + skipped}", unknown=unknown)
    for values in cells:
        number = cells.line_num + skipped
        if not any(value.strip() for value in values):
            continue
        if len(values) != len(names):
            name = {",": "comma", ";": "semicolon", "\t": "tab"}[delimiter]
            raise ValueError(
                f"{path}, line {number}: {len(values)} cells, but the header has {len(names)}; put "
                f"text that contains a {name} in double quotes"
            )
        entry: dict[str, Any] = {n: v for n, v in zip(names, values, strict=True) if n in COLUMNS}
        for name in LISTS:
            if name in entry:
                entry[name] = entry[name].split(SEPARATOR)
        yield number, entry


def _find_delimiter(text: str) -> tuple[str, int]:
    """Returns the separator of the cells, and the number of lines above the header, 0 or 1."""
    first = re.match(r"[^\r\n]*", text)[0]
    # Spreadsheet programs understand, and some write, a first line such as "sep=;".
    stated = re.fullmatch(r'"?sep=([,;\t])"?', first.strip(), re.IGNORECASE)
    if stated:
        return stated[1], 1
    for delimiter in DELIMITERS:
        names = next(csv.reader([first], delimiter=delimiter), [])
        if "path" in map(table_columns.column_of, names):
            return delimiter, 0
    return max(DELIMITERS, key=first.count), 0


def _json_lines(
    text: str, *, path: Path, unknown: dict[str, None]
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yields the number and the object of each line; adds the names of unknown columns."""
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{where}: not JSON ({error})") from error
        if not isinstance(entry, dict):
            raise ValueError(f"{where}: {line.strip()[:40]!r}; expected a JSON object")
        names = _columns(list(entry), where=where, unknown=unknown)
        values = zip(names, entry.values(), strict=True)
        yield number, {name: value for name, value in values if name in COLUMNS}


def _columns(names: list[str], *, where: str, unknown: dict[str, None]) -> list[str]:
    """Normalises column names, and adds the unknown ones to `unknown`.

    Raises:
      ValueError: a known column occurs twice, or the column of the path is missing.
    """
    columns = [table_columns.column_of(name) for name in names]
    known = [column for column in columns if column in COLUMNS]
    duplicates = sorted({column for column in known if known.count(column) > 1})
    if duplicates:
        raise ValueError(f"{where}: duplicate columns {duplicates}; found {names}")
    if "path" not in known:
        raise ValueError(
            f"{where}: no column 'path'; found {names}{table_columns.suggest_path(names)}"
        )
    unknown.update(
        (name.strip(), None)
        for name, column in zip(names, columns, strict=True)
        # Spreadsheets write empty columns; a column without a name has nothing to say.
        if column not in COLUMNS and name.strip()
    )
    return columns


def _row(entry: Mapping[str, Any], *, where: str) -> Row:
    values: dict[str, Any] = {"where": where}
    for column, value in entry.items():
        texts = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{where}: {column} is {value!r}; expected a string")
        # Text may be wrapped over several lines; white space inside a path matters.
        clean = str.strip if column in PATHS else _collapse_space
        cleaned = tuple(clean(text) for text in texts if text.strip())
        if column in LISTS:
            values[column] = cleaned
        elif isinstance(value, list):
            raise ValueError(f"{where}: {column} is {value!r}; expected one string")
        else:
            values[column] = cleaned[0] if cleaned else ""
    row = Row(**values)
    if not row.path:
        raise ValueError(f"{where}: no path; expected the file of a shape")
    if row.up_axis.lower() not in ("", *UP_AXES):
        raise ValueError(
            f"{where}: up_axis is {row.up_axis!r}; expected one of {UP_AXES} or an empty cell"
        )
    if row.split and not _SPLIT.fullmatch(row.split):
        raise ValueError(
            f"{where}: split is {row.split!r}; expected a word such as 'train' or 'test'"
        )
    return dataclasses.replace(row, up_axis=row.up_axis.lower())


def _check_groups(rows: Sequence[Row]) -> None:
    """Raises ValueError if a group is in two splits: its test shapes would not be new."""
    first: dict[str, Row] = {}
    for row in rows:
        earlier = first.setdefault(row.group, row)
        if row.group and earlier.split != row.split:
            raise ValueError(
                f"{row.where}: group {row.group!r} is in split {row.split!r}, but {earlier.where} "
                f"has it in {earlier.split!r}; put all shapes of a group into one split"
            )


def _collapse_space(text: str) -> str:
    return " ".join(text.split())
