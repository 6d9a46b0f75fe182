# SPDX-License-Identifier: Apache-2.0
"""An index on disk: one unit row a shape, and all that is shown of the shape when it is found.

A folder of `index.json`, `rows.npy`, `shapes.jsonl`, `xyz.npy`, `rgb.npy` and `pictures/`. The
arrays are mapped into memory, not read, so an index opens at once whatever its size. With
`--ann` there is a file of faiss beside them. The folder needs no other file, and can be moved.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax import atomic_io
from mrd_jax.checkpoints import model_card
from mrd_jax.search import nearest

FORMAT = 1
INFO_FILE, SHAPES_FILE, PICTURES = "index.json", "shapes.jsonl", "pictures"
# In turn: float16 [shapes, dim]; int16 [shapes, points, 3]; uint8 [shapes, points, 3].
ARRAYS = {"rows": "<f2", "xyz": "<i2", "rgb": "|u1"}
# Whole numbers per unit of a coordinate: a graphics card reads them as -1 to 1.
STEPS = 32_767
# Half floats are good to 2^-11 of each of the numbers that make up a norm.
_NORM_TOLERANCE = 1e-3


class IndexMismatchError(ValueError):
    """An encoder or teacher that is not the one behind the index."""


class DamagedIndexError(ValueError):
    """A folder that is no index, or a damaged one."""


@dataclasses.dataclass(frozen=True)
class Teacher:
    """The model that embeds the words and pictures one searches with.

    Attributes:
      name: as on the encoder's card.
      revision: of its weights; "" where the data did not say.
      place: hub name or folder, relative to the index; "" where it is not known.
    """

    name: str
    revision: str = ""
    place: str = ""


@dataclasses.dataclass(frozen=True)
class Item:
    """What is written beside a shape.

    Attributes:
      id: unique in the index.
      name: as its maker wrote it, or "".
      creator: who made it, or "".
      licence: under which one may use it, or "".
      picture: file in the index's pictures.

    Raises:
      ValueError: the picture's name leads elsewhere.
    """

    id: str
    name: str
    creator: str
    licence: str
    picture: str

    def __post_init__(self):
        if Path(self.picture).name != self.picture:
            raise ValueError(f"picture {self.picture!r} is no name of a file")

    @property
    def title(self) -> str:
        """The name, or the id of a shape without a name."""
        return self.name or self.id


@dataclasses.dataclass(frozen=True)
class Entry:
    """A shape on its way into an index.

    Attributes:
      item: what is written beside it.
      row: [dim], unit norm.
      xyz: [points, 3] in -1..1.
      rgb: uint8 [points, 3].
      picture: JPEG bytes.
    """

    item: Item
    row: np.ndarray
    xyz: np.ndarray
    rgb: np.ndarray
    picture: bytes


@dataclasses.dataclass(frozen=True)
class Index:
    """An open index.

    Attributes:
      folder: of it.
      card: of the encoder that made the rows.
      checkpoint: hash of that encoder's files, see `mrd_jax.checkpoints.hashes.checkpoint`.
      teacher: whose space the rows are in.
      items: one per shape.
      rows: float16 [shapes, dim], unit norm, mapped.
      xyz: int16 [shapes, points, 3], `STEPS` per unit, mapped.
      rgb: uint8 [shapes, points, 3], mapped.
    """

    folder: Path
    card: model_card.ModelCard
    checkpoint: str
    teacher: Teacher
    items: tuple[Item, ...]
    rows: np.ndarray
    xyz: np.ndarray
    rgb: np.ndarray

    def __len__(self) -> int:
        return len(self.items)

    def picture(self, number: int) -> Path:
        """File of the picture of the shape with this number."""
        return self.folder / PICTURES / self.items[number].picture

    def check_encoder(self, checkpoint: str) -> None:
        """Refuses an encoder other than the one that made the rows.

        Args:
          checkpoint: hash of its files.

        Raises:
          IndexMismatchError: it is another, or the same run at another step.
        """
        if checkpoint != self.checkpoint:
            raise IndexMismatchError(
                f"{self.folder} was made by the encoder with the hash {self.checkpoint[:12]}, but "
                f"that of --checkpoint is {checkpoint[:12]}: it is another encoder, or the run has "
                "gone on since. Pass the checkpoint that made the index, or build it again"
            )

    def check_teacher(self, info: Any) -> None:
        """Refuses a teacher whose features the rows are not compared with.

        Args:
          info: of the teacher: name, revision and dim, see `data_prep.teachers.TeacherInfo`.

        Raises:
          IndexMismatchError: names the field that differs and both values.
        """
        wanted: dict[str, object] = {"dim": self.card.teacher_dim}
        wanted |= {"name": self.teacher.name} if self.teacher.name else {}
        wanted |= {"revision": self.teacher.revision} if self.teacher.revision else {}
        for field, want in wanted.items():
            found = getattr(info, field)
            if found != want:
                raise IndexMismatchError(
                    f"{self.folder} is in the space of a teacher with {field} = {want!r}, but that "
                    f"of --teacher has {found!r}: pass the teacher that the encoder was trained "
                    "with, or build the index again"
                )


def write(
    folder: Path,
    entries: Iterable[Entry],
    *,
    count: int,
    points: int,
    card: model_card.ModelCard,
    checkpoint: str,
    teacher: Teacher,
    ann: bool = False,
) -> None:
    """Writes an index, complete or not at all, one shape after another.

    Args:
      folder: a new one.
      entries: the shapes.
      count: of the shapes.
      points: of a cloud.
      card: of the encoder.
      checkpoint: hash of its files.
      teacher: whose space the rows are in.
      ann: write what approximate search needs, too.

    Raises:
      FileExistsError: the folder is there already.
      ValueError: an id comes twice, a row is not of unit norm, or there are too few shapes.
      nearest.AnnUnsupportedError: faiss is asked for and not installed.
    """
    folder = Path(folder)
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; choose another folder or remove it first")
    if not count:
        raise ValueError("there are no shapes to put into an index")
    if ann:
        nearest.check_ann(count)
    sizes = {
        "rows": (count, card.teacher_dim),
        "xyz": (count, points, 3),
        "rgb": (count, points, 3),
    }
    with atomic_io.replacing(folder) as temporary:
        staging = Path(temporary)
        (staging / PICTURES).mkdir(parents=True)
        arrays = {
            name: np.lib.format.open_memmap(
                staging / f"{name}.npy", "w+", dtype=dtype, shape=sizes[name]
            )
            for name, dtype in ARRAYS.items()
        }
        with (staging / SHAPES_FILE).open("w", encoding="utf-8") as lines:
            _fill(arrays, entries, lines, pictures=staging / PICTURES)
        for array in arrays.values():
            array.flush()
        if ann:
            nearest.write_ann(arrays["rows"], staging / nearest.ANN_FILE)
        info = {
            "format": FORMAT,
            "shapes": count,
            "checkpoint": checkpoint,
            "teacher": dataclasses.asdict(teacher),
            "card": card.as_dict(),
        }
        (staging / INFO_FILE).write_text(json.dumps(info, indent=1) + "\n", encoding="utf-8")


def _fill(
    arrays: Mapping[str, np.ndarray], entries: Iterable[Entry], lines: Any, *, pictures: Path
) -> None:
    """Writes every entry to its place in the arrays, the lines and the pictures."""
    count, seen = len(arrays["rows"]), set()
    for number, entry in enumerate(entries):
        item = entry.item
        norm = float(np.linalg.norm(np.asarray(entry.row, np.float64)))
        if number >= count or item.id in seen:
            raise ValueError(f"shape {item.id!r} comes twice, or after the {count} announced")
        if not abs(norm - 1) < _NORM_TOLERANCE:
            raise ValueError(f"the embedding of shape {item.id!r} has norm {norm:g}; expected 1")
        seen.add(item.id)
        arrays["rows"][number] = entry.row
        arrays["xyz"][number] = np.rint(np.clip(entry.xyz, -1, 1) * np.float64(STEPS))
        arrays["rgb"][number] = entry.rgb
        (pictures / item.picture).write_bytes(entry.picture)
        lines.write(json.dumps(dataclasses.asdict(item), ensure_ascii=False) + "\n")
    if len(seen) != count:
        raise ValueError(f"{len(seen)} shapes came, {count} were announced")


def read(folder: Path | str) -> Index:
    """Opens an index that `write` wrote.

    Raises:
      FileNotFoundError: there is none.
      DamagedIndexError: a file of it is missing or damaged, or of another version.
    """
    folder = Path(folder)
    if not (folder / INFO_FILE).is_file():
        raise FileNotFoundError(
            f"{folder} holds no index, as `python -m mrd_jax.tools.search build` writes it"
        )
    try:
        info = json.loads((folder / INFO_FILE).read_text("utf-8"))
        if info["format"] != FORMAT:
            raise ValueError(f"format {info['format']}, this version reads {FORMAT}")
        with (folder / SHAPES_FILE).open(encoding="utf-8") as lines:
            items = tuple(Item(**json.loads(line)) for line in lines)
        arrays = {name: _mapped(folder / f"{name}.npy", dtype) for name, dtype in ARRAYS.items()}
        lengths = {len(items), info["shapes"], *map(len, arrays.values())}
        if len(lengths) != 1:
            raise ValueError(f"its files are of {sorted(lengths)} shapes")
        card, teacher = model_card.from_dict(info["card"]), Teacher(**info["teacher"])
        return Index(folder, card, info["checkpoint"], teacher, items, **arrays)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise DamagedIndexError(f"{folder} is a damaged index ({error}); build it again") from error


def _mapped(path: Path, dtype: str) -> np.ndarray:
    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.dtype != np.dtype(dtype):
        raise ValueError(f"{path.name} is {array.dtype}, expected {np.dtype(dtype)}")
    return array
