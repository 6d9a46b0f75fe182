# SPDX-License-Identifier: Apache-2.0
"""Writes a segment shape by shape, with memory that does not grow with its size."""

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from mrd_jax import atomic_io
from mrd_jax.data import picture_files
from mrd_jax.search import entries, segments

# Shapes that are copied from another segment at a time.
_BLOCK = 1_024
_DTYPES = segments.ARRAYS | segments.TABLES | segments.MESH_TABLE


class SegmentWriter:
    """A context manager; the segment appears when the block succeeds, and never in part.

    Args:
      folder: folder of the segment, must not exist.
      dim: length of a row.
      points: number of points per shape.
      info: what `segment.json` says besides the number of shapes.
    """

    def __init__(self, folder: Path, *, dim: int, points: int, info: Mapping[str, Any]):
        self._target = folder
        self._shapes = {"rows": (dim,), "xyz": (points, 3), "rgb": (points, 3)}
        self._shapes |= {"lines": (), "keys": (), "pictures": (2,), "meshes": (2,)}
        self._info = dict(info)
        self._count = self._position = self._mesh_position = 0
        self._archive: picture_files.Writer | None = None

    def __enter__(self) -> "SegmentWriter":
        with contextlib.ExitStack() as stack:
            self._folder = Path(stack.enter_context(atomic_io.replacing(self._target)))
            self._folder.mkdir(parents=True)
            self._arrays = {name: self._create(stack, name) for name in self._shapes}
            self._text = stack.enter_context((self._folder / segments.SHAPES_FILE).open("wb"))
            self._meshes = stack.enter_context((self._folder / segments.MESHES_FILE).open("wb"))
            stack.callback(self._close_archive)
            self._write("lines", np.zeros(1))
            stack.push(self._finish)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exception: Any) -> None:
        self._stack.__exit__(*exception)

    def _create(self, stack: contextlib.ExitStack, name: str) -> BinaryIO:
        file = stack.enter_context((self._folder / f"{name}.npy").open("wb"))
        self._write_header(file, name, count=0)
        return file

    def _write_header(self, file: BinaryIO, name: str, *, count: int) -> None:
        """Writes the header of an array; numpy reserves space for any number of rows."""
        dtype = _DTYPES[name]
        header = {"descr": dtype, "fortran_order": False, "shape": (count, *self._shapes[name])}
        np.lib.format.write_array_header_1_0(file, header)

    def _write(self, name: str, values: Any) -> None:
        dtype = _DTYPES[name]
        self._arrays[name].write(np.ascontiguousarray(values, dtype).tobytes())

    def __len__(self) -> int:
        return self._count

    def add(self, entry: entries.Entry) -> None:
        """Adds a shape.

        Raises:
          ValueError: its arrays have other shapes, or its row does not have unit norm.
        """
        entry.check(dim=self._shapes["rows"][0], points=self._shapes["xyz"][0])
        self._write("rows", entry.row)
        self._write("xyz", np.rint(np.clip(entry.xyz, -1, 1) * np.float64(entries.STEPS)))
        self._write("rgb", entry.rgb)
        line = entry.item.to_json().encode() + b"\n"
        key = entries.key_of(entry.item.id)
        self._add_rest(line, key, picture=entry.picture, mesh=entry.mesh)

    def copy(self, segment: segments.Segment, numbers: np.ndarray) -> None:
        """Adds shapes of another segment, by their numbers in it."""
        for part in segments.blocks(numbers, _BLOCK):
            for name in segments.ARRAYS:
                self._write(name, read_rows(segment.folder / f"{name}.npy", part))
            for number in part.tolist():
                line, key = segment.line(number), int(segment.keys[number])
                picture, mesh = segment.picture(number), segment.mesh(number)
                self._add_rest(line, key, picture=picture, mesh=mesh)

    def _add_rest(self, line: bytes, key: int, *, picture: bytes, mesh: bytes) -> None:
        """Adds what is not in one of `segments.ARRAYS`."""
        line = line.rstrip(b"\n") + b"\n"
        self._text.write(line)
        self._position += len(line)
        self._write("lines", self._position)
        self._write("keys", np.uint64(key))
        if self._count % segments.PICTURES_PER_FILE == 0:
            self._close_archive()
            path = self._folder / segments.zip_name(self._count)
            self._archive = picture_files.Writer(path)
        assert self._archive is not None
        start = self._archive.add(segments.picture_name(key), picture)
        self._write("pictures", (start, len(picture)))
        self._meshes.write(mesh)
        self._write("meshes", (self._mesh_position, len(mesh)))
        self._mesh_position += len(mesh)
        self._count += 1

    def _close_archive(self) -> None:
        if self._archive is not None:
            self._archive.__exit__(None, None, None)
        self._archive = None

    def _finish(self, *exception: Any) -> None:
        if exception[0] is not None:
            return
        if not self._mesh_position:
            (self._folder / segments.MESHES_FILE).unlink()
            (self._folder / "meshes.npy").unlink()
        for name, file in self._arrays.items():
            file.seek(0)
            self._write_header(file, name, count=self._count + (name == "lines"))
        text = json.dumps({"shapes": self._count, **self._info}, indent=1)
        (self._folder / segments.SEGMENT_FILE).write_text(text + "\n", encoding="utf-8")


def read_rows(path: Path, numbers: np.ndarray) -> np.ndarray:
    """Returns rows of an array file by their ascending numbers.

    Reads them instead of mapping them, so that a copy of a large segment does not fill the memory
    of this process with pages of its files.
    """
    with path.open("rb") as file:
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        size = dtype.itemsize * int(np.prod(shape[1:]))
        first, last = int(numbers[0]), int(numbers[-1])
        file.seek(file.tell() + first * size)
        data = file.read((last + 1 - first) * size)
    rows = np.frombuffer(data, dtype).reshape(-1, *shape[1:])
    return rows[numbers - first]
