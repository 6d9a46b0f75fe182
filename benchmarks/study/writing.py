# SPDX-License-Identifier: Apache-2.0
"""Writes data sets that are derived from prepared ones; training reads them like any other."""

import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from data_prep import records
from mrd_jax.data import dataset_metadata

Records = Iterable[dict[str, Any]]


def is_written(target: pathlib.Path, origin: Mapping[str, Any]) -> bool:
    """Returns whether a derived data set exists.

    Args:
      target: folder of the data set, version included.
      origin: what it is derived from and how, as JSON values.

    Raises:
      ValueError: the folder has a data set of another origin.
    """
    if not target.exists():
        return False
    if dataset_metadata.read(target).get("derived") != origin:
        raise ValueError(f"{target} was derived from other data: remove it, and run again")
    return True


def write(
    target: pathlib.Path,
    splits: Mapping[str, Records],
    *,
    like: pathlib.Path,
    points: int,
    origin: Mapping[str, Any],
    complete: Callable[[pathlib.Path], None] = lambda folder: None,
) -> None:
    """Writes a data set; the folder appears when it is whole.

    Args:
      target: folder of the data set, version included, which does not exist.
      splits: records by name of the split; each record has an id of its own.
      like: data set whose metadata it has, but for counts, points and origin.
      points: points per record.
      origin: see `is_written`.
      complete: called with the unfinished folder to add further files.
    """
    metadata = dataset_metadata.read(like)
    schema = records.schema(points=points, dim=metadata["teacher"]["dim"])
    staging = target.parent.with_name(f".{target.parent.name}.incomplete")
    if staging.exists():
        shutil.rmtree(staging)  # left by an interrupted run
    staging.mkdir(parents=True)
    info = json.loads((like / "dataset_info.json").read_text("utf-8"))
    template, info["splits"], counts = info["splits"][0], [], {}
    for name, members in splits.items():
        path = staging / f"{info['name']}-{name}.array_record-00000-of-00001"
        counts[name] = _write_records(path, members, schema)
        size = {"numBytes": str(path.stat().st_size), "shardLengths": [str(counts[name])]}
        info["splits"].append({**template, "name": name, **size})
    counts["classes"] = metadata["counts"]["classes"]
    (staging / "dataset_info.json").write_text(json.dumps(info, indent=1), "utf-8")
    schema.save_config(str(staging))
    content = {**metadata, "counts": counts, "points": points, "derived": origin}
    (staging / "metadata.json").write_text(json.dumps(content), "utf-8")
    complete(staging)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.rename(staging, target)


def _write_records(path: pathlib.Path, members: Records, schema: tfds.features.FeaturesDict) -> int:
    """Writes the records of a split; returns their number."""
    serializer = example_serializer.ExampleSerializer(schema.get_serialized_info())
    count = 0

    def examples() -> Iterator[tuple[str, bytes]]:
        nonlocal count
        for record in members:
            count += 1
            example = serializer.get_tf_example(schema.encode_example(record))
            yield record["id"], example.SerializeToString(deterministic=True)

    tfds.core.ExampleWriter(tfds.core.FileFormat.ARRAY_RECORD).write(path, examples())
    return count
