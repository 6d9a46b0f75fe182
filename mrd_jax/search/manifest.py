# SPDX-License-Identifier: Apache-2.0
"""The file `index.json`, which says what belongs to an index.

It is replaced atomically: a reader finds the old index or the new one. Format 1 had one set of
arrays in the folder of the index; format 2 has segments.
"""

import dataclasses
import json
from typing import Any

from mrd_jax import atomic_io, storage
from mrd_jax.checkpoints import model_card
from mrd_jax.search import entries, nearest

FORMAT = 2
# Largest number of faces of a reduced mesh, by default: about 100 kB.
MESH_FACES = 6_000
INFO_FILE, SEGMENTS = "index.json", "segments"


@dataclasses.dataclass(frozen=True)
class Listed:
    """A segment of an index.

    Attributes:
      name: folder below `SEGMENTS`.
      shapes: number of shapes, removed ones included.
      removed: file in its folder with the numbers of its removed shapes, "" if there are none.
      recall: measured recall of its file for approximate search; None without such a file.
    """

    name: str
    shapes: int
    removed: str = ""
    recall: float | None = None


@dataclasses.dataclass(frozen=True)
class Source:
    """A folder or file whose shapes an index follows, see `mrd_jax.search.changes`.

    Attributes:
      given: path as the user wrote it; ids of shapes begin with it.
      place: the same path, relative to the folder of the index.
      up: vertical axis of files that state none, or "".
      columns: names of the columns of text files, or "".
      label_from: folders that name the files, or "".
    """

    given: str
    place: str
    up: str = ""
    columns: str = ""
    label_from: str = ""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Content of the file.

    Attributes:
      card: model card of the encoder that embedded the shapes.
      checkpoint: fingerprint of that encoder, see `mrd_jax.checkpoints.fingerprinting`.
      teacher: teacher whose embedding space the rows share.
      reader_version: version of the readers of the embedded files; None for published points.
      points: number of points per shape.
      version: number of changes since the index was created.
      ann: whether large segments get a file for approximate search.
      encoder: folder of the encoder, relative to the index, or its name on the Hub; "" if unknown.
      mesh_faces: largest number of faces of the mesh that the page shows; 0 for no meshes.
      sources: folders and files that the index follows.
      segments: segments in order; () in format 1.
      format: format of the index.
    """

    card: model_card.ModelCard
    checkpoint: str
    teacher: entries.Teacher
    reader_version: int | None
    points: int
    version: int = 0
    ann: bool = False
    encoder: str = ""
    mesh_faces: int = MESH_FACES
    sources: tuple[Source, ...] = ()
    segments: tuple[Listed, ...] = ()
    format: int = FORMAT

    def check_same(self, other: "Manifest", *, name: str) -> None:
        """Checks that the shapes of another index can be added to this one.

        Args:
          other: manifest of the other index.
          name: name of the other index, for the error.

        Raises:
          entries.IndexMismatchError: they differ; the message has every difference.
        """
        pairs = {
            "encoder": (self.checkpoint[:12], other.checkpoint[:12]),
            "teacher": (self.teacher.name, other.teacher.name),
            "revision of the teacher": (self.teacher.revision, other.teacher.revision),
            "version of the readers": (self.reader_version, other.reader_version),
            "points per shape": (self.points, other.points),
        }
        differences = [f"{key} is {a!r} and {b!r}" for key, (a, b) in pairs.items() if a != b]
        if differences:
            raise entries.IndexMismatchError(
                f"{name} cannot be added: {'; '.join(differences)}. Build it again with the "
                "encoder and options of the first"
            )


def read(folder: storage.PathLike) -> Manifest:
    """Reads the manifest of an index of any format.

    Raises:
      FileNotFoundError: the folder has no index.
      entries.CorruptIndexError: the file is corrupt, or has an unknown format.
    """
    file = storage.path(folder) / INFO_FILE
    if not file.is_file():
        raise FileNotFoundError(
            f"{folder} is not an index: it has no {INFO_FILE}. Build one with "
            "python -m mrd_jax.tools.search build"
        )
    try:
        fields = json.loads(file.read_text("utf-8"))
        if fields["format"] not in (1, FORMAT):
            raise ValueError(f"format {fields['format']}, expected {FORMAT}")
        found = _parse(fields)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise entries.CorruptIndexError(
            f"the index {folder} is corrupt ({error}); build it again"
        ) from error
    if found.format == 1:
        found = dataclasses.replace(found, ann=(storage.path(folder) / nearest.ANN_FILE).is_file())
    return found


def _parse(fields: dict[str, Any]) -> Manifest:
    card, teacher = model_card.from_dict(fields["card"]), entries.Teacher(**fields["teacher"])
    # Absent from indexes that were written before the version was recorded.
    reader_version = fields.get("reader_version", 1)
    if fields["format"] == 1:
        points = 0  # the arrays say it
        return Manifest(card, fields["checkpoint"], teacher, reader_version, points, format=1)
    lists = {
        "sources": tuple(Source(**source) for source in fields["sources"]),
        "segments": tuple(Listed(**listed) for listed in fields["segments"]),
    }
    return Manifest(**fields | lists | {"card": card, "teacher": teacher})


def write(folder: storage.PathLike, manifest: Manifest) -> None:
    """Replaces the manifest of an index atomically."""
    text = json.dumps(dataclasses.asdict(manifest), indent=1)
    atomic_io.write_text(storage.path(folder) / INFO_FILE, text + "\n")
