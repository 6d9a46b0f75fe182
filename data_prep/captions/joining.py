# SPDX-License-Identifier: Apache-2.0
"""Joins caption files to shapes by id, and counts what matches."""

import dataclasses
import functools
import hashlib
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from data_prep.captions.ids import ShapeIds
from data_prep.captions.matches import EXAMPLES, Matches
from data_prep.captions.rows import Reader
from data_prep.geometry.listing import printable
from data_prep.sources import openshape
from mrd_jax.data import batch_spec

# Kind of a file that adds no captions, but rejects names: OpenShape's GPT-4 filter.
FILTER = "gpt4_filter"
# Kinds of captions that a file may add. Names are averaged over prompts; rejected ones come from
# the filter.
KINDS = (*(kind for kind in batch_spec.CAPTION_KINDS if kind != "name_rejected"), FILTER)


@dataclasses.dataclass(frozen=True)
class CaptionFile:
    """Value of `--captions`.

    Attributes:
      path: file of captions, or of the filter.
      kind: one of `KINDS`.
    """

    path: Path
    kind: str

    def __str__(self) -> str:
        return f"{self.path}:{self.kind}"

    def content(self) -> str:
        """Returns name, kind and checksum, which identify the captions in metadata."""
        status = self.path.stat()
        checksum = _checksum(self.path, status.st_size, status.st_mtime_ns)
        return f"{self.path.name}:{self.kind} sha256 {checksum}"


def parse(text: str) -> CaptionFile:
    """Parses a value of `--captions`, FILE:KIND.

    Raises:
      ValueError: the kind is missing or unknown, or the file does not exist or has another type.
    """
    name, colon, kind = text.rpartition(":")
    if not colon or kind not in KINDS:
        raise ValueError(f"{text}: expected FILE:KIND, with one of the kinds {', '.join(KINDS)}")
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"{text}: {path} is not a file")
    if kind == FILTER:
        if path.suffix.lower() != ".json":
            raise ValueError(f"{text}: expected OpenShape's gpt4_filtering.json")
    else:
        Reader(path)
    return CaptionFile(path, kind)


class Captions:
    """Captions of the shapes of a source, from several files.

    Only ids and positions are in memory, 24 bytes per row of a file; texts are read on demand.

    Args:
      ids: ids of the shapes.
      files: joined caption files, in the order of the command line.
      rejected: whether the filter rejects the name, for each shape; None without a filter.
      notes: what was joined, one line per file and further ones about omissions.
    """

    def __init__(
        self,
        ids: ShapeIds,
        files: Sequence["_JoinedFile"],
        *,
        rejected: np.ndarray | None,
        notes: Sequence[str],
    ):
        self._ids = ids
        self._files = files
        self._rejected = rejected
        self.notes = tuple(notes)

    def of(self, shape_id: str) -> tuple[tuple[str, str], ...]:
        """Returns the (kind, text) pairs of a shape, in the order of the files and their rows.

        Raises:
          ValueError: a file has changed since it was joined.
        """
        position = self._ids.position(shape_id)
        pairs = ((file.kind, text) for file in self._files for text in file.texts(position))
        return tuple(dict.fromkeys(pairs))

    def rejects_name(self, shape_id: str) -> bool:
        """Returns whether the filter rejects the name of a shape."""
        return self._rejected is not None and bool(self._rejected[self._ids.position(shape_id)])


def join(files: Sequence[CaptionFile], shape_ids: Iterable[str]) -> Captions:
    """Joins caption files to shapes.

    Args:
      files: files and kinds.
      shape_ids: distinct ids of all shapes of the source.

    Raises:
      ValueError: a file is invalid, or none of its ids is that of a shape.
    """
    ids = ShapeIds(shape_ids)
    joined, notes = [], []
    rejected = None
    for file in files:
        if file.kind == FILTER:
            rejected = np.zeros(len(ids), bool) if rejected is None else rejected
            notes += _apply_filter(file, ids, rejected)
        else:
            joined.append(_JoinedFile(file, ids))
            notes += joined[-1].notes
    return Captions(ids, joined, rejected=rejected, notes=notes)


class _JoinedFile:
    """Rows of one caption file by shape.

    Args:
      file: path and kind.
      ids: index of the shapes.

    Raises:
      ValueError: the file is invalid, or none of its ids is that of a shape.
    """

    def __init__(self, file: CaptionFile, ids: ShapeIds):
        self.kind = file.kind
        self._reader = Reader(file.path)
        matches = Matches(ids)
        counts = dict.fromkeys(("empty", "without an id", "not UTF-8"), 0)
        first_line: dict[str, int] = {}
        rows = 0
        for row in self._reader.rows():
            rows += 1
            fault = _fault(row)
            if fault:
                counts[fault] += 1
                first_line.setdefault(fault, row.line)
            else:
                matches.add(row.id, row.start, row.stop)
        self._rows = matches.finish()
        shapes = len(np.unique(self._rows[:, 0]))
        _check_any(file, matches, ids, shapes=shapes, rows=rows)
        self.notes = [
            f"{file.path.name} ({file.kind}): {rows} rows, {len(self._rows)} of them match "
            f"{shapes} of {len(ids)} shapes; {matches.describe_unmatched()}"
        ]
        self.notes += [
            f"  left out, {fault}: {count} rows, the first in line {first_line[fault]}"
            for fault, count in counts.items()
            if count
        ]
        if matches.ambiguous:
            self.notes.append(f"  left out, ambiguous id: {matches.ambiguous} rows")
        repeated = self._count_repeated()
        if repeated:
            self.notes.append(f"  left out, same id and caption: {repeated}")

    def texts(self, position: int) -> list[str]:
        """Returns the captions of a shape, in the order of the file."""
        first, last = np.searchsorted(self._rows[:, 0], [position, position + 1])
        if first == last:
            return []
        rows = self._reader.read(self._rows[first:last, 1:].tolist())
        return [text for row in rows for text in row.texts]

    def _count_repeated(self) -> int:
        """Returns the number of captions that repeat an earlier one of the same shape."""
        shapes, counts = np.unique(self._rows[:, 0], return_counts=True)
        several = (self.texts(position) for position in shapes[counts > 1].tolist())
        return sum(len(texts) - len(set(texts)) for texts in several)


def _fault(row) -> str:
    """Returns why a row is left out; "" if it is not."""
    if not row.is_utf8:
        return "not UTF-8"
    if not row.id:
        return "without an id"
    return "" if row.texts else "empty"


def _apply_filter(file: CaptionFile, ids: ShapeIds, rejected: np.ndarray) -> list[str]:
    """Marks the shapes whose names the filter rejects, and returns notes."""
    matches, flags = Matches(ids), openshape.read_filter(file.path)
    for found_id, is_rejected in flags.items():
        matches.add(found_id, int(is_rejected))
    rows = matches.finish()
    _check_any(file, matches, ids, shapes=len(rows), rows=len(flags))
    rejected[rows[rows[:, 1] > 0, 0]] = True
    return [
        f"{file.path.name} ({file.kind}): {len(flags)} names, {len(rows)} of them match "
        f"{len(rows)} of {len(ids)} shapes and reject {np.count_nonzero(rows[:, 1])}; "
        f"{matches.describe_unmatched()}"
    ]


def _check_any(
    file: CaptionFile, matches: Matches, ids: ShapeIds, *, shapes: int, rows: int
) -> None:
    """Raises ValueError if a file has nothing for any shape."""
    if shapes:
        return
    found, expected = (
        ", ".join(map(printable, examples)) or "none"
        for examples in (matches.examples, ids.first(EXAMPLES))
    )
    raise ValueError(
        f"--captions {file}: none of its {rows} rows is for a shape of the source; its ids are "
        f"such as {found}, those of the source such as {expected}"
    )


@functools.lru_cache
def _checksum(path: Path, size: int, modified_ns: int) -> str:
    """Returns the SHA-256 of a file; size and time identify its version."""
    del size, modified_ns
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
