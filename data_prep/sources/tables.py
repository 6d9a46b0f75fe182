# SPDX-License-Identifier: Apache-2.0
"""Reader of tables that describe the shapes of a folder: CSV with a header, or JSON Lines."""

import csv
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TYPES = (".csv", ".jsonl")
# Separates captions or images in one cell of a CSV file; JSON Lines files use lists.
SEPARATOR = "|"
# Alternative column name -> column name.
ALIASES = {"caption": "captions", "image": "images", "license": "licence", "up": "up_axis"}
UP_AXES = ("y", "z")
# TFDS reserves "all" for the union of all splits.
_SPLIT = re.compile(r"(?!all$)[A-Za-z][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table; empty cells are "" or ().

    Attributes:
      where: file and line, for error messages.
      path: path of the mesh or cloud, relative to the folder.
      id: unique id in the table.
      name: name of the shape.
      captions: sentences about the shape.
      images: paths of images, relative to the folder.
      label: class name.
      up_axis: "y" or "z".
      split: name of the split, such as "train" or "test".
      creator: creator to credit.
      licence: licence of the shape.
    """

    where: str
    path: str
    id: str = ""
    name: str = ""
    captions: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    label: str = ""
    up_axis: str = ""
    split: str = ""
    creator: str = ""
    licence: str = ""


COLUMNS = tuple(field.name for field in dataclasses.fields(Row) if field.name != "where")
LISTS = ("captions", "images")
PATHS = ("path", "images")


def find(folder: Path) -> Path | None:
    """Returns the path of the table of a folder, or None.

    Raises:
      ValueError: the folder has several tables.
    """
    tables = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in TYPES and path.is_file()
    )
    if len(tables) > 1:
        raise ValueError(
            f"{folder}: found {[path.name for path in tables]}; expected one table, so move the "
            "others to another folder"
        )
    return tables[0] if tables else None


def read(path: Path) -> list[Row]:
    """Reads a table.

    Args:
      path: UTF-8 file, either CSV with column names in the first line, or one JSON object per line.
        Column names are those of `Row` in any order; case does not matter.

    Raises:
      ValueError: the file is not a table, is empty, or has an invalid cell.
    """
    lines = _csv_lines if path.suffix.lower() == ".csv" else _json_lines
    try:
        rows = [_row(entry, where=f"{path}, line {number}") for number, entry in lines(path)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV file ({error})") from error
    if not rows:
        raise ValueError(f"{path}: no shapes in it; expected one per line")
    without_split = [row.where for row in rows if not row.split]
    if without_split and len(without_split) < len(rows):
        raise ValueError(
            f"{without_split[0]}: no split, but other lines have one; fill or remove the column"
        )
    return rows


def _csv_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # Spreadsheet programs write a byte order mark.
    with path.open(encoding="utf-8-sig", newline="") as file:
        cells = csv.reader(file, strict=True)
        names = _columns(next(cells, []), where=f"{path}, line 1")
        for values in cells:
            where = f"{path}, line {cells.line_num}"
            if not any(value.strip() for value in values):
                continue
            if len(values) != len(names):
                raise ValueError(
                    f"{where}: {len(values)} cells, but the header has {len(names)}; put text that "
                    "contains a comma in double quotes"
                )
            entry: dict[str, Any] = dict(zip(names, values, strict=True))
            for name in LISTS:
                if name in entry:
                    entry[name] = entry[name].split(SEPARATOR)
            yield cells.line_num, entry


def _json_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path}, line {number}"
            try:
                entry = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise ValueError(f"{where}: not JSON ({error})") from error
            if not isinstance(entry, dict):
                raise ValueError(f"{where}: {line.strip()[:40]!r}; expected a JSON object")
            names = _columns(list(entry), where=where)
            yield number, dict(zip(names, entry.values(), strict=True))


def _columns(names: list[str], *, where: str) -> list[str]:
    """Normalises column names. Raises ValueError for unknown, duplicate and missing columns."""
    normalised = [re.sub(r"[\s_-]+", "_", name.strip().lower()) for name in names]
    columns = [ALIASES.get(name, name) for name in normalised]
    unknown = [name for name, column in zip(names, columns, strict=True) if column not in COLUMNS]
    if unknown:
        raise ValueError(f"{where}: unknown columns {unknown}; expected some of {list(COLUMNS)}")
    duplicates = sorted({column for column in columns if columns.count(column) > 1})
    if duplicates:
        raise ValueError(f"{where}: duplicate columns {duplicates}; found {names}")
    if "path" not in columns:
        raise ValueError(f"{where}: no column 'path'; found {names}")
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


def _collapse_space(text: str) -> str:
    return " ".join(text.split())
