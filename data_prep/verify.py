# SPDX-License-Identifier: Apache-2.0
"""Checks every shard and every record of prepared data sets, and lists all faults.

python -m data_prep.verify data/furniture/1.0.0

Prints one line per fault with the file, the position of the record in it and the record's id. Exit
status: 0 without faults, 1 with faults, 2 if a folder holds no data set or an argument is invalid.
"""

import concurrent.futures
import dataclasses
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import tensorflow_datasets as tfds
import tqdm
from array_record.python import array_record_module

from data_prep import checks, evaluation, flag_types
from mrd_jax import storage
from mrd_jax.cli import command
from mrd_jax.data import dataset_metadata, source

# Records that a process checks at a time.
RECORDS_PER_PART = 1_024
# Starting a process takes about as long as checking this many records.
RECORDS_PER_PROCESS = 4_096


@dataclasses.dataclass(frozen=True)
class Part:
    """Consecutive records of one shard.

    Attributes:
      directory: folder of the data set.
      split: split of the shard.
      file: file name of the shard.
      offset: position of the shard's first record in the split.
      start: position of the first record in the shard.
      stop: position after the last record in the shard.
      classes: number of classes of the data set; None if unknown.
    """

    directory: storage.Path
    split: str
    file: str
    offset: int
    start: int
    stop: int
    classes: int | None


@dataclasses.dataclass(frozen=True)
class CheckedRecord:
    """Identity and position of a record that could be read."""

    id: str
    name: str
    split: str
    file: str
    position: int


@dataclasses.dataclass(frozen=True)
class Report:
    """Result of checking a data set.

    Attributes:
      directory: folder of the data set.
      faults: all faults, sorted.
      records: split -> number of records that could be read.
      shards: number of shards that could be opened.
      bytes: size of these shards.
      seconds: wall time.
    """

    directory: storage.Path
    faults: Sequence[checks.Fault]
    records: Mapping[str, int]
    shards: int
    bytes: int
    seconds: float

    def __str__(self) -> str:
        """Returns a summary of one line."""
        records = ", ".join(f"{count} {split}" for split, count in self.records.items())
        faults = {0: "no fault", 1: "1 fault"}.get(len(self.faults), f"{len(self.faults)} faults")
        return (
            f"{self.directory}: {records or 'no'} records read in {self.shards} shards of "
            f"{self.bytes} bytes, {self.seconds:.1f} s: {faults}"
        )


def verify(directory: storage.PathLike, *, workers: int | None = None) -> Report:
    """Checks a data set; a fault in one place does not hide a fault in another.

    Args:
      directory: folder of the data set, version included.
      workers: largest number of processes; None for one per core.

    Raises:
      FileNotFoundError: the folder holds no data set.
    """
    directory, started = storage.path(directory), time.monotonic()
    dataset_metadata.check_exists(directory)
    try:
        metadata = dataset_metadata.read(directory)
        info = tfds.builder_from_directory(str(directory)).info
        splits = {split: source.open_split(directory, split) for split in info.splits}
    except (FileNotFoundError, ValueError) as error:
        fault = checks.file_fault(directory.name, str(error))
        return Report(directory, [fault], {}, 0, 0, time.monotonic() - started)
    counts = {split: len(opened) for split, opened in splits.items()}
    faults = list(checks.metadata_faults(metadata, splits=counts, features=info.features))
    folder = directory / "evaluation"
    classes, class_faults = checks.check_classes(
        folder, metadata=metadata, dim=info.features["image_features"].shape[-1]
    )
    parts, shard_faults = _parts(splits, classes=classes)
    faults += class_faults + shard_faults
    read: list[CheckedRecord] = []
    for part_records, part_faults in _checked(parts, workers=workers or os.cpu_count() or 1):
        read += part_records
        faults += part_faults
    faults += _repeated_ids(read)
    complete = len(read) == sum(counts.values())
    splits_read = _ids_by_split(read)
    faults += _unseen_name_faults(folder, read, splits_read, complete=complete)
    faults += _group_faults(folder, splits_read, complete=complete)
    files = {part.file for part in parts}
    return Report(
        directory,
        sorted(faults),
        {split: sum(record.split == split for record in read) for split in splits},
        len(files),
        sum((directory / file).stat().length for file in files),
        time.monotonic() - started,
    )


def _parts(
    splits: Mapping[str, source.RecordSource], *, classes: int | None
) -> tuple[list[Part], list[checks.Fault]]:
    """Returns the records that exist, and the shards that are missing, corrupt or incomplete."""
    parts, faults = [], []
    for split, opened in splits.items():
        offset = 0
        for file, listed in opened.shards:
            count, reason = _length(opened.directory / file)
            if reason is None and count != listed:
                reason = f"holds {count} records, dataset_info.json says {listed}"
            if reason is not None:
                faults.append(checks.file_fault(file, reason))
            stop = min(count, listed)
            parts += [
                Part(
                    opened.directory, split, file, offset, start,
                    min(start + RECORDS_PER_PART, stop), classes,
                )
                for start in range(0, stop, RECORDS_PER_PART)
            ]  # fmt: skip
            offset += listed
    return parts, faults


def _length(path: storage.Path) -> tuple[int, str | None]:
    """Returns the number of records of a shard, and the reason if it cannot be opened."""
    if not path.is_file():
        return 0, "is missing"
    try:
        reader = array_record_module.ArrayRecordReader(str(path))
        try:
            return reader.num_records(), None
        finally:
            reader.close()
    except (RuntimeError, ValueError) as error:
        return 0, f"cannot be opened: {error}"


def _checked(
    parts: Sequence[Part], *, workers: int
) -> Iterator[tuple[list[CheckedRecord], list[checks.Fault]]]:
    """Yields `check_part` of every part, in order, with a progress bar."""
    total = sum(part.stop - part.start for part in parts)
    workers = min(workers, 1 + total // RECORDS_PER_PROCESS)
    with tqdm.tqdm(total=total, desc="verify", unit="record") as bar:
        for part, result in zip(parts, _mapped(parts, workers=workers), strict=True):
            yield result
            bar.update(part.stop - part.start)


def _mapped(parts: Sequence[Part], *, workers: int) -> Iterator:
    if workers == 1:
        yield from map(check_part, parts)
        return
    # Spawned, not forked: the caller may use JAX, whose threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(check_part, parts)


def check_part(part: Part) -> tuple[list[CheckedRecord], list[checks.Fault]]:
    """Reads and checks consecutive records.

    Returns:
      The records that could be read, and the faults.
    """
    opened = source.open_split(part.directory, part.split)
    pictures = part.directory / "evaluation" / "pictures"
    read, faults = [], []
    for position in range(part.start, part.stop):
        try:
            record = opened[part.offset + position]
        except RuntimeError as error:
            reason = f"cannot be read: {error.__cause__}"
            faults.append(checks.Fault(part.file, position, "", reason))
            continue
        read.append(CheckedRecord(record["id"], record["name"], part.split, part.file, position))
        faults += [
            checks.Fault(part.file, position, record["id"], reason)
            for reason in checks.record_reasons(record, classes=part.classes, pictures=pictures)
        ]
    return read, faults


def _repeated_ids(read: Sequence[CheckedRecord]) -> Iterator[checks.Fault]:
    """Yields a fault for each id that an earlier record of any split has."""
    first: dict[str, CheckedRecord] = {}
    for record in read:
        earlier = first.setdefault(record.id, record)
        if earlier is not record:
            reason = f"has the same id as record {earlier.position} of {earlier.file}"
            yield checks.Fault(record.file, record.position, record.id, reason)


def _unseen_name_faults(
    folder: storage.Path,
    read: Sequence[CheckedRecord],
    splits: Mapping[str, Sequence[str]],
    *,
    complete: bool,
) -> Iterator[checks.Fault]:
    """Compares the list of unseen names with the records' names, if all records could be read."""
    name = "unseen_names.json"
    listed, faults = checks.read_texts(folder, name)
    yield from faults
    if listed is None or not complete:
        return
    wrong = sorted(set(listed) ^ set(evaluation.unseen_names(read, splits)))
    if wrong:
        reason = f"{len(wrong)} ids contradict the records' names"
        yield checks.file_fault(f"{folder.name}/{name}", f"{reason}, such as {wrong[0]!r}")


def _group_faults(
    folder: storage.Path, splits: Mapping[str, Sequence[str]], *, complete: bool
) -> Iterator[checks.Fault]:
    """Yields groups of shapes that do not exist, and groups that are in two splits."""
    groups, faults = checks.read_groups(folder)
    yield from faults
    file = f"{folder.name}/{evaluation.GROUPS_FILE}"
    unknown = sorted(groups.keys() - set().union(*splits.values()))
    if unknown and complete:
        reason = f"has {len(unknown)} ids that no record has, such as {unknown[0]!r}"
        yield checks.file_fault(file, reason)
    crossing = evaluation.crossing_groups(groups, splits)
    for group, names in sorted(crossing.items())[:1]:
        reason = f"{len(crossing)} groups are in two splits, such as {group!r} in {names}"
        yield checks.file_fault(file, reason)


def _ids_by_split(read: Sequence[CheckedRecord]) -> dict[str, list[str]]:
    splits: dict[str, list[str]] = {}
    for record in read:
        splits.setdefault(record.split, []).append(record.id)
    return splits


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of `verify` and returns its exit status.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m data_prep.verify")
    parser.add_argument(
        "directory",
        nargs="+",
        type=command.path,
        help="folder of a data set, such as data/furniture/1.0.0",
    )
    parser.add_argument(
        "--workers", type=flag_types.integer(1), help="processes; default: one per core"
    )
    options = parser.parse_args(arguments)
    for directory in options.directory:
        dataset_metadata.check_exists(directory)
    status = 0
    for directory in options.directory:
        report = verify(directory, workers=options.workers)
        for fault in report.faults:
            print(fault)
        print(report, flush=True)
        status |= bool(report.faults)
    return status


if __name__ == "__main__":
    sys.exit(main())
