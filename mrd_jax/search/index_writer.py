# SPDX-License-Identifier: Apache-2.0
"""Adds shapes to an index, removes shapes, and joins small segments.

New shapes are first written into segments that no manifest lists. A writer that is killed leaves
them behind, and the index as it was; the next writer takes them up (`staged`) or deletes them.
`publish` then replaces the manifest.
"""

import contextlib
import dataclasses
import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mrd_jax import locking, storage
from mrd_jax.search import (
    compaction,
    entries,
    leftovers,
    live_shapes,
    manifest,
    nearest,
    segment_writer,
    segments,
    shape_index,
)

# Shapes per staged segment: so many are lost if the process is killed.
STAGE = 512
LOCK_FILE = ".lock"
# Ids that an error lists.
_MAX_LISTED = 5


class BusyError(RuntimeError):
    """Another process changes the index."""


def check_new(folder: storage.PathLike) -> None:
    """Checks that an index can be created.

    Args:
      folder: folder to create.

    Raises:
      FileExistsError: the folder exists and is not empty.
      ValueError: the folder is in a bucket.
    """
    place = storage.path(folder)
    if storage.is_remote(place):
        raise ValueError(f"{folder} is in a bucket; create the index on this machine and copy it")
    if place.exists() and not (place.is_dir() and not any(place.iterdir())):
        raise FileExistsError(f"{folder} exists, and is not an index; choose another folder")


def create(folder: storage.PathLike, content: manifest.Manifest) -> None:
    """Creates an index without shapes.

    Args:
      folder: folder to create.
      content: its manifest.

    Raises:
      FileExistsError, ValueError: see `check_new`.
    """
    check_new(folder)
    place = storage.path(folder)
    storage.make_folder(place)
    manifest.write(place, content)


@contextlib.contextmanager
def open_writer(folder: storage.PathLike, *, user: str) -> Iterator["IndexWriter"]:
    """Yields a writer that holds the lock of an index.

    Args:
      folder: folder of an index.
      user: name of the command, for the error of a second writer.

    Raises:
      BusyError: another process changes the index; the message names it.
      FileNotFoundError, entries.CorruptIndexError: see `shape_index.read`.
      ValueError: the index is in a bucket.
    """
    place = storage.path(folder)
    if storage.is_remote(place):
        raise ValueError(
            f"{folder} is in a bucket, where an index cannot be changed; change a copy on this "
            "machine and upload it to a new folder"
        )
    manifest.read(place)  # before a lock file is created
    local = Path(place)
    with (local / LOCK_FILE).open("a+") as file:
        try:
            locking.lock(file, user=user)
        except locking.BusyError as error:
            raise BusyError(
                f"{folder} is being changed by {error.holder}; wait until it has finished"
            ) from error
        yield IndexWriter(local)


class IndexWriter:
    """Changes an index whose lock is held, see `open_writer`.

    Attributes:
      index: the index as it is published.
      manifest: its manifest.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._segments = folder / manifest.SEGMENTS
        self._open()
        self._new: list[live_shapes.Part] = []
        # Numbers of the removed shapes of each listed segment, and keys of the shapes to add.
        self._removed = {part.name: set(part.removed.tolist()) for part in self.index.layout.parts}
        self._added: set[int] = set()

    def _open(self) -> None:
        self.manifest = manifest.read(self._folder)
        self.index = shape_index.read(self._folder)
        self._known = np.sort(self.index.layout.keys())

    def __contains__(self, shape_id: str) -> bool:
        """Returns whether the published index, or what is staged, has a shape."""
        key = entries.key_of(shape_id)
        return key in self._added or self._is_published(shape_id)

    def staged(self) -> Iterator[tuple[entries.Item, live_shapes.Part, int]]:
        """Yields the shapes that a killed writer has left: metadata, segment and number."""
        listed = {listed.name for listed in self.manifest.segments}
        for name in leftovers.names(self._folder):
            if name in listed:
                continue
            with contextlib.suppress(OSError, ValueError, TypeError, KeyError):
                info = json.loads((self._segments / name / segments.SEGMENT_FILE).read_text())
                segment = segments.read(self._segments / name)
                same_points = segment.xyz.shape[1:] == self.index.xyz.shape[1:]
                if info["checkpoint"] != self.manifest.checkpoint or not same_points:
                    continue
                part = live_shapes.Part(segment, name, np.zeros(0, np.int64))
                for number in range(len(segment)):
                    yield segment.item(number), part, number

    def keep(self, part: live_shapes.Part, numbers: Iterable[int]) -> None:
        """Adds shapes of `staged` without writing them again.

        Args:
          part: a segment of `staged`.
          numbers: shapes in it.
        """
        kept = sorted(numbers)
        removed = np.setdiff1d(np.arange(len(part.segment)), kept)
        self._new.append(live_shapes.Part(part.segment, part.name, removed.astype(np.int64)))
        self._added |= set(part.segment.keys[kept].tolist())

    def add(self, shapes: Iterable[entries.Entry], *, replace: bool = False) -> int:
        """Stages shapes.

        Args:
          shapes: the shapes.
          replace: whether a shape may take the place of a published one with the same id.

        Returns:
          The number of shapes.

        Raises:
          ValueError: an id is not unique, or see `entries.Entry.check`.
        """
        iterator, count = iter(shapes), 0
        while (first := next(iterator, None)) is not None:
            name = self._next_name()
            with self._writer(name) as writer:
                for entry in self._take(first, iterator):
                    self._check_new(entry.item.id, replace=replace)
                    writer.add(entry)
                    self._added.add(entries.key_of(entry.item.id))
            segment = segments.read(self._segments / name)
            self._new.append(live_shapes.Part(segment, name, np.zeros(0, np.int64)))
            count += len(segment)
        return count

    def copy(self, part: live_shapes.Part) -> None:
        """Stages the shapes of a segment of another index that is not removed from it.

        Raises:
          ValueError: an id is not unique.
        """
        for number in part.live.tolist():
            shape_id = part.segment.item(number).id
            self._check_new(shape_id, replace=False)
            self._added.add(entries.key_of(shape_id))
        name = self._next_name()
        with self._writer(name) as writer:
            writer.copy(part.segment, part.live)
        segment = segments.read(self._segments / name)
        self._new.append(live_shapes.Part(segment, name, np.zeros(0, np.int64)))

    def remove(self, ids: Sequence[str]) -> None:
        """Removes shapes of the published index when `publish` is called.

        Raises:
          ValueError: there are no such shapes; nothing is removed.
        """
        unknown = [shape_id for shape_id in ids if not self._is_published(shape_id)]
        if unknown:
            more = f" and {len(unknown) - _MAX_LISTED} more" if len(unknown) > _MAX_LISTED else ""
            raise ValueError(
                f"{self._folder} has no shape {', '.join(map(repr, unknown[:_MAX_LISTED]))}{more}; "
                "nothing was removed. Ids are in the column id of mrd_jax.tools.search find"
            )
        self._remove_keys(np.array([entries.key_of(each) for each in ids], np.uint64))

    def publish(self, **changes: Any) -> None:
        """Makes the changes visible, and deletes segments that are no longer needed.

        Args:
          **changes: further fields of the manifest to change.
        """
        self._remove_keys(np.fromiter(self._added, np.uint64, len(self._added)))
        parts = [
            dataclasses.replace(part, removed=np.array(sorted(self._removed[part.name]), np.int64))
            for part in self.index.layout.parts
        ]
        groups = compaction.plan([*parts, *self._new], convert=self.manifest.format == 1)
        listed = tuple(self._store(group) for group in groups)
        before = self.manifest
        self.manifest = dataclasses.replace(
            self.manifest,
            format=manifest.FORMAT,
            points=self.index.xyz.shape[1],
            version=self.manifest.version + 1,
            segments=listed,
            **changes,
        )
        manifest.write(self._folder, self.manifest)
        self._open()
        self._new, self._added = [], set()
        self._removed = {part.name: set(part.removed.tolist()) for part in self.index.layout.parts}
        leftovers.delete_unlisted(self._folder, self.manifest)
        if before.format == manifest.FORMAT:
            leftovers.delete_format_1(self._folder)

    def _store(self, group: Sequence[live_shapes.Part]) -> manifest.Listed:
        """Returns the description of a segment, after its shapes were copied into one if needed."""
        name, removed = group[0].name, ""
        if compaction.must_copy(group):
            name = self._next_name()
            with self._writer(name) as writer:
                for part in group:
                    writer.copy(part.segment, part.live)
            shapes = len(writer)
        else:
            shapes = len(group[0].segment)
            removed = self._write_removed(name, group[0].removed)
        return manifest.Listed(name, shapes, removed, self._recall(name, shapes))

    def _recall(self, name: str, shapes: int) -> float | None:
        """Returns the recall of approximate search in a segment that needs a file for it."""
        before = {listed.name: listed.recall for listed in self.manifest.segments}
        if name in before:
            return before[name]
        if not self.manifest.ann or shapes < nearest.ANN_FROM:
            return None
        return nearest.write_ann_of(self._segments / name)

    def _write_removed(self, name: str, removed: np.ndarray) -> str:
        """Writes the numbers of removed shapes beside a segment; returns the name of the file."""
        if not len(removed):
            return ""
        file = f"removed-{self.manifest.version + 1:06d}.npy"
        np.save(self._segments / name / file, removed)
        return file

    def _remove_keys(self, keys: np.ndarray) -> None:
        """Removes shapes of the published index by their keys; others are ignored."""
        for part in self.index.layout.parts:
            found = np.flatnonzero(np.isin(part.segment.keys, keys))
            self._removed[part.name] |= set(found.tolist())

    def _is_published(self, shape_id: str) -> bool:
        key = np.uint64(entries.key_of(shape_id))
        place = np.searchsorted(self._known, key)
        return bool(place < len(self._known) and self._known[place] == key)

    def _check_new(self, shape_id: str, *, replace: bool) -> None:
        if entries.key_of(shape_id) in self._added:
            raise ValueError(f"shape {shape_id!r} occurs twice; expected unique ids")
        if not replace and self._is_published(shape_id):
            raise ValueError(
                f"{self._folder} already has a shape {shape_id!r}; remove it first, or use "
                "mrd_jax.tools.search update for files that have changed"
            )

    def _take(
        self, first: entries.Entry, others: Iterator[entries.Entry]
    ) -> Iterator[entries.Entry]:
        """Yields the shapes of one staged segment."""
        yield first
        for _ in range(STAGE - 1):
            if (entry := next(others, None)) is None:
                return
            yield entry

    def _writer(self, name: str) -> segment_writer.SegmentWriter:
        self._segments.mkdir(exist_ok=True)
        return segment_writer.SegmentWriter(
            self._segments / name,
            dim=self.index.rows.shape[1],
            points=self.index.xyz.shape[1],
            info={"checkpoint": self.manifest.checkpoint},
        )

    def _next_name(self) -> str:
        names = leftovers.names(self._folder)
        return f"{int((names or ['0'])[-1]) + 1:06d}"
