# SPDX-License-Identifier: Apache-2.0
"""A training split of two data sets, for joint training."""

import pathlib
from collections.abc import Iterator, Mapping
from typing import Any

from benchmarks.study import writing
from data_prep import records
from mrd_jax.data import dataset_metadata, source

NAME = "joined"
# Fields of the metadata that must be equal.
_SAME = ("up_axis", "from_y_up", "normalisation")


def write(first: pathlib.Path, second: pathlib.Path, output: pathlib.Path) -> pathlib.Path:
    """Writes a data set of the training shapes of two, unless it exists.

    Features are copied, so that both teachers must embed texts in the same way. Records get as
    many points as those of the smaller set, the first ones, which are a random sample. Shapes of
    the second set lose their labels, which refer to other classes.

    Args:
      first: folder of a data set.
      second: folder of the other.
      output: parent folder of the joined data set.

    Returns:
      Folder of the joined data set; its only split is `train`.

    Raises:
      FileNotFoundError: a folder is not a data set.
      ValueError: the data sets do not fit together; or the existing folder was made of others.
    """
    folders = (first, second)
    both = [dataset_metadata.read(folder) for folder in folders]
    for field in _SAME:
        _require_equal(folders, field, [metadata[field] for metadata in both])
    _require_equal(
        folders, "text encoder", [_text_encoder(metadata["teacher"]) for metadata in both]
    )
    points = min(metadata["points"] for metadata in both)
    origin = {"from": [dataset_metadata.fingerprint(m) for m in both], "points": points}
    target = output / NAME / records.VERSION
    if not writing.is_written(target, origin):
        train = {"train": _records(folders, points=points)}
        writing.write(target, train, like=first, points=points, origin=origin)
    return target


def _records(
    folders: tuple[pathlib.Path, pathlib.Path], *, points: int
) -> Iterator[dict[str, Any]]:
    """Yields the training records of both data sets."""
    for position, folder in enumerate(folders):
        split = source.open_split(folder, "train")
        for index in range(len(split)):
            record = split[index]
            record |= {field: record[field][:points] for field in ("xyz", "rgb")}
            if position:
                record["label"] = -1
            yield record


def _text_encoder(teacher: Mapping[str, Any]) -> str:
    """Identifies what embeds the texts: all LiT teachers have the same frozen text model."""
    if teacher["kind"] == "lit":
        return f"LiT, {teacher['dim']} features"
    return f"{teacher['name']}, {teacher['revision']}"


def _require_equal(folders: tuple[pathlib.Path, ...], field: str, values: list[Any]) -> None:
    if values[0] != values[1]:
        raise ValueError(
            f"{folders[0]} has {field} = {values[0]!r} and {folders[1]} {values[1]!r}: expected "
            "data sets that were prepared alike"
        )
