# SPDX-License-Identifier: Apache-2.0
"""Catalogue of the prepared shapes: their texts and fingerprints, without points and images."""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_prep import shapes

# Fields that the fingerprint covers as bytes, and that a catalogue drops.
ARRAYS = ("xyz", "rgb", "images", "released")


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """Names, texts and fingerprints of the shapes in a cache.

    Attributes:
      shards: file of prepared shapes -> its shapes, without points, images, features and captions
        (a released set has millions of captions).
      fingerprints: shape id -> fingerprint of the prepared content.
    """

    shards: Mapping[Path, Sequence[shapes.Shape]]
    fingerprints: Mapping[str, str]

    def entries(self) -> list[shapes.Shape]:
        """Returns the shapes of all shards, without their arrays."""
        return [shape for shard in self.shards.values() for shape in shard]

    def load(self, ids: Collection[str]) -> Iterator[shapes.Shape]:
        """Reads whole shapes from disk, in the order of the shards.

        Args:
          ids: ids of the shapes to read.
        """
        wanted = frozenset(ids)
        for path, shard in self.shards.items():
            if any(shape.id in wanted for shape in shard):
                yield from (shape for shape in shapes.load_shard(path) if shape.id in wanted)


def read_catalogue(paths: Sequence[Path]) -> Catalogue:
    """Reads all prepared shapes once.

    Args:
      paths: files of `shapes.save_shard`.

    Raises:
      ValueError: a file is corrupt; the message contains its path.
    """
    shards, fingerprints = {}, {}
    for path in paths:
        shard = shapes.load_shard(path)
        fingerprints.update({shape.id: fingerprint(shape) for shape in shard})
        # New arrays, because a slice would keep the whole array alive.
        empty = {"xyz": np.zeros((0, 3), np.float32), "rgb": np.zeros((0, 3), np.uint8)}
        empty |= {"images": (), "captions": (), "released": None}
        shards[path] = [dataclasses.replace(shape, **empty) for shape in shard]
    return Catalogue(shards=shards, fingerprints=fingerprints)


def fingerprint(shape: shapes.Shape) -> str:
    """Returns the SHA-256 of the prepared content of a shape, in hexadecimal."""
    texts = [
        getattr(shape, field.name)
        for field in dataclasses.fields(shape)
        if field.name not in ARRAYS
    ]
    total = hashlib.sha256(json.dumps(texts).encode())
    for array in (shape.xyz, shape.rgb):
        total.update(np.ascontiguousarray(array))
    for image in shape.images:
        total.update(hashlib.sha256(image).digest())
    if shape.released is not None:
        total.update(json.dumps(shape.released.image_kinds).encode())
        for array in (shape.released.image, shape.released.text):
            total.update(np.ascontiguousarray(array))
    return total.hexdigest()
