# SPDX-License-Identifier: Apache-2.0
"""Point clouds as rows of numbers: xyz, txt, pts and asc files.

The columns are named by the caller, by the header of the file, or else guessed from their number
and values, see `text_columns`.
"""

import io
import re

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import colouring, text_columns

# Lines at the start that may be comments, names of columns or a number of points.
_HEADER_LINES = 100
_COMMENTS = ("#", "//", "%", "!", "/*")
_COMMENT = re.compile(r"[ \t]*(#|//|%|!).*")
_SEPARATORS = str.maketrans(",;\t", "   ")
_DECIMAL_COMMA = re.compile(r"[+-]?\d+,\d+([eE][+-]?\d+)?")


def read(data: bytes, *, assets: Assets, file_type: str, columns: str | None = None) -> scene.Scene:
    """Reads a point cloud from rows of numbers.

    Numbers are separated by spaces, tabs, commas or semicolons. Comments, empty lines and the
    number of points above the rows of a pts file are skipped.

    Args:
      data: bytes of the file.
      assets: collects the notes.
      file_type: "pts" files may have a number of points above the rows, and have the intensity
        before the colours.
      columns: names of the columns, see `text_columns.parse`; None for those of the file's header,
        or a guess.

    Raises:
      scene.MeshError: the file holds no numbers, or its columns cannot be used.
      limits.LimitError: there are too many rows.
    """
    text = _decode(data)
    limits.POINTS.check(text.count("\n"))
    names, start = _read_header(text)
    table = _parse(text[start:])
    if columns is not None:
        chosen = text_columns.parse(columns, count=table.shape[1])
    else:
        chosen = text_columns.from_names(names, count=table.shape[1])
    if chosen is None:
        chosen = text_columns.guess(table, file_type=file_type, notes=assets.notes)
    colours = None
    if chosen.rgb is not None:
        colours = colouring.to_unit(table[:, chosen.rgb], code="f8", notes=assets.notes)
    xyz = table[:, chosen.xyz]
    return scene.Scene(points=(scene.Points(xyz, colours),))


def _decode(data: bytes) -> str:
    """Decodes text. MeshError for binary data."""
    if b"\0" in data[:4096]:
        raise scene.MeshError("binary data; expected rows of numbers")
    # Names and comments may have any encoding; numbers are ASCII.
    return (
        data.removeprefix(b"\xef\xbb\xbf")
        .decode("latin-1")
        .replace("\r\n", "\n")
        .replace("\r", "\n")
    )


def _read_header(text: str) -> tuple[list[str], int]:
    """Finds the first row of numbers.

    Returns:
      Names of the columns, from the last line above it, and the position of the row.

    Raises:
      MeshError: there is none, or it is one of a format that is not read.
    """
    start, names = 0, []
    for _ in range(_HEADER_LINES):
        end = text.find("\n", start)
        end = len(text) if end < 0 else end
        if start >= len(text):
            break
        line = text[start:end].strip()
        comment = line.startswith(_COMMENTS)
        words = re.split(r"[\s,;|]+", line.strip("#/%!*; \t").strip())
        if not comment and line:
            numbers = _COMMENT.sub("", line).translate(_SEPARATORS).split()
            if all(map(_is_number, numbers)):
                if len(numbers) > 1:
                    return names, start
            elif re.fullmatch(r"[A-Z][a-z]?(\s+[-+.\deE]+){3,}", line):
                raise scene.MeshError("a molecule; expected rows of numbers")
            elif any(map(_is_number, words[:3])):
                raise scene.MeshError("rows that are not only numbers; expected x y z in each")
        if line and not all(map(_is_number, words)):
            names = words
        start = end + 1
    raise scene.MeshError("no rows of numbers; expected x y z in each row")


def _is_number(word: str) -> bool:
    try:
        float(word)
    except ValueError:
        return False
    return "_" not in word


def _parse(text: str) -> np.ndarray:
    """Parses rows of numbers, the first of which starts the text.

    Returns:
      float64 [rows, columns].

    Raises:
      MeshError: rows differ in length, are not numbers, or have a comma as decimal sign.
    """
    first = text[: text.find("\n") if "\n" in text else None].strip()
    if ";" in first or re.search(r"\s", first):
        words = re.split(r"[;\s]+", first)
        if all(_DECIMAL_COMMA.fullmatch(word) or word.isdigit() for word in words if word):
            if "," in first:
                raise scene.MeshError("decimal commas; expected decimal points")
    if re.search(r",[ \t]*,|;[ \t]*;", first):
        raise scene.MeshError("empty columns; expected a number in each")
    if any(sign in text for sign in ("#", "//", "%", "!")):
        text = _COMMENT.sub("", text)
    # Numbers of points above the rows of each scan of a pts file.
    text = re.sub(r"(?m)^[ \t]*\d+[ \t]*$", "", text)
    rows = io.StringIO(text.translate(_SEPARATORS))
    try:
        table = np.loadtxt(rows, ndmin=2, comments=None, dtype=np.float64)
    except ValueError as error:
        reason = str(error).split(";")[0]
        raise scene.MeshError(f"rows that are not numbers of one length: {reason}") from error
    if table.shape[1] < 3:
        raise scene.MeshError("too few columns; expected x y z in each row")
    return table
