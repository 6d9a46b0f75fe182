# SPDX-License-Identifier: Apache-2.0
"""Lines of OBJ files: splits them by statement, and parses their numbers in bulk."""

import codecs
import dataclasses
import re
import warnings

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry.scene import MeshError

_NEWLINE, _SPACE, _SLASH, _MINUS, _PLUS, _ZERO = b"\n /-+0"
# Longest text of a file that an error message quotes.
_QUOTED = 40
# Digits of an index; longer ones exceed int64.
_MAX_DIGITS = 18
# How Microsoft's C library writes what is no number.
_NOT_A_NUMBER = re.compile(rb"[-+]?1\.#(?:QNAN|SNAN|INF|IND|J)0*")
_TRAILING_COMMENT = re.compile(rb"(?m)^([ \t]*(?:v[tn]?|fo?)[ \t][^#\n]*)#[^\n]*")
# Bytes of numbers, and of corners of faces.
_IN_NUMBERS = np.isin(np.arange(256), list(b"0123456789+-.eE \t\n\v\f"))
_IN_CORNERS = np.isin(np.arange(256), list(b"0123456789+-/ \t\n\v\f"))
_CONTINUATION = re.compile(rb"\\[ \t]*\n")


@dataclasses.dataclass(frozen=True)
class Rows:
    """Numbers of all lines of one kind.

    Attributes:
      values: float64 [values], line by line.
      counts: int64 [lines], numbers on each line.
      lines: int64 [lines], index of each line in the file, ascending.
    """

    values: np.ndarray
    counts: np.ndarray
    lines: np.ndarray

    def column(self, index: int) -> np.ndarray:
        """Returns a number of every line, float64 [lines]; NaN on lines that are too short."""
        if len(self.counts) and (self.counts == self.counts[0]).all() and index < self.counts[0]:
            return self.values.reshape(-1, self.counts[0])[:, index]
        result = np.full(len(self.counts), np.nan)
        has = self.counts > index
        result[has] = self.values[(np.cumsum(self.counts) - self.counts)[has] + index]
        return result


@dataclasses.dataclass(frozen=True)
class Faces:
    """Faces with the indices of their corners as the file states them: from 1, or negative.

    Attributes:
      vertex: int64 [corners]; 0 is not a valid index.
      coordinate: int64 [corners], index of the texture coordinates; 0 without one.
      counts: int64 [faces], corners of each face.
      lines: int64 [faces], index of the line of each face, ascending.
    """

    vertex: np.ndarray
    coordinate: np.ndarray
    counts: np.ndarray
    lines: np.ndarray


@dataclasses.dataclass(frozen=True)
class Elements:
    """Content of an OBJ file. Comments, normals, groups and smoothing groups are left out.

    Attributes:
      vertices: lines `v`.
      coordinates: lines `vt`.
      faces: lines `f`.
      statements: (index of the line, keyword, rest of the line) of all other lines.
    """

    vertices: Rows
    coordinates: Rows
    faces: Faces
    statements: list[tuple[int, str, str]]


def parse(data: bytes) -> Elements:
    """Parses a file.

    Args:
      data: bytes of the file. Text is UTF-8, or else Latin-1; UTF-16 needs a byte order mark.

    Raises:
      MeshError: the file is not text, or a number cannot be read.
      limits.LimitError: there are too many vertices, faces or statements.
    """
    text = _clean(data)
    buffer = np.frombuffer(bytearray(text), np.uint8)
    is_word = buffer > _SPACE
    is_start = is_word.copy()
    is_start[1:] &= ~is_word[:-1]
    words = np.flatnonzero(is_start)
    ends = np.flatnonzero(buffer == _NEWLINE)
    starts = np.concatenate([[0], ends[:-1] + 1])
    first = np.searchsorted(words, starts)
    counts = np.diff(first, append=len(words))
    # Position of the keyword. Blank lines are left out.
    lines = np.flatnonzero(counts)
    at = words[first[lines]]
    keyword = buffer[at].astype(np.uint32)
    for place in (1, 2):  # the text ends in three newlines
        goes_on = is_word[at + place] & (keyword % 256 > 0)
        letter = np.where(goes_on, buffer[at + place], 0)
        keyword = keyword * 256 + letter.astype(np.uint32)

    def chosen(name: bytes) -> np.ndarray:
        return lines[keyword == int.from_bytes(name.ljust(3, b"\0"), "big")]

    def body(kind: np.ndarray, width: int) -> np.ndarray:
        """Returns the bytes of lines without their keyword, of `width` letters."""
        for place in range(width):
            buffer[words[first[kind]] + place] = _SPACE
        return _join(buffer, starts[kind], ends[kind] + 1, lines=kind)

    vertices, coordinates = chosen(b"v"), chosen(b"vt")
    faces = np.union1d(chosen(b"f"), chosen(b"fo"))  # `fo` is an old form of `f`
    limits.VERTICES.check(max(len(vertices), len(coordinates)))
    limits.FACES.check(len(faces))
    silent = np.concatenate([chosen(name) for name in (b"vn", b"g", b"o", b"s")])
    known = np.zeros(len(ends), bool)
    for kind in (vertices, coordinates, faces, silent):
        known[kind] = True
    other = lines[~known[lines] & (buffer[at] != ord("#"))]
    limits.VERTICES.check(len(other))
    statements = [_statement(text, line, starts[line], ends[line]) for line in other.tolist()]
    rows = [
        Rows(_floats(body(kind, width).tobytes(), counts[kind] - 1), counts[kind] - 1, kind)
        for kind, width in ((vertices, 1), (coordinates, 2))
    ]
    buffer[words[first[chosen(b"fo")]] + 1] = _SPACE
    corners = _corners(body(faces, 1), int((counts[faces] - 1).sum()))
    return Elements(*rows, Faces(*corners, counts[faces] - 1, faces), statements)


def decode(text: bytes) -> str:
    """Decodes a name: UTF-8, or else Latin-1."""
    try:
        return text.decode()
    except UnicodeDecodeError:
        return text.decode("latin-1")


def normalise(data: bytes) -> bytes:
    """Returns text without byte order mark, UTF-16, carriage returns and continued lines.

    Raises:
      MeshError: the data is not text.
    """
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        data = data.decode("utf-16", "replace").encode()
    data = data.removeprefix(codecs.BOM_UTF8)
    if b"\0" in data.rstrip(b"\0"):
        raise MeshError("binary data; expected text")
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    if b"\\" in data:
        data = _CONTINUATION.sub(b" ", data)
    return data


def _clean(data: bytes) -> bytes:
    """Returns normalised text without comments behind numbers, ending in three newlines."""
    text = normalise(data).rstrip(b"\0") + b"\n\n\n"
    if b".#" in text:
        text = _NOT_A_NUMBER.sub(b"nan", text)
    if text.count(b"#") > text.count(b"\n#") + text.startswith(b"#"):
        text = _TRAILING_COMMENT.sub(rb"\1", text)
    return text


def _statement(text: bytes, line: int, start: int, end: int) -> tuple[int, str, str]:
    keyword, *rest = text[start:end].split(maxsplit=1)
    return line, decode(keyword[:_QUOTED]), decode(rest[0].strip()) if rest else ""


def _join(
    buffer: np.ndarray, starts: np.ndarray, ends: np.ndarray, *, lines: np.ndarray
) -> np.ndarray:
    """Joins the bytes of lines; consecutive lines are copied at once."""
    if not len(lines):
        return np.zeros(0, np.uint8)
    breaks = np.flatnonzero(np.diff(lines) != 1)
    begins = starts[np.concatenate([[0], breaks + 1])].tolist()
    stops = ends[np.concatenate([breaks, [len(lines) - 1]])].tolist()
    return np.concatenate([buffer[a:b] for a, b in zip(begins, stops, strict=True)])


def _floats(text: bytes, counts: np.ndarray) -> np.ndarray:
    """Parses numbers separated by white space.

    Args:
      text: the numbers.
      counts: int [lines], numbers on each line; their sum is expected.

    Raises:
      MeshError: a word is not a number.
    """
    expected = int(counts.sum())
    if not expected:
        return np.zeros(0)
    if _is_plain(np.frombuffer(text, np.uint8)):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error", DeprecationWarning)  # for a word that is no number
                values = np.fromstring(text, np.float64, sep=" ")
            if len(values) == expected:
                return values
        except (DeprecationWarning, ValueError):
            pass  # found and named below
    values = np.empty(expected)
    for index, word in enumerate(text.split()):
        try:
            values[index] = float(word)
        except ValueError:
            quoted = decode(word[:_QUOTED])
            if re.fullmatch(rb"[-+]?\d+,\d*", word):
                raise MeshError(
                    f"a number with a decimal comma; expected a decimal point: {quoted!r}"
                ) from None
            raise MeshError(f"a number that cannot be read: {quoted!r}") from None
    return values


def _is_plain(text: np.ndarray) -> bool:
    """Returns False for letters, and for "1-2", which numpy reads as two numbers."""
    if not _IN_NUMBERS[text].all():
        return False
    signs = np.flatnonzero((text == _MINUS) | (text == _PLUS))
    before = text[signs[signs > 0] - 1]
    return bool(((before <= _SPACE) | (before | 32 == ord("e"))).all())


def _corners(text: np.ndarray, expected: int) -> tuple[np.ndarray, np.ndarray]:
    """Parses corners of faces, such as `1`, `1/2`, `1//3` and `1/2/3`.

    Args:
      text: uint8 [bytes], the corners, separated by white space.
      expected: number of corners.

    Returns:
      int64 [corners], index of the vertex, and of the texture coordinates or 0.

    Raises:
      MeshError: a corner cannot be read.
    """
    is_word = text > _SPACE
    edges = np.flatnonzero(is_word[1:] != is_word[:-1]) + 1  # the text starts and ends blank
    starts, ends = edges[::2], edges[1::2]
    is_allowed = _IN_CORNERS[text]
    if not is_allowed.all():
        _raise_for_corner(text, starts, ends, position=int(is_allowed.argmin()))
    slashes = np.flatnonzero(text == _SLASH)
    number = len(slashes) // max(expected, 1)
    table = slashes.reshape(expected, number) if len(slashes) == number * expected else None
    if not number:
        first = second = ends if not len(slashes) else None
    elif table is not None and (table[:, 0] > starts).all() and (table[:, -1] < ends).all():
        first, second = table[:, 0], table[:, 1] if number > 1 else ends
    else:
        first = None
    if first is None:  # corners of different forms
        padded = np.append(slashes, [len(text)] * 2)
        at = np.searchsorted(slashes, starts)
        first, second = np.minimum(padded[at], ends), np.minimum(padded[at + 1], ends)
    vertex = _integers(text, starts, first)
    return vertex, _integers(text, np.minimum(first + 1, second), second)


def _integers(text: np.ndarray, starts: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """Parses integers at [start, end) of a text; an empty one is 0."""
    if not len(starts) or (starts == ends).all():
        return np.zeros(len(starts), np.int64)
    negative = text[starts] == _MINUS
    signed = (negative | (text[starts] == _PLUS)) & (starts < ends)
    begins = starts + signed
    lengths = ends - begins
    digits = int(lengths.max())
    bad = lengths < signed if digits <= _MAX_DIGITS else lengths == digits
    values = np.zeros(len(starts), np.int64)
    if not bad.any():
        for place in range(digits):
            digit = text[np.minimum(begins + place, len(text) - 1)].astype(np.int64) - _ZERO
            inside = place < lengths
            bad |= inside & ((digit < 0) | (digit > 9))
            values = np.where(inside, values * 10 + digit, values)
    if bad.any():
        _raise_for_corner(text, starts, ends, position=int(starts[bad.argmax()]))
    return np.where(negative & signed, -values, values)


def _raise_for_corner(
    text: np.ndarray, starts: np.ndarray, ends: np.ndarray, *, position: int
) -> None:
    row = max(int(np.searchsorted(starts, position, side="right")) - 1, 0)
    word = decode(text[starts[row] : min(ends[row], starts[row] + _QUOTED)].tobytes())
    raise MeshError(f"a corner of a face that cannot be read: {word!r}")
