# SPDX-License-Identifier: Apache-2.0
"""Records: their schema, and writing one file of them from prepared shapes and features.

Tensors are stored as raw bytes: reading and writing are three to eight times faster than with
TFDS's default encoding, and neither imports TensorFlow.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core import example_serializer

from data_prep import evaluation, features, shapes
from data_prep.captions import encoding
from mrd_jax.data import picture_files

VERSION = "1.0.0"
# Increased whenever the same shapes and features give other content. Where the pictures are does
# not count: readers find those of all versions.
FORMAT = 1


@dataclasses.dataclass(frozen=True)
class Shard:
    """Input files of a data set.

    Attributes:
      shapes: file of prepared shapes.
      features: file of their features; None if the shapes contain released features.
      ids: ids of the shapes in both files.
      captions: file of captions that are joined to the shapes; None for none.
    """

    shapes: Path
    features: Path | None
    ids: frozenset[str]
    captions: Path | None = None


@dataclasses.dataclass(frozen=True)
class RecordFile:
    """One file of records to write, and the zip file of their pictures; picklable.

    Attributes:
      path: array_record file.
      pictures: zip file; not written if no shape has an image.
      shards: files of the shapes and features, in the order of the records.
      ids: ids of the shapes to write.
    """

    path: Path
    pictures: Path
    shards: tuple[Shard, ...]
    ids: frozenset[str]


def schema(*, points: int, dim: int) -> tfds.features.FeaturesDict:
    """Returns the schema of a record.

    Args:
      points: points per point cloud.
      dim: length of the teacher's features.
    """
    text = tfds.features.Text
    tensor = functools.partial(tfds.features.Tensor, encoding=tfds.features.Encoding.BYTES)
    return tfds.features.FeaturesDict(
        {
            "id": text(),
            "source": text(),
            "name": text(),
            "creator": text(),
            "licence": text(),
            # Path below evaluation/pictures of the data set, see mrd_jax.data.picture_files.
            "picture": text(),
            # z up, mean at the origin, largest norm 1, in random order.
            "xyz": tensor(shape=(points, 3), dtype=np.float16),
            "rgb": tensor(shape=(points, 3), dtype=np.uint8),
            # Teacher features, not normalised; row i has kind i.
            "image_features": tensor(shape=(None, dim), dtype=np.float16),
            "image_kinds": tfds.features.Sequence(text()),
            "text_features": tensor(shape=(None, dim), dtype=np.float16),
            "captions": tfds.features.Sequence(text()),
            "caption_kinds": tfds.features.Sequence(text()),
            # Index into evaluation/classes.json, -1 if unknown.
            "label": np.int64,
        }
    )


def write_file(file: RecordFile, *, points: int, dim: int, labels: Mapping[str, int]) -> int:
    """Writes one file of records and the zip file of their pictures.

    Holds one shard of shapes in memory. The bytes depend on the arguments and the shards alone.

    Args:
      file: what to write.
      points: points per record.
      dim: length of a feature.
      labels: class name -> label.

    Returns:
      Number of records.

    Raises:
      ValueError: a shape has no features, or a shard is corrupt.
    """
    features_dict = schema(points=points, dim=dim)
    serializer = example_serializer.ExampleSerializer(features_dict.get_serialized_info())
    count = 0

    def examples() -> Iterator[tuple[str, bytes]]:
        nonlocal count
        for record in _records(file, labels):
            count += 1
            example = serializer.get_tf_example(features_dict.encode_example(record))
            # By default, the order of the fields differs from process to process.
            yield record["id"], example.SerializeToString(deterministic=True)

    tfds.core.ExampleWriter(tfds.core.FileFormat.ARRAY_RECORD).write(file.path, examples())
    if count != len(file.ids):
        raise ValueError(
            f"{file.path.name}: {count} shapes found in {len(file.shards)} shards, expected "
            f"{len(file.ids)}; the shape cache was changed meanwhile, run again"
        )
    return count


def _records(file: RecordFile, labels: Mapping[str, int]) -> Iterator[dict[str, Any]]:
    """Yields the records of a file, and writes their pictures."""
    with contextlib.ExitStack() as stack:
        pictures = None
        for shard in file.shards:
            encoded = None if shard.features is None else features.load_features(shard.features)
            added = {} if shard.captions is None else encoding.load(shard.captions)
            for shape in shapes.load_shard(shard.shapes):
                if shape.id not in file.ids:
                    continue
                encodings = shape.released if encoded is None else encoded.get(shape.id)
                if encodings is None:
                    raise ValueError(
                        f"{shard.features or shard.shapes}: no features of shape {shape.id!r}; "
                        f"delete the file and run again"
                    )
                if shape.images:
                    pictures = pictures or stack.enter_context(picture_files.Writer(file.pictures))
                    thumbnail = evaluation.thumbnail(evaluation.portrait(shape))
                    pictures.add(evaluation.picture_name(shape.id), thumbnail)
                yield make_record(
                    shape,
                    encodings,
                    labels=labels,
                    pictures=file.pictures.name,
                    added=added.get(shape.id),
                )


def make_record(
    shape: shapes.Shape,
    encodings: shapes.Released | features.Pair,
    *,
    labels: Mapping[str, int],
    pictures: str,
    added: encoding.Added | None = None,
) -> dict[str, Any]:
    """Returns one record of `schema`.

    Args:
      shape: prepared shape.
      encodings: released features of the shape, or features of a teacher: [views, dim], one row per
        image of the shape, and [captions, dim], one row per caption.
      labels: class name -> label.
      pictures: name of the zip file that has the picture of the shape.
      added: captions that follow those of the shape.
    """
    if isinstance(encodings, shapes.Released):
        image_features, text_features = encodings.image, encodings.text
        image_kinds = encodings.image_kinds
    else:
        (image_features, text_features), image_kinds = encodings, shape.image_kinds
    captions = shape.captions
    if added is not None:
        captions, text_features = encoding.extend(captions, text_features, added)
    return {
        "id": shape.id,
        "source": shape.source,
        "name": shape.name,
        "creator": shape.creator,
        "licence": shape.licence,
        "picture": f"{pictures}/{evaluation.picture_name(shape.id)}" if shape.images else "",
        "xyz": shape.xyz.astype(np.float16),
        "rgb": shape.rgb,
        "image_features": image_features,
        "image_kinds": list(image_kinds),
        "text_features": text_features,
        "captions": [text for _, text in captions],
        "caption_kinds": [kind for kind, _ in captions],
        "label": labels.get(shape.label, -1),
    }
