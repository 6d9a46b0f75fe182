# SPDX-License-Identifier: Apache-2.0
"""Point clouds in PCD files of the Point Cloud Library: ascii, binary and binary_compressed."""

import io
import math
import warnings

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import colouring, lzf

_KINDS = ("ascii", "binary", "binary_compressed")
_FIELDS = ("fields", "columns", "size", "type", "count", "width", "height", "points", "data")
# A header has about eleven lines.
_HEADER_BYTES = 2**16


def read(data: bytes, *, assets: Assets, file_type: str) -> scene.Scene:
    """Reads a point cloud. Fields other than x, y, z and colours are not read.

    Args:
      data: bytes of the file.
      assets: collects the notes.
      file_type: unused.

    Raises:
      scene.MeshError: the file is corrupt, truncated, or has no x, y and z.
      limits.LimitError: there are too many points.
    """
    del file_type
    header, start = _read_header(data)
    fields, count = _layout(header), _point_count(header)
    dtype = np.dtype([item for item in fields])
    kind = header["data"][0].lower() if header["data"] else ""
    if kind not in _KINDS:
        raise scene.MeshError(f"data is {kind!r}; expected one of {', '.join(_KINDS)}")
    limits.ARRAY_BYTES.check(count * dtype.itemsize)
    body = data[start:]
    if kind == "ascii":
        columns = _read_ascii(body, dtype, count=count)
    elif kind == "binary":
        _check_size(len(body), count * dtype.itemsize)
        rows = np.frombuffer(body, dtype, count=count)
        columns = {name: rows[name] for name in dtype.names}
    else:
        columns = _read_compressed(body, dtype, count=count)
    missing = [name for name in "xyz" if name not in columns or columns[name].ndim != 1]
    if missing:
        raise scene.MeshError(f"no field {missing[0]}; expected x, y and z")
    xyz = np.stack([columns[name] for name in "xyz"], axis=1)
    return scene.Scene(points=(scene.Points(xyz, _colours(columns, assets.notes)),))


def _read_header(data: bytes) -> tuple[dict[str, list[str]], int]:
    """Returns the entries of the header by their names in lower case, and the start of the data."""
    header: dict[str, list[str]] = {}
    start = 0
    while "data" not in header:
        end = data.find(b"\n", start, _HEADER_BYTES)
        if end < 0:
            raise scene.MeshError("a header without a line DATA; the file is no PCD or truncated")
        words = data[start:end].decode("ascii", errors="replace").split()
        if words and words[0].lower() in _FIELDS:
            header[words[0].lower()] = words[1:]
        start = end + 1
    return header, start


def _layout(header: dict[str, list[str]]) -> list[tuple]:
    """Returns names, types and counts of the fields, as of a numpy dtype."""
    names = header.get("fields", header.get("columns", []))
    sizes = header.get("size", ["4"] * len(names))
    kinds = header.get("type", ["F"] * len(names))
    counts = header.get("count", ["1"] * len(names))
    if not names or not len(names) == len(sizes) == len(kinds) == len(counts):
        raise scene.MeshError("a header whose FIELDS, SIZE, TYPE and COUNT differ in length")
    fields, used = [], set()
    for index, (name, size, kind, count) in enumerate(
        zip(names, sizes, kinds, counts, strict=True)
    ):
        code = f"<{kind.lower()}{size}"
        if code not in ("<f4", "<f8", *(f"<{k}{n}" for k in "iu" for n in (1, 2, 4, 8))):
            raise scene.MeshError(f"a field of type {kind} and size {size}")
        if not count.isdigit() or int(count) > 10_000:
            raise scene.MeshError(f"a field of {count} values")
        # Padding is named _, several times.
        name = name.lower()
        unique = f"{name} {index}" if name in used or name == "_" else name
        used.add(unique)
        fields.append((unique, code) if int(count) == 1 else (unique, code, (int(count),)))
    return fields


def _point_count(header: dict[str, list[str]]) -> int:
    """Returns the number of points, checked."""
    try:
        size = [int(header[name][0]) for name in ("width", "height") if name in header]
        count = int(header["points"][0]) if "points" in header else math.prod(size)
    except (IndexError, ValueError) as error:
        raise scene.MeshError("WIDTH, HEIGHT or POINTS is not a number") from error
    if count < 1:
        raise scene.MeshError("no points")
    limits.POINTS.check(count)
    return count


def _check_size(found: int, expected: int) -> None:
    """Checks that no data is missing."""
    if found < expected:
        raise scene.MeshError(f"truncated; {expected} bytes expected, {found} found")


def _read_ascii(body: bytes, dtype: np.dtype, *, count: int) -> dict[str, np.ndarray]:
    """Reads rows of numbers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # no rows
        try:
            # Text, in order that large integers, such as rgba, are not rounded to float32.
            table = np.loadtxt(
                io.BytesIO(body), ndmin=2, comments=None, dtype=np.float64, max_rows=count
            )
        except ValueError as error:
            raise scene.MeshError("rows that are not numbers of one length") from error
    if len(table) < count:
        raise scene.MeshError(f"truncated; {count} points expected, {len(table)} found")
    widths = [math.prod(dtype[name].shape) for name in dtype.names]
    if table.shape[1] != sum(widths):
        raise scene.MeshError(f"rows of {table.shape[1]} numbers; expected {sum(widths)}")
    columns, first = {}, 0
    with np.errstate(invalid="ignore", over="ignore"):
        for name, width in zip(dtype.names, widths, strict=True):
            if width == 1:
                columns[name] = table[:, first].astype(dtype[name].base)
            first += width
    return columns


def _read_compressed(body: bytes, dtype: np.dtype, *, count: int) -> dict[str, np.ndarray]:
    """Reads LZF-compressed data, in which the values of a field follow each other."""
    _check_size(len(body), 8)
    compressed, size = (int(number) for number in np.frombuffer(body, "<u4", count=2))
    _check_size(len(body) - 8, compressed)
    _check_size(size, count * dtype.itemsize)
    limits.ARRAY_BYTES.check(size)
    plain = lzf.decompress(body[8 : 8 + compressed], size=size)
    columns, first = {}, 0
    for name in dtype.names:
        field = dtype[name]
        end = first + field.itemsize * count
        if not field.shape:
            columns[name] = np.frombuffer(plain[first:end], field)
        first = end
    return columns


def _colours(columns: dict[str, np.ndarray], notes: list[str]) -> np.ndarray | None:
    """Returns the colours: packed into 32 bits (0xAARRGGBB), or in three fields."""
    for name in ("rgb", "rgba"):
        packed = columns.get(name)
        if packed is not None and packed.itemsize == 4 and packed.ndim == 1:
            bits = np.ascontiguousarray(packed).view(np.uint32)
            return np.stack([bits >> 16 & 255, bits >> 8 & 255, bits & 255], 1).astype(np.uint8)
    for names in (("r", "g", "b"), ("red", "green", "blue")):
        channels = [columns[name] for name in names if name in columns]
        if len(channels) == 3 and all(channel.ndim == 1 for channel in channels):
            return colouring.to_unit(
                np.stack(channels, axis=1), code=channels[0].dtype.str[1:], notes=notes
            )
    return None
