# SPDX-License-Identifier: Apache-2.0
"""Catalogue of the prepared shapes: their texts and fingerprints, without points and images."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from data_prep import shapes


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
    """Reads the indexes of shards, without their arrays.

    Args:
      paths: files of `shapes.save_shard`.

    Raises:
      ValueError: a file is corrupt; the message contains its path.
    """
    shards, fingerprints = {}, {}
    for path in paths:
        entries = shapes.load_index(path)
        fingerprints.update({entry.shape.id: entry.fingerprint for entry in entries})
        shards[path] = [dataclasses.replace(entry.shape, captions=()) for entry in entries]
    return Catalogue(shards=shards, fingerprints=fingerprints)
