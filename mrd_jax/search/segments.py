# SPDX-License-Identifier: Apache-2.0
"""Segments of an index: folders that are written once and never changed.

A segment has the arrays `rows.npy`, `xyz.npy` and `rgb.npy`, the metadata in `shapes.jsonl` with
the position of every line in `lines.npy`, the keys of the ids in `keys.npy`, and the pictures in
zip files with their positions in `pictures.npy`. `meshes.bin` has the reduced meshes of those
shapes that have one, one after the other, with their positions in `meshes.npy`. Everything is
mapped into memory when it is opened: that takes the same time at any size, and an open segment
stays readable after its folder has been deleted.
"""

import dataclasses
import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from mrd_jax.search import entries

SHAPES_FILE, SEGMENT_FILE = "shapes.jsonl", "segment.json"
# dtypes of [shapes, dim], [shapes, points, 3] and [shapes, points, 3].
ARRAYS = {"rows": "<f2", "xyz": "<i2", "rgb": "|u1"}
# Start of each line and the end of the last [shapes + 1]; `entries.key_of` each id [shapes]; first
# byte and size of each picture [shapes, 2].
TABLES = {"lines": "<i8", "keys": "<u8", "pictures": "<i8"}
# Reduced meshes, and their table: first byte and size of each [shapes, 2], size 0 for none.
# Segments of earlier versions have neither.
MESHES_FILE, MESH_TABLE = "meshes.bin", {"meshes": "<i8"}
# Pictures per zip file: the list of a zip file that is being written stays in memory.
PICTURES_PER_FILE = 16_384
# Folder of pictures in indexes of format 1.
PICTURES = "pictures"


def zip_name(number: int) -> str:
    """Returns the name of the zip file with the picture of a shape, by its number in a segment."""
    return f"pictures-{number // PICTURES_PER_FILE:05d}.zip"


def picture_name(key: int) -> str:
    """Returns the name of a picture in its zip file; unlike `Item.picture`, it is unique."""
    return f"{key:016x}.jpg"


@dataclasses.dataclass(frozen=True)
class Segment:
    """An open segment; shapes are numbered from 0.

    Attributes:
      folder: folder of the segment.
      rows: float16 [shapes, dim], unit norm, memory-mapped, as are the following.
      xyz: int16 [shapes, points, 3], `entries.STEPS` per unit.
      rgb: uint8 [shapes, points, 3].
      lines: int64 [shapes + 1], positions in `text`.
      keys: uint64 [shapes], see `entries.key_of`.
      pictures: int64 [shapes, 2], first byte and size in the zip file; None in format 1.
      text: metadata, one line of JSON per shape.
      archives: the zip files of pictures; () in format 1.
      meshes: int64 [shapes, 2], first byte and size in `mesh_data`; None if no shape has a mesh.
      mesh_data: the reduced meshes; None if no shape has one.
    """

    folder: Path
    rows: np.ndarray
    xyz: np.ndarray
    rgb: np.ndarray
    lines: np.ndarray
    keys: np.ndarray
    pictures: np.ndarray | None
    text: mmap.mmap
    archives: tuple[mmap.mmap, ...]
    meshes: np.ndarray | None = None
    mesh_data: mmap.mmap | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def line(self, number: int) -> bytes:
        """Returns the metadata of a shape as a line of JSON."""
        return self.text[self.lines[number] : self.lines[number + 1]]

    def item(self, number: int) -> entries.Item:
        """Returns the metadata of a shape."""
        return entries.item_from_json(self.line(number))

    def picture_path(self, number: int) -> Path:
        """Returns the path of a picture as `picture_files.read` takes it."""
        if self.pictures is None:
            return self.folder / PICTURES / self.item(number).picture
        return self.folder / zip_name(number) / picture_name(int(self.keys[number]))

    def picture(self, number: int) -> bytes:
        """Returns the picture of a shape, JPEG bytes."""
        if self.pictures is None:
            return self.picture_path(number).read_bytes()
        start, size = self.pictures[number].tolist()
        return self.archives[number // PICTURES_PER_FILE][start : start + size]

    def mesh_size(self, number: int) -> int:
        """Returns the bytes of the reduced mesh of a shape, 0 if it has none."""
        return 0 if self.meshes is None else int(self.meshes[number, 1])

    def mesh(self, number: int) -> bytes:
        """Returns the reduced mesh of a shape, a glb file; b"" if it has none."""
        if self.meshes is None or self.mesh_data is None:
            return b""
        start, size = self.meshes[number].tolist()
        return self.mesh_data[start : start + size]


def read(folder: Path) -> Segment:
    """Opens a segment.

    Raises:
      FileNotFoundError: the folder, or a file in it, does not exist.
      OSError, ValueError: a file is corrupt.
    """
    arrays = {
        name: map_array(folder / f"{name}.npy", dtype) for name, dtype in (ARRAYS | TABLES).items()
    }
    count = len(arrays["rows"])
    archives = [folder / zip_name(number) for number in range(0, count, PICTURES_PER_FILE)]
    meshes, mesh_data = _read_meshes(folder)
    segment = Segment(
        folder,
        text=_map_file(folder / SHAPES_FILE),
        archives=tuple(map(_map_file, archives)),
        meshes=meshes,
        mesh_data=mesh_data,
        **arrays,
    )
    _check(segment, lines=len(segment.lines) - 1)
    return segment


def _read_meshes(folder: Path) -> tuple[np.ndarray | None, mmap.mmap | None]:
    """Opens the reduced meshes of a segment; (None, None) if it has none.

    Raises:
      OSError, ValueError: a file is missing or corrupt.
    """
    if not (folder / "meshes.npy").exists():
        return None, None
    table = map_array(folder / "meshes.npy", MESH_TABLE["meshes"])
    data = _map_file(folder / MESHES_FILE)
    # Later meshes lie behind earlier ones.
    if len(table) and table[-1].sum() != len(data):
        raise ValueError(f"{MESHES_FILE} has {len(data)} bytes, expected {table[-1].sum()}")
    return table, data


def read_format_1(folder: Path) -> Segment:
    """Opens an index of format 1, whose files lie in the folder of the index itself.

    Raises:
      OSError, ValueError, TypeError: a file is missing or corrupt.
    """
    arrays = {name: map_array(folder / f"{name}.npy", dtype) for name, dtype in ARRAYS.items()}
    text = _map_file(folder / SHAPES_FILE)
    lines, keys = [0], []
    for line in iter(text.readline, b""):
        lines.append(lines[-1] + len(line))
        keys.append(entries.key_of(entries.item_from_json(line).id))
    tables = {"lines": np.array(lines, np.int64), "keys": np.array(keys, np.uint64)}
    segment = Segment(
        folder,
        **arrays,
        **tables,
        pictures=None,
        text=text,
        archives=(),
        meshes=None,
        mesh_data=None,
    )
    _check(segment, lines=len(keys))
    return segment


def _check(segment: Segment, *, lines: int) -> None:
    """Raises ValueError if the files of a segment have different numbers of shapes."""
    arrays = [segment.rows, segment.xyz, segment.rgb, segment.keys]
    arrays += [table for table in (segment.pictures, segment.meshes) if table is not None]
    lengths = {lines, *map(len, arrays)}
    if len(lengths) != 1:
        raise ValueError(f"its files have different numbers of shapes: {sorted(lengths)}")
    if segment.lines[-1] != len(segment.text):
        raise ValueError(
            f"{SHAPES_FILE} has {len(segment.text)} bytes, expected {segment.lines[-1]}"
        )


def map_array(path: Path, dtype: str) -> np.ndarray:
    """Memory-maps an array file and checks its dtype.

    Raises:
      OSError, ValueError: the file is missing, corrupt or has another dtype.
    """
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != np.dtype(dtype):
        raise ValueError(f"{path.name} is {array.dtype}, expected {np.dtype(dtype)}")
    return array


def _map_file(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def blocks(numbers: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Yields consecutive parts of an array of at most `size` elements."""
    for start in range(0, len(numbers), size):
        yield numbers[start : start + size]
