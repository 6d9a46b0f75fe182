# SPDX-License-Identifier: Apache-2.0
"""Folders that an index follows, and whether the files in them have changed."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path

from data_prep.geometry import meshes
from data_prep.geometry.listing import printable
from mrd_jax.search import entries, shape_files
from mrd_jax.search.manifest import Source


@dataclasses.dataclass(frozen=True)
class FoundFile:
    """A shape in a source.

    Attributes:
      id: its id in the index: the path as the user wrote it, and the path below it.
      file: path and metadata.
      source: source that it was found in.
    """

    id: str
    file: shape_files.ShapeFile
    source: Source


def source_of(given: str, index: Path, *, up: str, columns: str, label_from: str) -> Source:
    """Returns the source of a path that a user gave.

    Args:
      given: file or folder.
      index: folder of the index.
      up: vertical axis of files that state none, or "".
      columns: names of the columns of text files, or "".
      label_from: folders that name the files, or "".
    """
    place = os.path.relpath(Path(given).resolve(), index.resolve())
    # A path may be any bytes; the manifest is text.
    return Source(given.rstrip("/") or given, _as_text(place), up, columns, label_from)


def _as_text(path: str) -> str:
    """Returns a path; raises ValueError if it cannot be stored as text."""
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"{printable(path)} is not UTF-8; an index follows only folders that are. Rename it"
        ) from error
    return path


def with_known_names(known: Sequence[Source], new: Sequence[Source]) -> list[Source]:
    """Returns new sources under the names by which an index knows them: ids stay the same.

    A folder may be written in several ways, such as shapes, ./shapes and /home/me/shapes.

    Args:
      known: sources of the index.
      new: sources as the user wrote them.
    """
    names = {source.place: source.given for source in known}
    return [
        dataclasses.replace(source, given=names.get(source.place, source.given)) for source in new
    ]


def merged_sources(known: Sequence[Source], new: Sequence[Source]) -> tuple[Source, ...]:
    """Returns the known sources with the new ones, which replace those of the same place.

    Raises:
      ValueError: a source contains another, or two have the same name.
    """
    by_place = {source.place: source for source in (*known, *new)}
    for place, source in by_place.items():
        inside = [other for other in by_place if other.startswith(f"{place}/")]
        if inside:
            raise ValueError(
                f"{by_place[inside[0]].given} lies in {source.given}, which the index follows "
                "already; update the index instead"
            )
        same = [other for other in by_place.values() if other.given == source.given]
        if len(same) > 1:
            raise ValueError(
                f"the index follows another {source.given}, at {same[0].place} from the index; "
                "write the path of the new one in another way, such as an absolute path"
            )
    return tuple(by_place.values())


def origin_of(shape: FoundFile, content: meshes.Content) -> entries.Origin:
    """Returns the state of the files of a shape.

    Args:
      shape: file that was read.
      content: its content.

    Raises:
      OSError: a file has disappeared.
    """
    path = shape.file.path
    references = tuple(sorted(os.path.relpath(file, path.parent) for file in content.files))
    return entries.Origin(
        checksum_of(path, references, columns=shape.source.columns),
        stamp_of(path, references),
        up=shape.file.up,
        references=references,
        incomplete=any(note.startswith("missing") for note in content.notes),
    )


def is_current(origin: entries.Origin, shape: FoundFile) -> bool:
    """Returns whether the files of a shape are as they were when it was embedded.

    It is False for a shape whose files were incomplete: the missing ones may have appeared.
    """
    path = shape.file.path
    if origin.up != shape.file.up or origin.incomplete:
        return False
    try:
        if stamp_of(path, origin.references) == origin.stamp:
            return True
        columns = shape.source.columns
        return checksum_of(path, origin.references, columns=columns) == origin.checksum
    except OSError:
        return False


def stamp_of(path: Path, references: Sequence[str]) -> str:
    """Returns a checksum of the sizes and times of modification of a file and its references."""
    digest = hashlib.sha256()
    for file in (path, *(path.parent / name for name in references)):
        status = file.stat()
        digest.update(f"{status.st_size} {status.st_mtime_ns}\n".encode())
    return digest.hexdigest()


def checksum_of(path: Path, references: Sequence[str], *, columns: str) -> str:
    """Returns a checksum of the contents of a file and its references, and of how it is read."""
    digest = hashlib.sha256(f"{columns}\n".encode())
    for file in (path, *(path.parent / name for name in references)):
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    return digest.hexdigest()
