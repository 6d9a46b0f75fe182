# SPDX-License-Identifier: Apache-2.0
"""Tables that describe the shapes of a folder: CSV with a header, or JSON objects line by line."""

import csv
import dataclasses
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

TYPES = (".csv", ".jsonl")
# Between several captions or images in one cell of a CSV file; a JSON file has lists.
SEPARATOR = "|"
# What people also call a column.
ALIASES = {"caption": "captions", "image": "images", "license": "licence", "up": "up_axis"}
UP_AXES = ("y", "z")
# TFDS keeps "all" for every split together.
_SPLIT = re.compile(r"(?!all$)[A-Za-z][A-Za-z0-9_]*")


@dataclasses.dataclass(frozen=True)
class Row:
    """What a table says of one shape; "" or () where it says nothing.

    Attributes:
      where: file and line, for messages.
      path: of the mesh or cloud, relative to the folder.
      id: unique in the table.
      name: in a few words.
      captions: sentences about the shape.
      images: paths of pictures, relative to the folder.
      label: name of its class.
      up_axis: "y" or "z".
      split: such as "train" or "test".
      creator: to be credited.
      licence: of the shape.
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
    """The table of a folder, or None.

    Raises:
      ValueError: there are several.
    """
    found = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in TYPES and path.is_file()
    )
    if len(found) > 1:
        raise ValueError(
            f"{folder}: found {[path.name for path in found]}; expected one table of its shapes, "
            "so move the others elsewhere"
        )
    return found[0] if found else None


def read(path: Path) -> list[Row]:
    """Reads a table.

    Args:
      path: of a CSV file whose first line names the columns, or of JSON objects, one a line; UTF-8.
        Column names are those of `Row`, in any case and order.

    Raises:
      ValueError: the file is no table, is empty or has a cell that cannot be meant; names the file,
        the line, what was found and what was expected.
    """
    lines = _csv_lines if path.suffix.lower() == ".csv" else _json_lines
    try:
        rows = [_row(entry, where=f"{path}, line {number}") for number, entry in lines(path)]
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not a text in UTF-8 ({error}); save it as UTF-8") from error
    except csv.Error as error:
        raise ValueError(f"{path}: not a CSV file ({error})") from error
    if not rows:
        raise ValueError(f"{path}: no shapes in it; expected one a line")
    without = [row.where for row in rows if not row.split]
    if without and len(without) < len(rows):
        raise ValueError(
            f"{without[0]}: no split, but other lines have one; fill or remove the column"
        )
    return rows


def _csv_lines(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    # Spreadsheets put a byte order mark in front.
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
                    "holds a comma into double quotes"
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
    """The columns that names stand for. ValueError for one that is unknown, twice or missing."""
    spelled = [re.sub(r"[\s_-]+", "_", name.strip().lower()) for name in names]
    found = [ALIASES.get(name, name) for name in spelled]
    unknown = [name for name, column in zip(names, found, strict=True) if column not in COLUMNS]
    if unknown:
        raise ValueError(f"{where}: unknown columns {unknown}; expected some of {list(COLUMNS)}")
    twice = sorted({column for column in found if found.count(column) > 1})
    if twice:
        raise ValueError(f"{where}: columns {twice} are there twice; found {names}")
    if "path" not in found:
        raise ValueError(f"{where}: no column 'path'; found {names}")
    return found


def _row(entry: Mapping[str, Any], *, where: str) -> Row:
    values: dict[str, Any] = {"where": where}
    for column, value in entry.items():
        texts = [] if value is None else value if isinstance(value, list) else [value]
        if not all(isinstance(text, str) for text in texts):
            raise ValueError(f"{where}: {column} is {value!r}; expected text")
        # A name may be wrapped over lines; a path is taken as it is.
        clean = str.strip if column in PATHS else _one_line
        kept = tuple(clean(text) for text in texts if text.strip())
        if column in LISTS:
            values[column] = kept
        elif isinstance(value, list):
            raise ValueError(f"{where}: {column} is {value!r}; expected one text")
        else:
            values[column] = kept[0] if kept else ""
    row = Row(**values)
    if not row.path:
        raise ValueError(f"{where}: no path; expected the file of a shape")
    if row.up_axis.lower() not in ("", *UP_AXES):
        raise ValueError(f"{where}: up_axis is {row.up_axis!r}; expected one of {UP_AXES} or none")
    if row.split and not _SPLIT.fullmatch(row.split):
        raise ValueError(
            f"{where}: split is {row.split!r}; expected a word such as 'train' or 'test'"
        )
    return dataclasses.replace(row, up_axis=row.up_axis.lower())


def _one_line(text: str) -> str:
    return " ".join(text.split())
