# SPDX-License-Identifier: Apache-2.0
"""A training split of two data sets, for joint training."""

import json
import os
import pathlib
import shutil
from collections.abc import Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

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
    if target.exists():
        if dataset_metadata.read(target).get("joined") != origin:
            raise ValueError(f"{target} was made of other data: remove it, and run again")
        return target
    staging = output / f".{NAME}.incomplete"
    if staging.exists():
        shutil.rmtree(staging)  # left by an interrupted run
    staging.mkdir(parents=True)
    info = json.loads((first / "dataset_info.json").read_text("utf-8"))
    file = f"{info['name']}-train.array_record-00000-of-00001"
    schema = records.schema(points=points, dim=both[0]["teacher"]["dim"])
    count = _write_records(folders, staging / file, schema, points=points)
    info["splits"] = [
        {
            **info["splits"][0],
            "name": "train",
            "numBytes": str((staging / file).stat().st_size),
            "shardLengths": [str(count)],
        }
    ]
    (staging / "dataset_info.json").write_text(json.dumps(info, indent=1), "utf-8")
    schema.save_config(str(staging))
    content = {
        **both[0],
        "counts": {"train": count, "classes": both[0]["counts"]["classes"]},
        "points": points,
        "joined": origin,
    }
    (staging / "metadata.json").write_text(json.dumps(content), "utf-8")
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(staging, target)
    return target


def _write_records(
    folders: tuple[pathlib.Path, pathlib.Path],
    path: pathlib.Path,
    schema: tfds.features.FeaturesDict,
    *,
    points: int,
) -> int:
    """Writes the training records of both data sets; returns their number."""
    serializer = example_serializer.ExampleSerializer(schema.get_serialized_info())
    opened = [source.open_split(folder, "train") for folder in folders]

    def examples() -> Iterator[tuple[str, bytes]]:
        for position, split in enumerate(opened):
            for index in range(len(split)):
                record: dict[str, Any] = split[index]
                record |= {field: record[field][:points] for field in ("xyz", "rgb")}
                if position:
                    record["label"] = -1
                example = serializer.get_tf_example(schema.encode_example(record))
                yield record["id"], example.SerializeToString(deterministic=True)

    tfds.core.ExampleWriter(tfds.core.FileFormat.ARRAY_RECORD).write(path, examples())
    return sum(len(split) for split in opened)


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
