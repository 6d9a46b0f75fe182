# SPDX-License-Identifier: Apache-2.0
"""Index of shape embeddings on disk, with the data to display each shape.

An index is a folder with `index.json`, which lists its segments (`mrd_jax.search.manifest`), and
the segments (`mrd_jax.search.segments`). Segments are never changed: shapes are added in new ones,
and lists of removed shapes lie beside the old ones. So an index that is open stays as it is while
`mrd_jax.search.index_writer` changes the folder. Everything is memory-mapped. The folder is
self-contained and can be moved. An index in a bucket is copied to this machine when it is opened.
"""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.geometry import formats
from mrd_jax import atomic_io, storage, transfer
from mrd_jax.checkpoints import model_card
from mrd_jax.search import live_shapes, manifest, nearest, segment_writer, segments
from mrd_jax.search.entries import (
    STEPS,
    CorruptIndexError,
    Entry,
    IndexMismatchError,
    Item,
    Teacher,
    key_of,
)

__all__ = [
    "CorruptIndexError",
    "Entry",
    "IndexMismatchError",
    "Item",
    "STEPS",
    "ShapeIndex",
    "Teacher",
    "read",
    "write",
]

# Attempts to open an index that another process changes at the same time.
_TRIES = 5


@dataclasses.dataclass(frozen=True)
class ShapeIndex:
    """An open index; it does not change when the folder does.

    Shapes are numbered from 0. Their numbers change from version to version; `Item.id` and
    `Item.key` do not.

    Attributes:
      folder: folder of the index.
      card: model card of the encoder that embedded the shapes.
      checkpoint: fingerprint of that encoder, see `mrd_jax.checkpoints.fingerprinting`.
      teacher: teacher whose embedding space the rows share.
      reader_version: version of the readers of the files that were embedded, see
        `data_prep.geometry.formats`; None for published point clouds.
      version: number of changes since the index was created.
      layout: segments and their shapes.
      items: metadata, one per shape; read from the disk when accessed.
      rows: float16 [shapes, dim] embeddings, unit norm. Like the following, an array whose rows
        are read from the disk when accessed, see `live_shapes.Column`.
      xyz: int16 [shapes, points, 3] coordinates, `STEPS` per unit.
      rgb: uint8 [shapes, points, 3] colours.
    """

    folder: Path
    card: model_card.ModelCard
    checkpoint: str
    teacher: Teacher
    reader_version: int | None
    version: int
    layout: live_shapes.Layout
    items: live_shapes.Items
    rows: live_shapes.Column
    xyz: live_shapes.Column
    rgb: live_shapes.Column

    def __len__(self) -> int:
        return len(self.items)

    def number(self, key: str) -> int:
        """Returns the number of a shape.

        Args:
          key: `Item.key`, 16 hexadecimal digits.

        Raises:
          KeyError: there is no such shape.
        """
        try:
            wanted = int(key, 16) if len(key) == 16 else -1
        except ValueError:
            wanted = -1
        for first, part in zip(self.layout.starts.tolist(), self.layout.parts, strict=False):
            local = np.flatnonzero(part.segment.keys == wanted) if wanted >= 0 else ()
            for number in np.setdiff1d(local, part.removed).tolist():
                return first + int(np.searchsorted(part.live, number))
        raise KeyError(key)

    def picture(self, number: int) -> bytes:
        """Returns the picture of a shape, JPEG bytes.

        Args:
          number: row of the shape in the index.
        """
        segment, local = self.layout.locate(number)
        return segment.picture(local)

    def picture_path(self, number: int) -> Path:
        """Returns the path of the picture of a shape, as `mrd_jax.data.picture_files` reads it.

        Args:
          number: row of the shape in the index.
        """
        segment, local = self.layout.locate(number)
        return segment.picture_path(local)

    def mesh_size(self, number: int) -> int:
        """Returns the bytes of the reduced mesh of a shape, 0 if it has none."""
        segment, local = self.layout.locate(number)
        return segment.mesh_size(local)

    def mesh(self, number: int) -> bytes:
        """Returns the reduced mesh of a shape, a glb file; b"" if it has none.

        Args:
          number: row of the shape in the index.
        """
        segment, local = self.layout.locate(number)
        return segment.mesh(local)

    def reader_note(self) -> str:
        """Returns a note if other readers than today's read the shapes of the index, else ""."""
        if self.reader_version in (None, formats.READER_VERSION):
            return ""
        return (
            f"the shapes of {self.folder} were read by version {self.reader_version} of the "
            f"readers of files, and queries are read by version {formats.READER_VERSION}: points "
            "and colours of one file may differ. Build the index again to compare like with like"
        )

    def check_encoder(self, checkpoint: str) -> None:
        """Checks that an encoder is the one that the index was built with.

        Args:
          checkpoint: fingerprint of the encoder.

        Raises:
          IndexMismatchError: it is another encoder, or another step of the same run.
        """
        if checkpoint != self.checkpoint:
            raise IndexMismatchError(
                f"{self.folder} was built with the encoder {self.checkpoint[:12]}, but that of "
                f"--checkpoint is {checkpoint[:12]}: another encoder, or a later step of the run. "
                "Pass the checkpoint that the index was built with, or build the index again"
            )

    def check_teacher(self, info: Any) -> None:
        """Checks that a teacher shares the embedding space of the index.

        A local copy of a model of the hub is named by its folder: "owner/name" equals "name".

        Args:
          info: name, revision and dim of the teacher, a `data_prep.teachers.TeacherInfo`.

        Raises:
          IndexMismatchError: a field differs; the message has both values.
        """
        expected: dict[str, object] = {"dim": self.card.teacher_dim}
        expected |= {"name": self.teacher.name} if self.teacher.name else {}
        expected |= {"revision": self.teacher.revision} if self.teacher.revision else {}
        for field, value in expected.items():
            found = getattr(info, field)
            is_copy = field == "name" and "/" not in found and found == Path(str(value)).name
            if found != value and not is_copy:
                raise IndexMismatchError(
                    f"{self.folder} was built for a teacher with {field} = {value!r}, but that of "
                    f"--teacher has {field} = {found!r}. Pass the teacher that the encoder was "
                    "trained with (a folder is named like the model that it holds), or build the "
                    "index again"
                )


def write(
    folder: storage.PathLike,
    shapes: Iterable[Entry],
    *,
    count: int,
    points: int,
    card: model_card.ModelCard,
    checkpoint: str,
    teacher: Teacher,
    reader_version: int | None = formats.READER_VERSION,
    encoder: str = "",
    mesh_faces: int = manifest.MESH_FACES,
    ann: bool = False,
) -> None:
    """Writes an index atomically, one shape at a time.

    Args:
      folder: folder to create.
      shapes: the shapes.
      count: number of shapes.
      points: number of points per shape.
      card: model card of the encoder.
      checkpoint: fingerprint of the encoder, see `mrd_jax.checkpoints.fingerprinting`.
      teacher: teacher whose embedding space the rows share.
      reader_version: version of the readers of the embedded files; None for published points.
      encoder: folder of the encoder, relative to the index, or its name on the Hub; "" if unknown.
      mesh_faces: largest number of faces of the meshes of shapes that are added later.
      ann: also write the file for approximate search.

    Raises:
      FileExistsError: the folder exists.
      ValueError: an id is not unique, a row does not have unit norm, or the number of shapes is
        not `count`.
      nearest.AnnUnsupportedError: `ann` is set and faiss is not installed.
    """
    target = storage.path(folder)
    if target.exists():
        raise FileExistsError(f"{folder} exists; choose another folder or remove it first")
    if not count:
        raise ValueError("the index would be empty: there are no shapes")
    if ann:
        nearest.check_ann(count)
    name = "000001"
    with atomic_io.replacing(target, last=manifest.INFO_FILE) as staging:
        place = Path(staging) / manifest.SEGMENTS / name
        place.parent.mkdir(parents=True)
        writer = segment_writer.SegmentWriter(
            place, dim=card.teacher_dim, points=points, info={"checkpoint": checkpoint}
        )
        with writer:
            _write_entries(writer, shapes, count=count)
        listed = manifest.Listed(name, count, recall=nearest.write_ann_of(place) if ann else None)
        content = manifest.Manifest(
            card,
            checkpoint,
            teacher,
            reader_version,
            points,
            ann=ann,
            encoder=encoder,
            mesh_faces=mesh_faces,
            segments=(listed,),
        )
        manifest.write(staging, content)


def _write_entries(
    writer: segment_writer.SegmentWriter, shapes: Iterable[Entry], *, count: int
) -> None:
    """Writes a known number of shapes with unique ids."""
    keys: set[int] = set()
    for entry in shapes:
        if (key := key_of(entry.item.id)) in keys:
            raise ValueError(f"shape {entry.item.id!r} occurs twice; expected unique ids")
        if len(keys) >= count:
            raise ValueError(f"more than {count} shapes; expected {count}")
        keys.add(key)
        writer.add(entry)
    if len(keys) != count:
        raise ValueError(f"{len(keys)} shapes; expected {count}")


def read(folder: storage.PathLike) -> ShapeIndex:
    """Opens an index.

    Args:
      folder: folder that `write` created, in this version or an earlier one.

    Raises:
      FileNotFoundError: the folder has no index.
      CorruptIndexError: a file is missing or corrupt, or has another format version.
    """
    manifest.read(folder)
    local = transfer.local_copy(storage.path(folder))
    for attempt in range(_TRIES):
        found = manifest.read(local)
        try:
            return _open(local, found)
        except (OSError, ValueError, TypeError, KeyError) as error:
            # Another process may have removed segments since the manifest was read.
            is_changed = manifest.read(local).version != found.version
            if not (isinstance(error, FileNotFoundError) and is_changed and attempt < _TRIES - 1):
                raise CorruptIndexError(
                    f"the index {local} is corrupt ({error}); build it again"
                ) from error
    raise AssertionError("the last attempt returns or raises")


def _open(folder: Path, found: manifest.Manifest) -> ShapeIndex:
    """Opens the segments that a manifest lists."""
    layout = live_shapes.Layout(open_parts(folder, found))
    points = found.points or layout.parts[0].segment.xyz.shape[1]
    shapes = {"rows": (found.card.teacher_dim,), "xyz": (points, 3), "rgb": (points, 3)}
    for part in layout.parts:
        for name, shape in shapes.items():
            array = getattr(part.segment, name)
            if array.shape[1:] != shape:
                raise ValueError(f"{name} is {list(array.shape)}, expected rows of {list(shape)}")
    return ShapeIndex(
        folder,
        found.card,
        found.checkpoint,
        found.teacher,
        found.reader_version,
        found.version,
        layout,
        live_shapes.Items(layout),
        **{name: live_shapes.Column(layout, name, shape=shape) for name, shape in shapes.items()},
    )


def open_parts(folder: Path, found: manifest.Manifest) -> list[live_shapes.Part]:
    """Opens the segments that a manifest lists, with their removed shapes.

    Args:
      folder: folder of the index.
      found: its manifest.

    Raises:
      OSError, ValueError, TypeError: a file is missing or corrupt.
    """
    nothing = np.zeros(0, np.int64)
    if found.format == 1:
        return [live_shapes.Part(segments.read_format_1(folder), "", nothing)]
    parts = []
    for listed in found.segments:
        place = folder / manifest.SEGMENTS / listed.name
        segment = segments.read(place)
        if len(segment) != listed.shapes:
            raise ValueError(f"{place} has {len(segment)} shapes, expected {listed.shapes}")
        removed = segments.map_array(place / listed.removed, "<i8") if listed.removed else nothing
        parts.append(live_shapes.Part(segment, listed.name, removed))
    return parts
