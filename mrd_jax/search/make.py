# SPDX-License-Identifier: Apache-2.0
"""Indices from what there is already: a prepared data set, or the output of `tools.embed`."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from data_prep import evaluation
from data_prep.geometry import clouds
from data_prep.sources import folder as folders
from mrd_jax import encoder as encoders
from mrd_jax.checkpoints import model_card
from mrd_jax.data import augment, numpy_files, source
from mrd_jax.search import files as files_lib
from mrd_jax.search import index as indices
from mrd_jax.search import pictures

# Records that are embedded at a time.
_CHUNK = 512
# Points that a picture is drawn from, and its side in pixels.
_DRAWN, _SIDE = 10_000, 128
_FIELDS = ("id", "name", "creator", "licence", "picture", "xyz", "rgb")


def from_records(
    output: Path,
    directory: Path,
    *,
    encoder: encoders.Encoder,
    checkpoint: str,
    splits: Sequence[str],
    points: int,
    teacher: str,
    ann: bool = False,
) -> None:
    """Embeds a prepared data set and writes its index.

    Args:
      output: folder of the index, a new one.
      directory: of the data set, version included.
      encoder: to embed with, of the data set's conventions.
      checkpoint: hash of its files.
      splits: to embed, one after another; () is all.
      points: of a stored cloud, at most.
      teacher: hub name or folder; "" looks for it where `data_prep.build` leaves or was given it.
      ann: write what approximate search needs, too.

    Raises:
      ValueError: the data set has no such split, or fewer points than the encoder takes; or as
        `index.write`.
    """
    metadata = source.read_metadata(directory)
    names = splits or [name for name in metadata["counts"] if name != "classes"]
    opened = [source.open_split(directory, name) for name in names]
    count = sum(len(records) for records in opened)
    points = min(points, metadata["points"])
    bar = tqdm.tqdm(total=count, desc="embedding", unit="shape")
    read = (records.read(i, _FIELDS) for records in opened for i in range(len(records)))
    with bar:
        indices.write(
            output,
            _record_entries(read, bar, encoder=encoder, directory=Path(directory), points=points),
            count=count,
            points=points,
            card=encoder.card,
            checkpoint=checkpoint,
            teacher=_teacher(encoder.card, metadata, place=teacher, data=directory, output=output),
            ann=ann,
        )


def from_embeddings(
    output: Path, file: Path, *, points: int, teacher: str, ann: bool = False
) -> None:
    """Writes the index of files that `tools.embed` has embedded; they are read again to be shown.

    Args:
      output: folder of the index, a new one.
      file: npz file of `tools.embed`.
      points: of a stored cloud.
      teacher: hub name or folder; "" where it is not known.
      ann: write what approximate search needs, too.

    Raises:
      ValueError: the npz file is damaged or of an earlier version; a file that it names has gone
        or can no longer be read; or as `index.write`.
      clouds.MeshesUnsupportedError: meshes are among the files and trimesh is not installed.
    """
    found = _read_embeddings(file)
    card = model_card.from_json(str(found["card"]))
    known = (found[name].tolist() for name in ("files", "names", "creators", "licences", "up"))
    files = [files_lib.File(Path(path), *texts) for path, *texts in zip(*known, strict=True)]
    clouds.check_readable(file.path for file in files)
    conventions = clouds.Conventions.of(card, points=max(points, _DRAWN))
    read = zip(files, found["embeddings"], strict=True)
    bar = tqdm.tqdm(read, total=len(files), desc="reading", unit="file")
    entries = (_file_entry(file, row, conventions=conventions, points=points) for file, row in bar)
    indices.write(
        output,
        entries,
        count=len(files),
        points=points,
        card=card,
        checkpoint=str(found["checkpoint"]),
        teacher=indices.Teacher(card.teacher, place=_place(teacher or card.teacher, output)),
        ann=ann,
    )


def _record_entries(
    read: Iterator[dict[str, Any]],
    bar: tqdm.tqdm,
    *,
    encoder: encoders.Encoder,
    directory: Path,
    points: int,
) -> Iterator[indices.Entry]:
    """Embeds some records at a time, and gives each with what is to be stored of it."""
    while chunk := list(itertools.islice(read, _CHUNK)):
        batch = {name: np.stack([record[name] for record in chunk]) for name in ("xyz", "rgb")}
        # The first points of a record, as evaluation takes them.
        xyz, rgb = map(np.asarray, augment.plain(batch, num_points=encoder.card.points))
        rows = encoder.embed(zip(xyz, rgb, strict=True))
        for record, row in zip(chunk, rows, strict=True):
            picture = directory / "evaluation" / "pictures" / record["picture"]
            yield _entry(
                *(record[name] for name in ("id", "name", "creator", "licence")),
                row=row,
                xyz=record["xyz"],
                rgb=record["rgb"],
                points=points,
                picture=picture.read_bytes() if picture.is_file() else None,
            )
            bar.update()


def _file_entry(
    file: files_lib.File, row: np.ndarray, *, conventions: clouds.Conventions, points: int
) -> indices.Entry:
    """A file with its embedding and its cloud."""
    try:
        cloud = clouds.read_cloud(file.path, conventions=conventions, up=file.up or None)
    except clouds.CloudError as error:
        raise ValueError(
            f"{file.path} was embedded, but now: {error}. Run from the folder that the files were "
            "embedded from, or embed again"
        ) from error
    # Repeated points of a small cloud come in rounds.
    order = np.random.default_rng(0).permutation(len(cloud.xyz))
    rgb = np.rint(cloud.rgb[order] * 255).astype(np.uint8)
    return _entry(
        str(file.path),
        file.name or folders.name_of(str(file.path)),
        file.creator,
        file.licence,
        row=row,
        xyz=cloud.xyz[order],
        rgb=rgb,
        points=points,
        picture=None,
    )


def _entry(
    identity: str,
    name: str,
    creator: str,
    licence: str,
    *,
    row: np.ndarray,
    xyz: np.ndarray,
    rgb: np.ndarray,
    points: int,
    picture: bytes | None,
) -> indices.Entry:
    """A shape to store; without a picture of its own it gets one of its cloud."""
    if picture is None:
        picture = pictures.draw_cloud(xyz, rgb, size=_SIDE)
    file = evaluation.picture_name(identity)
    item = indices.Item(identity, name, creator, licence, picture=file)
    return indices.Entry(item, row, xyz[:points], rgb[:points], picture)


def _teacher(
    card: model_card.ModelCard, metadata: dict[str, Any], *, place: str, data: Path, output: Path
) -> indices.Teacher:
    """The encoder's teacher; its revision where it is that of the data set, and where it lies."""
    told = metadata["teacher"]
    same = told["name"] == card.teacher
    if not place:
        # data_prep.build leaves OUTPUT/NAME/VERSION and OUTPUT/teachers/TEACHER, or was given one.
        left = Path(data).resolve().parents[1] / "teachers" / card.teacher
        given = Path(metadata["build"]["teacher"]) if same else left
        folders = (str(folder) for folder in (left, given) if card.teacher and folder.is_dir())
        place = next(folders, card.teacher)
    return indices.Teacher(
        card.teacher, told["revision"] if same else "", place=_place(place, output)
    )


def _place(place: str, output: Path) -> str:
    """A hub name, or a folder as seen from the index, so that both can be moved together."""
    if not place or not Path(place).is_dir():
        return place
    return os.path.relpath(Path(place).resolve(), Path(output).resolve())


def _read_embeddings(file: Path) -> dict[str, np.ndarray]:
    """The arrays of an npz file of `tools.embed`."""
    wanted = ("embeddings", "files", "names", "creators", "licences", "up", "card", "checkpoint")
    try:
        with file.open("rb") as stream:
            arrays = numpy_files.ArrayFile(stream)
            missing = [name for name in wanted if name not in arrays]
            if missing:
                raise ValueError(
                    f"{file} lacks {missing}: expected the output of this version's "
                    "`python -m mrd_jax.tools.embed`"
                )
            return {name: arrays[name] for name in wanted}
    except numpy_files.ArrayFileError as error:
        raise ValueError(f"{file} is no output of mrd_jax.tools.embed: {error}") from error
