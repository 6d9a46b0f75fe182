# SPDX-License-Identifier: Apache-2.0
"""Index of shape embeddings on disk, with the data to display each shape.

An index is a folder with `index.json`, `rows.npy`, `shapes.jsonl`, `xyz.npy`, `rgb.npy` and
`pictures/`, and a faiss file if it was built with `--ann`. The arrays are memory-mapped, so opening
an index takes the same time at any size. The folder is self-contained and can be moved. An index in
a bucket is copied to this machine when it is opened.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.geometry import formats
from mrd_jax import atomic_io, storage, transfer
from mrd_jax.checkpoints import model_card
from mrd_jax.search import nearest

FORMAT = 1
INFO_FILE, SHAPES_FILE, PICTURES = "index.json", "shapes.jsonl", "pictures"
# dtypes of float16 [shapes, dim], int16 [shapes, points, 3] and uint8 [shapes, points, 3].
ARRAYS = {"rows": "<f2", "xyz": "<i2", "rgb": "|u1"}
# Quantisation steps per unit of a coordinate; WebGL reads normalised int16 as -1 to 1.
STEPS = 32_767
# float16 has a relative precision of 2^-11 per component of a row.
_NORM_TOLERANCE = 1e-3


class IndexMismatchError(ValueError):
    """The encoder or teacher is not the one that the index was built with."""


class CorruptIndexError(ValueError):
    """The folder is not a readable index."""


@dataclasses.dataclass(frozen=True)
class Teacher:
    """Teacher that embeds the text and pictures of queries.

    Attributes:
      name: name on the encoder's model card.
      revision: revision of its weights; "" if the data set does not record it.
      place: hub name, or folder relative to the index; "" if unknown.
    """

    name: str
    revision: str = ""
    place: str = ""


@dataclasses.dataclass(frozen=True)
class Item:
    """Metadata of a shape.

    Attributes:
      id: unique in the index.
      name: name of the shape, or "".
      creator: author of the shape, or "".
      licence: licence of the shape, or "".
      picture: file name in the index's folder of pictures.

    Raises:
      ValueError: `picture` is a path to another folder.
    """

    id: str
    name: str
    creator: str
    licence: str
    picture: str

    def __post_init__(self):
        if Path(self.picture).name != self.picture:
            raise ValueError(f"picture is {self.picture!r}; expected a file name without a folder")

    @property
    def title(self) -> str:
        """Returns the name, or the id of a shape without a name."""
        return self.name or self.id


@dataclasses.dataclass(frozen=True)
class Entry:
    """A shape to write into an index.

    Attributes:
      item: metadata.
      row: embedding [dim], unit norm.
      xyz: [points, 3], -1 to 1.
      rgb: uint8 [points, 3].
      picture: JPEG bytes.
    """

    item: Item
    row: np.ndarray
    xyz: np.ndarray
    rgb: np.ndarray
    picture: bytes


@dataclasses.dataclass(frozen=True)
class ShapeIndex:
    """An open index.

    Attributes:
      folder: folder of the index.
      card: model card of the encoder that embedded the shapes.
      checkpoint: fingerprint of that encoder, see `mrd_jax.checkpoints.fingerprinting`.
      teacher: teacher whose embedding space the rows share.
      reader_version: version of the readers of the files that were embedded, see
        `data_prep.geometry.formats`; None for published point clouds.
      items: metadata, one per shape.
      rows: float16 [shapes, dim] embeddings, unit norm, memory-mapped.
      xyz: int16 [shapes, points, 3] coordinates, `STEPS` per unit, memory-mapped.
      rgb: uint8 [shapes, points, 3] colours, memory-mapped.
    """

    folder: Path
    card: model_card.ModelCard
    checkpoint: str
    teacher: Teacher
    reader_version: int | None
    items: tuple[Item, ...]
    rows: np.ndarray
    xyz: np.ndarray
    rgb: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    def picture_path(self, number: int) -> Path:
        """Returns the path of the picture of a shape.

        Args:
          number: row of the shape in the index.
        """
        return self.folder / PICTURES / self.items[number].picture

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
    entries: Iterable[Entry],
    *,
    count: int,
    points: int,
    card: model_card.ModelCard,
    checkpoint: str,
    teacher: Teacher,
    reader_version: int | None = formats.READER_VERSION,
    ann: bool = False,
) -> None:
    """Writes an index atomically, one shape at a time.

    Args:
      folder: folder to create.
      entries: the shapes.
      count: number of shapes.
      points: number of points per shape.
      card: model card of the encoder.
      checkpoint: fingerprint of the encoder, see `mrd_jax.checkpoints.fingerprinting`.
      teacher: teacher whose embedding space the rows share.
      reader_version: version of the readers of the embedded files; None for published points.
      ann: also write the file for approximate search.

    Raises:
      FileExistsError: the folder exists.
      ValueError: an id is not unique, a row does not have unit norm, or the number of entries is
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
    sizes = {
        "rows": (count, card.teacher_dim),
        "xyz": (count, points, 3),
        "rgb": (count, points, 3),
    }
    with atomic_io.replacing(target, last=INFO_FILE) as temporary:
        staging = Path(temporary)
        (staging / PICTURES).mkdir(parents=True)
        arrays = {
            name: np.lib.format.open_memmap(
                staging / f"{name}.npy", "w+", dtype=dtype, shape=sizes[name]
            )
            for name, dtype in ARRAYS.items()
        }
        with (staging / SHAPES_FILE).open("w", encoding="utf-8") as lines:
            _write_entries(arrays, entries, lines, pictures=staging / PICTURES)
        for array in arrays.values():
            array.flush()
        if ann:
            nearest.write_ann(arrays["rows"], staging / nearest.ANN_FILE)
        info = {
            "format": FORMAT,
            "shapes": count,
            "checkpoint": checkpoint,
            "teacher": dataclasses.asdict(teacher),
            "reader_version": reader_version,
            "card": card.as_dict(),
        }
        (staging / INFO_FILE).write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")


def _write_entries(
    arrays: Mapping[str, np.ndarray], entries: Iterable[Entry], lines: Any, *, pictures: Path
) -> None:
    """Writes each entry into the arrays, the metadata file and the folder of pictures."""
    count, ids = len(arrays["rows"]), set()
    for number, entry in enumerate(entries):
        item = entry.item
        norm = float(np.linalg.norm(np.asarray(entry.row, np.float64)))
        if item.id in ids:
            raise ValueError(f"shape {item.id!r} occurs twice; expected unique ids")
        if number >= count:
            raise ValueError(f"more than {count} shapes; expected {count}")
        if not abs(norm - 1) < _NORM_TOLERANCE:
            raise ValueError(f"the embedding of shape {item.id!r} has norm {norm:g}; expected 1")
        ids.add(item.id)
        arrays["rows"][number] = entry.row
        arrays["xyz"][number] = np.rint(np.clip(entry.xyz, -1, 1) * np.float64(STEPS))
        arrays["rgb"][number] = entry.rgb
        (pictures / item.picture).write_bytes(entry.picture)
        lines.write(json.dumps(dataclasses.asdict(item), ensure_ascii=False) + "\n")
    if len(ids) != count:
        raise ValueError(f"{len(ids)} shapes; expected {count}")


def read(folder: storage.PathLike) -> ShapeIndex:
    """Opens an index.

    Args:
      folder: folder that `write` created.

    Raises:
      FileNotFoundError: the folder has no index.
      CorruptIndexError: a file is missing or corrupt, or has another format version.
    """
    if not (storage.path(folder) / INFO_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} is not an index: it has no {INFO_FILE}. Build one with "
            "python -m mrd_jax.tools.search build"
        )
    folder = transfer.local_copy(storage.path(folder))
    try:
        info = json.loads((folder / INFO_FILE).read_text("utf-8"))
        if info["format"] != FORMAT:
            raise ValueError(f"format {info['format']}, expected {FORMAT}")
        with (folder / SHAPES_FILE).open(encoding="utf-8") as lines:
            items = tuple(Item(**json.loads(line)) for line in lines)
        arrays = {name: _map_array(folder / f"{name}.npy", dtype) for name, dtype in ARRAYS.items()}
        lengths = {len(items), info["shapes"], *map(len, arrays.values())}
        if len(lengths) != 1:
            raise ValueError(f"its files have different numbers of shapes: {sorted(lengths)}")
        card, teacher = model_card.from_dict(info["card"]), Teacher(**info["teacher"])
        return ShapeIndex(
            folder,
            card,
            info["checkpoint"],
            teacher,
            # Absent from indexes that were written before the version was recorded.
            info.get("reader_version", 1),
            items,
            **arrays,
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CorruptIndexError(
            f"the index {folder} is corrupt ({error}); build it again"
        ) from error


def _map_array(path: Path, dtype: str) -> np.ndarray:
    """Memory-maps an array file and checks its dtype."""
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != np.dtype(dtype):
        raise ValueError(f"{path.name} is {array.dtype}, expected {np.dtype(dtype)}")
    return array
