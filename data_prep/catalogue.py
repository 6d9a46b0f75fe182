# SPDX-License-Identifier: Apache-2.0
"""What is known of all prepared shapes without holding their points, images and captions."""

import dataclasses
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from data_prep import shapes

# Hashed as bytes, and not kept.
ARRAYS = ("xyz", "rgb", "images", "released")


@dataclasses.dataclass(frozen=True)
class Catalogue:
    """Names, texts and hashes of the shapes in a cache.

    Attributes:
      shards: files of prepared shapes -> their shapes, without points, images, captions (a
        released set has millions) and features.
      digests: shape id -> hash of everything that was prepared for it.
    """

    shards: Mapping[Path, Sequence[shapes.Shape]]
    digests: Mapping[str, str]

    def entries(self) -> list[shapes.Shape]:
        """The shapes of all shards, as `shards` holds them."""
        return [shape for shard in self.shards.values() for shape in shard]

    def load(self, ids: Collection[str]) -> Iterator[shapes.Shape]:
        """Reads whole shapes again, in the order of the shards.

        Args:
          ids: of the shapes to read.
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
      ValueError: a file is damaged; it names the file.
    """
    shards, digests = {}, {}
    for path in paths:
        shard = shapes.load_shard(path)
        digests.update({shape.id: digest(shape) for shape in shard})
        # Copies of nothing: a slice would keep the whole array alive.
        empty = {"xyz": np.zeros((0, 3), np.float32), "rgb": np.zeros((0, 3), np.uint8)}
        empty |= {"images": (), "captions": (), "released": None}
        shards[path] = [dataclasses.replace(shape, **empty) for shape in shard]
    return Catalogue(shards=shards, digests=digests)


def digest(shape: shapes.Shape) -> str:
    """Hex hash of everything that was prepared for a shape."""
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
