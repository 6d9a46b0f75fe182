# SPDX-License-Identifier: Apache-2.0
"""Builds an index from a prepared data set or from the output of `mrd_jax.tools.embed`."""

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tqdm

from data_prep import evaluation
from data_prep.geometry import clouds
from data_prep.geometry.listing import printable
from data_prep.shape_names import name_of
from mrd_jax import storage
from mrd_jax.checkpoints import model_card
from mrd_jax.data import augment, numpy_files, picture_files, source
from mrd_jax.encoder import Encoder
from mrd_jax.search import pictures, shape_files, shape_index

# Records per call of the encoder.
_CHUNK = 512
# Points that a picture is drawn from, and the side of the picture in pixels.
_PICTURE_POINTS, _PICTURE_SIDE = 10_000, 128
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
      ann: also write the file for approximate search.

    Raises:
      ValueError: a split does not exist, the records have fewer points than the encoder needs, or
        an entry is invalid, see `shape_index.write`.
    """
    metadata = source.read_metadata(directory)
    names = splits or [name for name in metadata["counts"] if name != "classes"]
    opened = [source.open_split(directory, name) for name in names]
    count = sum(len(records) for records in opened)
    points = min(points, metadata["points"])
    bar = tqdm.tqdm(total=count, desc="embedding", unit="shape")
    records = (split.read(i, _FIELDS) for split in opened for i in range(len(split)))
    with bar:
        shape_index.write(
            output,
            _record_entries(
                records, bar, encoder=encoder, directory=storage.path(directory), points=points
            ),
            count=count,
            points=points,
            card=encoder.card,
            checkpoint=checkpoint,
            teacher=_find_teacher(
                encoder.card, metadata, place=teacher, data=directory, output=output
            ),
            reader_version=source.reader_version(metadata),
            ann=ann,
        )


def index_embeddings(
    output: storage.PathLike,
    file: storage.PathLike,
    *,
    points: int,
    teacher: str,
    ann: bool = False,
) -> None:
    """Writes the index of files that `mrd_jax.tools.embed` has embedded.

    The files are read again for their points.

    Args:
      output: folder of the index, must not exist.
      file: npz file of `mrd_jax.tools.embed`.
      points: number of points to store per shape.
      teacher: hub name or folder; "" for the name on the encoder's model card.
      ann: also write the file for approximate search.

    Raises:
      ValueError: the npz file is corrupt or from an earlier version, one of the embedded files is
        missing or unreadable, or an entry is invalid, see `shape_index.write`.
      formats.MissingPackageError: there are meshes among the files and trimesh is not installed.
    """
    arrays = _read_embeddings(file)
    card = model_card.from_json(str(arrays["card"]))
    columns = (arrays[name].tolist() for name in ("files", *shape_files.METADATA))
    files = [
        shape_files.ShapeFile(Path(path), *metadata)
        for path, *metadata in zip(*columns, strict=True)
    ]
    clouds.check_readable(file.path for file in files)
    conventions = clouds.Conventions.of(card, points=max(points, _PICTURE_POINTS))
    pairs = zip(files, arrays["embeddings"], strict=True)
    bar = tqdm.tqdm(pairs, total=len(files), desc="reading", unit="file")
    entries = (_file_entry(file, row, conventions=conventions, points=points) for file, row in bar)
    shape_index.write(
        output,
        entries,
        count=len(files),
        points=points,
        card=card,
        checkpoint=str(arrays["checkpoint"]),
        teacher=shape_index.Teacher(
            card.teacher, place=_relative_place(teacher or card.teacher, output)
        ),
        reader_version=int(arrays["reader_version"]),
        ann=ann,
    )


def _record_entries(
    records: Iterator[dict[str, Any]],
    bar: tqdm.tqdm,
    *,
    encoder: Encoder,
    directory: storage.Path,
    points: int,
) -> Iterator[shape_index.Entry]:
    """Embeds records in chunks and yields one entry per record."""
    while chunk := list(itertools.islice(records, _CHUNK)):
        batch = {name: np.stack([record[name] for record in chunk]) for name in ("xyz", "rgb")}
        # The first points of a record, as in evaluation.
        xyz, rgb = map(np.asarray, augment.plain(batch, num_points=encoder.card.points))
        rows = encoder.embed(zip(xyz, rgb, strict=True))
        for record, row in zip(chunk, rows, strict=True):
            picture = directory / "evaluation" / "pictures" / record["picture"]
            yield _make_entry(
                *(record[name] for name in ("id", "name", "creator", "licence")),
                row=row,
                xyz=record["xyz"],
                rgb=record["rgb"],
                points=points,
                picture=picture_files.read(picture),
            )
            bar.update()


def _file_entry(
    file: shape_files.ShapeFile, row: np.ndarray, *, conventions: clouds.Conventions, points: int
) -> shape_index.Entry:
    """Returns the entry of an embedded file."""
    try:
        cloud = clouds.read_cloud(
            file.path, conventions=conventions, up=file.up or None, root=file.root or None
        )
    except clouds.CloudError as error:
        raise ValueError(
            f"{printable(str(file.path))} was embedded, but cannot be read now: {error}. Run this "
            "command from the folder where mrd_jax.tools.embed was run, or embed the files again"
        ) from error
    # A small cloud repeats its points in order; the first points have to be a random sample.
    order = np.random.default_rng(0).permutation(len(cloud.xyz))
    rgb = np.rint(cloud.rgb[order] * 255).astype(np.uint8)
    return _make_entry(
        printable(str(file.path)),
        file.name or name_of(str(file.path)),
        file.creator,
        file.licence,
        row=row,
        xyz=cloud.xyz[order],
        rgb=rgb,
        points=points,
        picture=None,
    )


def _make_entry(
    shape_id: str,
    name: str,
    creator: str,
    licence: str,
    *,
    row: np.ndarray,
    xyz: np.ndarray,
    rgb: np.ndarray,
    points: int,
    picture: bytes | None,
) -> shape_index.Entry:
    """Returns an entry; if there is no picture, draws one of the point cloud."""
    if picture is None:
        picture = pictures.draw_cloud(xyz, rgb, size=_PICTURE_SIDE)
    file = evaluation.picture_name(shape_id)
    item = shape_index.Item(shape_id, name, creator, licence, picture=file)
    return shape_index.Entry(item, row, xyz[:points], rgb[:points], picture)


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
        place=_relative_place(place, output),
    )


def _relative_place(place: str, output: storage.PathLike) -> str:
    """Returns a hub name as it is, and a path relative to the index, so that both can move."""
    if not place or not Path(place).exists():
        return place
    if storage.is_remote(output):
        return str(Path(place).resolve())
    return os.path.relpath(Path(place).resolve(), Path(output).resolve())


def _read_embeddings(file: storage.PathLike) -> dict[str, np.ndarray]:
    """Returns the arrays of an npz file of `mrd_jax.tools.embed`, of this version or an earlier."""
    names = ("embeddings", "files", "names", "creators", "licences", "up", "card", "checkpoint")
    try:
        with storage.path(file).open("rb") as stream:
            arrays = numpy_files.ArrayFile(stream)
            missing = [name for name in names if name not in arrays]
            if missing:
                raise ValueError(
                    f"{file} lacks {missing}; expected the output of python -m mrd_jax.tools.embed "
                    "of this version"
                )
            found = {name: arrays[name] for name in names}
            if "head" in arrays and str(arrays["head"]) != "contrastive":
                raise ValueError(
                    f"{file} has embeddings by --head {arrays['head']}, but searches embed with "
                    "the contrastive head; run python -m mrd_jax.tools.embed without --head"
                )
            # Earlier versions wrote neither, and looked for textures beside each file only.
            roots = arrays["roots"] if "roots" in arrays else np.full(len(found["files"]), "")
            version = arrays["reader_version"] if "reader_version" in arrays else np.array(1)
            return found | {"roots": roots, "reader_version": version}
    except numpy_files.ArrayFileError as error:
        raise ValueError(f"{file} is not an output of mrd_jax.tools.embed: {error}") from error
