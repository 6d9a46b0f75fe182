# SPDX-License-Identifier: Apache-2.0
"""Shards of a shape cache: where they lie, and how the outcomes of items become one file.

A shard is a pure function of the source, the settings and its number, so every executor writes the
same bytes.
"""

import collections
import dataclasses
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep import shapes

# Shards per subfolder: file systems and buckets list folders of millions of files slowly.
PER_FOLDER = 1_000
# Item ids that the header lists for each kind of fault.
EXAMPLES = 5
# Field of the header for the ids of items that a later run may prepare: they exceeded a limit,
# ended their worker or met a fault of the program. Their reasons are among those of "skipped".
ABORTED = "aborted"


@dataclasses.dataclass(frozen=True)
class Shard:
    """Unit of work: consecutive items of a source, and the file of their shapes.

    Attributes:
      number: position among the shards of the source.
      path: file to write.
      items: items of the source.
    """

    number: int
    path: Path
    items: Sequence[Any]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """Result of preparing one item.

    Attributes:
      shape: prepared shape; None if there is none.
      reason: why there is no shape; "" if there is one.
      aborted: whether a later run may succeed: the item exceeded a limit, ended its worker or met a
        fault of the program.
      cpu_seconds: stage -> CPU seconds.
    """

    shape: shapes.Shape | None
    reason: str = ""
    aborted: bool = False
    cpu_seconds: Mapping[str, float] = dataclasses.field(default_factory=dict)


def path_of(cache_dir: Path, number: int) -> Path:
    """Returns the file of a shard.

    Args:
      cache_dir: folder of the shape cache.
      number: position among the shards of the source.
    """
    return cache_dir / f"{number // PER_FOLDER:04d}" / f"shard-{number:05d}.npz"


def number_of(path: Path) -> int:
    """Returns the number of a shard from the name of its file."""
    return int(path.stem.rpartition("-")[2])


def beside(path: Path, folder: Path) -> Path:
    """Returns the file in another folder that belongs to a shard, such as that of its features.

    Args:
      path: file of the shard.
      folder: folder that has the subfolders and file names of a shape cache.
    """
    return folder / path.parent.name / path.name


def list_paths(cache_dir: Path) -> list[Path]:
    """Returns the shards of a cache in the order of their numbers."""
    return sorted(Path(cache_dir).glob("*/shard-*.npz"), key=number_of)


def move_flat(folder: Path) -> int:
    """Moves files of shards that earlier versions wrote directly into a folder to its subfolders.

    Args:
      folder: folder of a shape cache, or of features; may be missing.

    Returns:
      Number of moved files.
    """
    flat = list(folder.glob("shard-*.npz"))
    for path in flat:
        target = path_of(folder, number_of(path))
        target.parent.mkdir(exist_ok=True)
        path.rename(target)
    return len(flat)


def remove_incomplete(cache_dir: Path, names: Collection[str]) -> None:
    """Deletes temporary files of writes that were killed.

    Args:
      cache_dir: folder of the shape cache.
      names: file names of shards that no other process writes.
    """
    for path in cache_dir.glob("*/.shard-*.tmp"):
        if path.name[1:].partition(".npz")[0] + ".npz" in names:
            path.unlink()


def remove_surplus(cache_dir: Path, *, count: int) -> None:
    """Deletes shards beyond the last one, which an earlier and larger input left.

    Args:
      cache_dir: folder of the shape cache.
      count: number of shards of the source.
    """
    for path in list_paths(cache_dir):
        if number_of(path) >= count:
            path.unlink()


def save(
    shard: Shard, outcomes: Sequence[Outcome], *, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Writes the file of a shard atomically.

    Args:
      shard: items and file.
      outcomes: outcome of each item.
      settings: fields of the header that describe how the items were prepared.

    Returns:
      The header of the file.

    Raises:
      OSError: the file cannot be written.
    """
    pairs = list(zip(shard.items, outcomes, strict=True))
    prepared = [outcome.shape for outcome in outcomes if outcome.shape is not None]
    header = {**settings, **item_fields(shard.items)}
    header["skipped"] = {item.id: each.reason for item, each in pairs if each.shape is None}
    aborted = [item.id for item, outcome in pairs if outcome.aborted]
    # Absent by default, as in shards of earlier versions.
    header |= {ABORTED: aborted} if aborted else {}
    header["faults"] = collections.Counter(f for shape in prepared for f in shape.faults)
    header["faulty"] = {
        kind: [shape.id for shape in prepared if kind in shape.faults][:EXAMPLES]
        for kind in header["faults"]
    }
    try:
        shapes.save_shard(shard.path, prepared, header=header)
    except OSError as error:  # such as a full disk, whose error does not name the file
        message = f"{error.strerror} (the same command continues after the other shards)"
        raise OSError(error.errno, message, str(shard.path)) from error
    return header


def item_fields(items: Sequence[Any]) -> dict[str, list[str]]:
    """Returns the header fields of items: ids, and fingerprints ("marks") if they have any."""
    fingerprints = [getattr(item, "fingerprint", "") for item in items]
    fields = {"items": [item.id for item in items]}
    return fields | ({"marks": fingerprints} if any(fingerprints) else {})
