# SPDX-License-Identifier: Apache-2.0
"""Brings an index up to date with folders of shapes: only what has changed is embedded.

A file has changed if its content, or that of a material or texture that it refers to, has another
checksum. The content is not read where sizes and times of modification are the same.
"""

import dataclasses
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import tqdm

from data_prep.geometry import clouds, formats
from data_prep.geometry.listing import printable
from data_prep.shape_names import name_of
from mrd_jax.encoder import Encoder
from mrd_jax.search import (
    display_meshes,
    embedded_files,
    entries,
    file_states,
    index_writer,
    live_shapes,
    read_ahead,
    shape_files,
)
from mrd_jax.search.file_states import FoundFile
from mrd_jax.search.manifest import Source

# A file that was modified in so many seconds may still be written.
SETTLE_SECONDS = 1.0
UNSETTLED = "is being written; it is read the next time"


@dataclasses.dataclass
class Report:
    """What `follow` did.

    Attributes:
      added: number of new shapes.
      changed: number of shapes that were embedded again.
      relabelled: number of shapes of which only the metadata in a table changed.
      unchanged: number of shapes that stayed.
      removed: number of shapes whose files are gone.
      skipped: (path, reason) of each file that could not be read; a shape that the index has of it
        stays.
      notes: what else is not read, one line each.
    """

    added: int = 0
    changed: int = 0
    relabelled: int = 0
    unchanged: int = 0
    removed: int = 0
    skipped: list[tuple[Path, str]] = dataclasses.field(default_factory=list)
    notes: list[str] = dataclasses.field(default_factory=list)

    def __str__(self) -> str:
        return (
            f"{self.added} added, {self.changed} changed, {self.relabelled} with new metadata, "
            f"{self.removed} removed, {self.unchanged} unchanged, {len(self.skipped)} skipped"
        )

    @property
    def is_change(self) -> bool:
        """Returns whether the index changes."""
        return bool(self.added or self.changed or self.relabelled or self.removed)


@dataclasses.dataclass(frozen=True)
class _Reading:
    """What a file holds: a cloud for the encoder, and its entry without an embedding."""

    cloud: clouds.Cloud
    entry: entries.Entry


def follow(
    writer: index_writer.IndexWriter,
    sources: Sequence[Source],
    *,
    encoder: Encoder,
    batch_size: int = 32,
) -> Report:
    """Adds the new shapes of some sources, embeds changed ones again, and removes missing ones.

    Nothing is visible until `writer.publish` is called. Shapes that a killed process has embedded
    are taken up.

    Args:
      writer: writer of the index.
      sources: folders and files.
      encoder: encoder of the index.
      batch_size: point clouds per batch.

    Raises:
      entries.IndexMismatchError: other readers than today's read the shapes of the index.
      FileNotFoundError: a source does not exist, or holds no shape.
      ValueError: a source overlaps with another, or see `shape_files.find`.
    """
    version = writer.manifest.reader_version
    if version != formats.READER_VERSION:
        raise entries.IndexMismatchError(
            f"the shapes of the index were read by version {version} of the readers of files, and "
            f"this is version {formats.READER_VERSION}; build the index again"
        )
    report = Report()
    found = _find_all(writer.index.folder, sources, report)
    todo = _compare(writer, found, report)
    _remove_missing(writer, found, sources, report)
    todo = _take_staged(writer, todo, report)
    _wait_until_settled(todo)
    bar = tqdm.tqdm(total=len(todo), desc="embedding", unit="file", disable=not todo)
    with bar:
        new = _embed(writer, todo, report, encoder=encoder, batch_size=batch_size, bar=bar)
        writer.add(new, replace=True)
    return report


def _find_all(index: Path, sources: Sequence[Source], report: Report) -> dict[int, FoundFile]:
    """Lists the files of all sources, by the keys of their ids."""
    found: dict[int, FoundFile] = {}
    for source in sources:
        place = Path(os.path.normpath(index / source.place))
        if not place.exists():
            raise FileNotFoundError(
                f"{source.given} is missing at {place}; its shapes stay in the index. Bring it "
                "back, or remove them with python -m mrd_jax.tools.search remove --source "
                f"{source.given}"
            )
        listing = shape_files.find([place], label_from=source.label_from or None)
        report.skipped += listing.skipped
        report.notes += listing.notes
        for file in listing.files:
            below = os.path.relpath(file.path, place)
            shape_id = source.given if below == "." else f"{source.given}/{below}"
            file = dataclasses.replace(file, up=file.up or source.up)
            shape = FoundFile(printable(shape_id), file, source)
            if found.setdefault(entries.key_of(shape.id), shape) is not shape:
                raise ValueError(f"two sources have a shape {shape.id!r}; expected unique ids")
    clouds.check_readable([shape.file.path for shape in found.values()])
    return found


def _compare(
    writer: index_writer.IndexWriter, found: dict[int, FoundFile], report: Report
) -> list[FoundFile]:
    """Returns the files to embed; stages shapes of which only the metadata changed."""
    index = writer.index
    keys = index.layout.keys()
    order = np.argsort(keys)
    todo, relabelled = [], []
    for key, shape in found.items():
        place = int(np.searchsorted(keys, np.uint64(key), sorter=order))
        if place == len(keys) or keys[order[place]] != key:
            todo.append(shape)
            continue
        number = int(order[place])
        item = index.items[number]
        if item.origin is None or not _is_current(item.origin, shape):
            todo.append(shape)
        elif (renamed := _with_metadata(item, shape)) != item:
            relabelled.append((number, renamed))
        else:
            report.unchanged += 1
    report.relabelled = writer.add(
        (
            entries.Entry(
                item,
                index.rows[number],
                index.xyz[number] / np.float64(entries.STEPS),
                index.rgb[number],
                index.picture(number),
                index.mesh(number),
            )
            for number, item in relabelled
        ),
        replace=True,
    )
    return todo


def _is_current(origin: entries.Origin, shape: FoundFile) -> bool:
    """Returns whether a shape is as it was; one with missing references is read to see that."""
    if not origin.incomplete:
        return file_states.is_current(origin, shape)
    try:
        content = clouds.read_content(
            shape.file.path,
            fill=0,
            root=shape.file.root or None,
            columns=shape.source.columns or None,
        )
        now = file_states.origin_of(shape, content)
    except (clouds.CloudError, OSError):
        return False  # the reason is reported when the file is read to be embedded
    return dataclasses.replace(now, stamp=origin.stamp) == origin


def _with_metadata(item: entries.Item, shape: FoundFile) -> entries.Item:
    """Returns an item with the metadata that its folder states now."""
    file = shape.file
    name = file.name or name_of(str(file.path))
    return dataclasses.replace(
        item, name=name, creator=file.creator, licence=file.licence, label=file.label
    )


def _remove_missing(
    writer: index_writer.IndexWriter,
    found: dict[int, FoundFile],
    sources: Sequence[Source],
    report: Report,
) -> None:
    """Removes the shapes of the sources whose files are gone."""
    prefixes = tuple(printable(f"{source.given}/") for source in sources)
    missing = [
        item.id
        for item in writer.index.items
        if item.origin is not None
        and item.id.startswith(prefixes)
        and entries.key_of(item.id) not in found
    ]
    writer.remove(missing)
    report.removed = len(missing)


def _take_staged(
    writer: index_writer.IndexWriter, todo: Sequence[FoundFile], report: Report
) -> list[FoundFile]:
    """Takes up what a killed process has embedded; returns the files that remain."""
    wanted = {shape.id: shape for shape in todo}
    parts: dict[str, live_shapes.Part] = {}
    kept: dict[str, list[int]] = {}
    for item, part, number in writer.staged():
        shape = wanted.get(item.id)
        if shape is None or item.origin is None or not file_states.is_current(item.origin, shape):
            continue
        if _with_metadata(item, shape) == item:
            report.changed += item.id in writer
            report.added += item.id not in writer
            del wanted[item.id]
            parts[part.name] = part
            kept.setdefault(part.name, []).append(number)
    for name, numbers in kept.items():
        writer.keep(parts[name], numbers)
    return list(wanted.values())


def _wait_until_settled(todo: Sequence[FoundFile]) -> None:
    """Waits once if a file was modified a moment ago."""
    now = time.time()
    ages = [now - path.stat().st_mtime for shape in todo if (path := shape.file.path).exists()]
    if any(0 <= age < SETTLE_SECONDS for age in ages):
        time.sleep(SETTLE_SECONDS)


def _embed(
    writer: index_writer.IndexWriter,
    todo: Sequence[FoundFile],
    report: Report,
    *,
    encoder: Encoder,
    batch_size: int,
    bar: tqdm.tqdm,
) -> Iterator[entries.Entry]:
    """Yields the entries of files, in chunks that are staged together."""
    points, faces = writer.index.xyz.shape[1], writer.manifest.mesh_faces

    def read(shape: FoundFile) -> _Reading | str:
        return _read(shape, encoder=encoder, points=points, mesh_faces=faces)

    for start in range(0, len(todo), index_writer.STAGE):
        chunk = todo[start : start + index_writer.STAGE]
        readings: list[_Reading] = []

        def usable(chunk=chunk, readings=readings) -> Iterator[tuple[np.ndarray, np.ndarray]]:
            results = read_ahead.map_ahead(read, chunk, count=2 * batch_size)
            for shape, reading in zip(chunk, results, strict=True):
                bar.update()
                if isinstance(reading, str):
                    report.skipped.append((shape.file.path, reading))
                    continue
                readings.append(reading)
                yield reading.cloud.xyz, reading.cloud.rgb

        rows = encoder.embed(usable(), batch_size=batch_size)
        for row, reading in zip(rows, readings, strict=True):
            is_old = reading.entry.item.id in writer
            report.changed += is_old
            report.added += not is_old
            yield dataclasses.replace(reading.entry, row=row)


def _read(shape: FoundFile, *, encoder: Encoder, points: int, mesh_faces: int) -> _Reading | str:
    """Reads a file; returns the reason if it cannot be used now."""
    path = shape.file.path
    columns = shape.source.columns or None
    conventions = clouds.Conventions.of(encoder.card)
    try:
        before = file_states.stamp_of(path, ())
        if not _is_settled(path):
            return UNSETTLED
        content = clouds.read_content(
            path, fill=conventions.colour_fill, root=shape.file.root or None, columns=columns
        )
        up = shape.file.up or None
        cloud = clouds.make_cloud(content, path=path, conventions=conventions, up=up)
        shown = clouds.make_cloud(
            content,
            path=path,
            conventions=dataclasses.replace(
                conventions, points=max(points, embedded_files.PICTURE_POINTS)
            ),
            up=up,
        )
        mesh = display_meshes.of_file(
            content,
            shown,
            up=clouds.vertical_axis(path, content, stated=up).up,
            conventions=conventions,
            max_faces=mesh_faces,
            points=points,
        )
        origin = file_states.origin_of(shape, content)
        if file_states.stamp_of(path, ()) != before:
            return UNSETTLED
    except (clouds.CloudError, OSError) as error:
        return str(error)
    entry = embedded_files.cloud_entry(shape.id, shape.file, shown, points=points, origin=origin)
    return _Reading(cloud, dataclasses.replace(entry, mesh=mesh))


def _is_settled(path: Path) -> bool:
    age = time.time() - path.stat().st_mtime
    return not 0 <= age < SETTLE_SECONDS
