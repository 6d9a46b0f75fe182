# SPDX-License-Identifier: Apache-2.0
"""Body of a PLY file: a table per element, with columns of numbers and of lists."""

import array
import dataclasses
import struct

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import file_checks
from data_prep.geometry.readers import text_numbers
from data_prep.geometry.readers.ply_header import Element, Header, Property
from data_prep.geometry.scene import MeshError

DATA_IGNORED = "data that the header does not declare, ignored"
# Codes of numpy -> of struct.
_STRUCT = {"i1": "b", "u1": "B", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q"}
_STRUCT |= {"f8": "d"}


@dataclasses.dataclass(frozen=True)
class Lists:
    """Column of lists.

    Attributes:
      values: items of all lists, one list after the other.
      counts: int64 [rows], items of each list.
    """

    values: np.ndarray
    counts: np.ndarray


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of an element; of equal names, the first one counts.

    Attributes:
      element: the element.
      columns: name -> [rows], of the type of the file; float64 in text files.
      lists: name -> lists.
    """

    element: Element
    columns: dict[str, np.ndarray]
    lists: dict[str, Lists]


def read(data: bytes, header: Header, *, wanted: set[str], notes: list[str]) -> dict[str, Table]:
    """Reads elements of a file.

    Args:
      data: bytes of the file.
      header: its header.
      wanted: names of elements. What follows the last one is not looked at.
      notes: list to which DATA_IGNORED may be appended.

    Returns:
      Tables by name; of equal names, the first one counts.

    Raises:
      MeshError: the file is truncated, or has a word where a number is expected.
    """
    last = max((i for i, item in enumerate(header.elements) if item.name in wanted), default=-1)
    elements = header.elements[: last + 1]
    is_whole = len(elements) == len(header.elements)
    if header.order:
        tables, end = _read_tables(memoryview(data), elements, header.body, order=header.order)
        if is_whole and end < len(data) and data[end : end + 256].strip():
            notes.append(DATA_IGNORED)
        return tables
    text = data[header.body :]
    cleaned = text_numbers.clean(text)
    try:
        values = text_numbers.parse(cleaned)
        tables, end = _read_numbers(values, elements)
        if end == len(values) or not is_whole:
            return tables
        aligned = _declared_words(cleaned, elements)
    except MeshError:
        # A line may have words behind its numbers, and more numbers than the header declares.
        aligned = _declared_words(cleaned, elements)
        if aligned is None:
            raise
    notes.append(DATA_IGNORED)
    if aligned is not None:
        tables, _ = _read_numbers(text_numbers.parse(aligned), elements)
    return tables


def _read_numbers(values: np.ndarray, elements: list[Element]) -> tuple[dict[str, Table], int]:
    """Reads the numbers of a text file as a binary file of float64."""
    as_floats = [
        Element(
            element.name,
            element.count,
            [Property(p.name, "f8", p.count_type and "f8") for p in element.properties],
        )
        for element in elements
    ]
    tables, end = _read_tables(memoryview(values.view(np.uint8)), as_floats, 0, order="=")
    declared = {element.name: element for element in reversed(elements)}
    tables = {
        name: dataclasses.replace(table, element=declared[name]) for name, table in tables.items()
    }
    return tables, end // 8


def _declared_words(text: bytes, elements: list[Element]) -> bytes | None:
    """Returns the declared words of every line; None if lines are missing or too short."""
    lines = [line for line in text.splitlines() if line.strip()]
    kept, position = [], 0
    for element in elements:
        if not element.properties:
            continue
        rows = lines[position : position + element.count]
        position += element.count
        if len(rows) < element.count:
            return None
        for row in rows:
            words = row.split()
            try:
                count = _row_length(words, element)
            except (ValueError, IndexError):
                return None
            if count > len(words):
                return None
            kept += words[:count]
    return b" ".join(kept)


def _row_length(words: list[bytes], element: Element) -> int:
    """Returns the number of declared words of a line."""
    position = 0
    for item in element.properties:
        if item.count_type:
            count = int(words[position])
            if count < 0:
                raise ValueError(count)
            position += count
        position += 1
    return position


def _read_tables(
    data: memoryview, elements: list[Element], offset: int, *, order: str
) -> tuple[dict[str, Table], int]:
    """Reads elements one after the other; returns their tables and the position behind them."""
    tables: dict[str, Table] = {}
    for element in elements:
        if not element.properties:
            continue
        table, offset = _read_table(data, element, offset, order=order)
        tables.setdefault(element.name, table)
    return tables, offset


def _read_table(
    data: memoryview, element: Element, offset: int, *, order: str
) -> tuple[Table, int]:
    """Reads an element whose rows have lists of equal lengths at once, others row by row."""
    lengths = _first_lengths(data, element, offset, order=order)
    dtype = _row_type(element, lengths, order=order) if lengths is not None else None
    whole = dtype is not None and element.count * dtype.itemsize <= len(data) - offset
    if not element.has_lists and not whole:
        found = (len(data) - offset) // dtype.itemsize
        raise file_checks.truncated(f"{element.name} elements", found, of=element.count)
    if whole:
        rows = np.zeros(0, dtype)  # numpy reads no items from an empty buffer
        if element.count:
            rows = np.frombuffer(data, dtype, element.count, offset)
        if all((rows[f"n{i}"] == n).all() for i, n in (lengths or {}).items()):
            return _table(element, rows, lengths), offset + rows.nbytes
    return _read_rows(data, element, offset, order=order)


def _first_lengths(
    data: memoryview, element: Element, offset: int, *, order: str
) -> dict[int, int] | None:
    """Returns the lengths of the lists of the first row by property; None if it is incomplete."""
    lengths: dict[int, int] = {}
    if not element.has_lists or not element.count:
        return {i: 0 for i, item in enumerate(element.properties) if item.count_type}
    for i, item in enumerate(element.properties):
        if item.count_type:
            try:
                (count,) = struct.unpack_from(order + _STRUCT[item.count_type], data, offset)
                lengths[i] = _checked_length(count, element)
            except struct.error:
                return None
            offset += int(item.count_type[1])
        offset += lengths.get(i, 1) * int(item.type[1])
        if offset > len(data):
            return None
    return lengths


def _checked_length(count: float, element: Element) -> int:
    """Returns the length of a list. MeshError if it is no natural number."""
    if not 0 <= count < 2**31 or count != int(count):
        raise MeshError(
            f"malformed PLY: a list of element {element.name} has no natural number as its length"
        )
    return int(count)


def _row_type(element: Element, lengths: dict[int, int], *, order: str) -> np.dtype:
    """Returns the type of a row: field "v3" is property 3, and "n3" the length of its list."""
    fields = []
    for i, item in enumerate(element.properties):
        if item.count_type:
            fields.append((f"n{i}", order + item.count_type))
            fields.append((f"v{i}", order + item.type, (lengths[i],)))
        else:
            fields.append((f"v{i}", order + item.type))
    return np.dtype(fields)


def _table(element: Element, rows: np.ndarray, lengths: dict[int, int]) -> Table:
    columns, lists = {}, {}
    for i, item in enumerate(element.properties):
        if item.count_type:
            counts = np.full(len(rows), lengths[i], np.int64)
            lists.setdefault(item.name, Lists(rows[f"v{i}"].reshape(-1), counts))
        else:
            columns.setdefault(item.name, rows[f"v{i}"])
    return Table(element, columns, lists)


def _read_rows(data: memoryview, element: Element, offset: int, *, order: str) -> tuple[Table, int]:
    """Reads an element whose lists have different lengths."""
    limits.FACES.check(element.count)
    steps, gap = [], 0  # (bytes before the length of a list, its unpacker, its size, item size)
    for item in element.properties:
        if item.count_type:
            unpack = struct.Struct(order + _STRUCT[item.count_type]).unpack_from
            steps.append((gap, unpack, int(item.count_type[1]), int(item.type[1])))
            gap = 0
        else:
            gap += int(item.type[1])
    begin, tail = offset, gap
    starts, counts = array.array("q"), array.array("q")
    for row in range(element.count):
        try:
            for before, unpack, width, size in steps:
                (count,) = unpack(data, offset + before)
                if not (count.__class__ is int and count >= 0):
                    count = _checked_length(count, element)
                offset += before + width
                starts.append(offset)
                counts.append(count)
                offset += count * size
            offset += tail
        except struct.error:
            offset = len(data) + 1
        if offset > len(data):
            raise file_checks.truncated(f"{element.name} elements", row, of=element.count)
    shape = (element.count, len(steps))
    table = _gather(
        np.frombuffer(data, np.uint8),
        element,
        np.array(starts).reshape(shape),
        np.array(counts).reshape(shape),
        begin=begin,
        order=order,
    )
    return table, offset


def _gather(
    data: np.ndarray,
    element: Element,
    starts: np.ndarray,
    counts: np.ndarray,
    *,
    begin: int,
    order: str,
) -> Table:
    """Collects the columns of rows of different lengths.

    Args:
      data: uint8, bytes of the file.
      element: the element.
      starts: int [rows, lists], position of the first item of every list.
      counts: int [rows, lists], items of every list.
      begin: position of the first row.
      order: byte order of numpy.
    """
    columns, lists, number = {}, {}, 0
    properties = element.properties
    tail = 0
    for item in reversed(properties):
        if item.count_type:
            last = starts.shape[1] - 1
            ends = starts[:, last] + counts[:, last] * int(item.type[1])
            break
        tail += int(item.type[1])
    position = np.concatenate([[begin], ends[:-1] + tail])
    for item in properties:
        size = int(item.type[1])
        if item.count_type:
            first, many = starts[:, number], counts[:, number]
            within = np.arange(int(many.sum())) - np.repeat(np.cumsum(many) - many, many)
            at = np.repeat(first, many) + within * size
            values = _items(data, at, order + item.type)
            lists.setdefault(item.name, Lists(values, many))
            position = first + many * size
            number += 1
        else:
            columns.setdefault(item.name, _items(data, position, order + item.type))
            position = position + size
    return Table(element, columns, lists)


def _items(data: np.ndarray, at: np.ndarray, dtype: str) -> np.ndarray:
    """Returns the items at some byte positions."""
    size = np.dtype(dtype).itemsize
    return data[at[:, None] + np.arange(size)].view(dtype)[:, 0]
