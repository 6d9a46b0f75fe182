# SPDX-License-Identifier: Apache-2.0
"""Builds an index from a prepared data set."""

import dataclasses
import itertools
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from mrd_jax import storage
from mrd_jax.checkpoints import model_card
from mrd_jax.data import augment, dataset_metadata, picture_files, source
from mrd_jax.encoder import Encoder
from mrd_jax.search import display_meshes, embedded_files, manifest, shape_index

# Records per call of the encoder.
_CHUNK = 512
_FIELDS = ("id", "name", "creator", "licence", "picture", "xyz", "rgb")


def index_data_set(
    output: storage.PathLike,
    directory: storage.PathLike,
    *,
    encoder: Encoder,
    checkpoint: str,
    splits: Sequence[str],
    points: int,
    teacher: str,
    mesh_faces: int = manifest.MESH_FACES,
    ann: bool = False,
) -> None:
    """Embeds the shapes of a prepared data set and writes their index.

    Args:
      output: folder of the index, must not exist.
      directory: folder of the data set, with its version.
      encoder: encoder whose conventions are those of the data set.
      checkpoint: fingerprint of the encoder, see `mrd_jax.checkpoints.fingerprinting`.
      splits: names of the splits to embed, in order; () for all.
      points: maximum number of points to store per shape.
      teacher: hub name or folder; "" to search where `data_prep.build` saved or loaded it.
      mesh_faces: 0 to store no dense clouds for the page; recorded for shapes that are added later.
      ann: also write the file for approximate search.

    Raises:
      ValueError: a split does not exist, the records have fewer points than the encoder needs, or
        an entry is invalid, see `shape_index.write`.
    """
    found = open_data_set(directory, encoder=encoder, splits=splits)
    points = min(points, found.metadata["points"])
    shape_index.write(
        output,
        found.entries(points, dense=bool(mesh_faces)),
        count=found.count,
        points=points,
        card=encoder.card,
        checkpoint=checkpoint,
        teacher=_find_teacher(
            encoder.card, found.metadata, place=teacher, data=directory, output=output
        ),
        reader_version=dataset_metadata.reader_version(found.metadata),
        mesh_faces=mesh_faces,
        ann=ann,
    )


@dataclasses.dataclass(frozen=True)
class DataSet:
    """Shapes of a prepared data set, and the encoder that embeds them.

    Attributes:
      directory: folder of the data set.
      metadata: its metadata.
      splits: the opened splits to index, in order.
      encoder: the encoder.
    """

    directory: storage.Path
    metadata: dict[str, Any]
    splits: list[Any]
    encoder: Encoder

    @property
    def count(self) -> int:
        """Number of shapes."""
        return sum(len(split) for split in self.splits)

    def entries(self, points: int, *, dense: bool) -> Iterator[shape_index.Entry]:
        """Embeds the shapes and yields their entries.

        Args:
          points: number of points to store per shape, at most that of the data set.
          dense: whether to store more points of each shape for the page.
        """
        records = (split.read(i, _FIELDS) for split in self.splits for i in range(len(split)))
        with tqdm.tqdm(total=self.count, desc="embedding", unit="shape") as bar:
            yield from _record_entries(
                records,
                bar,
                encoder=self.encoder,
                directory=self.directory,
                points=points,
                dense=dense,
            )


def open_data_set(
    directory: storage.PathLike, *, encoder: Encoder, splits: Sequence[str]
) -> DataSet:
    """Opens a prepared data set.

    Args:
      directory: folder of the data set, with its version.
      encoder: encoder whose conventions are those of the data set.
      splits: names of the splits, in order; () for all.

    Raises:
      ValueError: a split does not exist.
    """
    metadata = dataset_metadata.read(directory)
    names = splits or [name for name in metadata["counts"] if name != "classes"]
    opened = [source.open_split(directory, name) for name in names]
    return DataSet(storage.path(directory), metadata, opened, encoder)


def _record_entries(
    records: Iterator[dict[str, Any]],
    bar: tqdm.tqdm,
    *,
    encoder: Encoder,
    directory: storage.Path,
    points: int,
    dense: bool,
) -> Iterator[shape_index.Entry]:
    """Embeds records in chunks and yields one entry per record."""
    while chunk := list(itertools.islice(records, _CHUNK)):
        batch = {name: np.stack([record[name] for record in chunk]) for name in ("xyz", "rgb")}
        # The first points of a record, as in evaluation.
        xyz, rgb = map(np.asarray, augment.plain(batch, num_points=encoder.card.points))
        rows = encoder.embed(zip(xyz, rgb, strict=True))
        for record, row in zip(chunk, rows, strict=True):
            picture = directory / "evaluation" / "pictures" / record["picture"]
            entry = embedded_files.make_entry(
                *(record[name] for name in ("id", "name", "creator", "licence")),
                row=row,
                xyz=record["xyz"],
                rgb=record["rgb"],
                points=points,
                picture=picture_files.read(picture),
            )
            if dense and min(len(record["xyz"]), display_meshes.MAX_POINTS) > points:
                mesh = display_meshes.of_points(record["xyz"], record["rgb"])
                entry = dataclasses.replace(entry, mesh=mesh)
            yield entry
            bar.update()


def _find_teacher(
    card: model_card.ModelCard,
    metadata: dict[str, Any],
    *,
    place: str,
    data: storage.PathLike,
    output: storage.PathLike,
) -> shape_index.Teacher:
    """Returns the encoder's teacher, with its revision if the data set has the same teacher."""
    data_teacher = metadata["teacher"]
    is_same = data_teacher["name"] == card.teacher
    if not place and storage.is_remote(data):
        place = card.teacher
    elif not place:
        # data_prep.build saves its teacher beside the data set, or loads the one it is given.
        saved = Path(data).resolve().parents[1] / "teachers" / card.teacher
        loaded = Path(metadata["build"]["teacher"]) if is_same else saved
        folders = (str(folder) for folder in (saved, loaded) if card.teacher and folder.is_dir())
        place = next(folders, card.teacher)
    return shape_index.Teacher(
        card.teacher,
        data_teacher["revision"] if is_same else "",
        place=embedded_files.relative_place(place, output),
    )
