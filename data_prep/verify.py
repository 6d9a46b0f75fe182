# SPDX-License-Identifier: Apache-2.0
"""Opens every shard and every record of prepared data sets and names what is wrong.

python -m data_prep.verify data/furniture/1.0.0

Exit status 0: nothing is. 1: something is; a line names the file, the record's place in it and its
id. 2: a folder holds no data set, or the command line cannot be understood.
"""

import argparse
import concurrent.futures
import dataclasses
import multiprocessing
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import tensorflow_datasets as tfds
import tqdm
from array_record.python import array_record_module

from data_prep import checks, evaluation
from mrd_jax.data import source

# Records that a process takes at a time.
RECORDS_PER_PART = 1_024
# A process takes about as long to start as this many records take to check.
RECORDS_PER_PROCESS = 4_096


@dataclasses.dataclass(frozen=True)
class Part:
    """A run of records of one shard.

    Attributes:
      directory: of the data set.
      split: that the shard belongs to.
      file: of the shard.
      offset: place of the shard's first record in the split.
      start: place of the first record in the shard.
      stop: place behind the last one.
      classes: of the data set; None where that is not known.
    """

    directory: Path
    split: str
    file: str
    offset: int
    start: int
    stop: int
    classes: int | None


@dataclasses.dataclass(frozen=True)
class Seen:
    """A record that could be read."""

    id: str
    name: str
    split: str
    file: str
    place: int


@dataclasses.dataclass(frozen=True)
class Report:
    """What was found in a data set.

    Attributes:
      directory: of it.
      faults: everything that is wrong.
      records: read and checked, by split.
      shards: that could be opened.
      bytes: of them.
      seconds: wall time.
    """

    directory: Path
    faults: Sequence[checks.Fault]
    records: Mapping[str, int]
    shards: int
    bytes: int
    seconds: float

    def __str__(self) -> str:
        """One line for people."""
        records = ", ".join(f"{count} {split}" for split, count in self.records.items())
        faults = {0: "no fault", 1: "1 fault"}.get(len(self.faults), f"{len(self.faults)} faults")
        return (
            f"{self.directory}: {records or 'no'} records read in {self.shards} shards of "
            f"{self.bytes} bytes, {self.seconds:.1f} s: {faults}"
        )


def verify(directory: Path | str, *, workers: int | None = None) -> Report:
    """Checks a data set; a fault in one place does not hide one in another.

    Args:
      directory: of the data set, version included.
      workers: processes at most; None for one per core.

    Raises:
      FileNotFoundError: there is no data set.
    """
    directory, started = Path(directory), time.monotonic()
    source.check_exists(directory)
    try:
        metadata = source.read_metadata(directory)
        info = tfds.builder_from_directory(str(directory)).info
        splits = {split: source.open_split(directory, split) for split in info.splits}
    except (FileNotFoundError, ValueError) as error:
        fault = checks.of_file(directory.name, str(error))
        return Report(directory, [fault], {}, 0, 0, time.monotonic() - started)
    counts = {split: len(opened) for split, opened in splits.items()}
    faults = list(checks.metadata_faults(metadata, splits=counts, features=info.features))
    folder = directory / "evaluation"
    classes, found = checks.classes(
        folder, metadata=metadata, dim=info.features["image_features"].shape[-1]
    )
    faults += found
    parts, found = _parts(splits, classes=classes)
    faults += found
    seen: list[Seen] = []
    for one, found in _checked(parts, workers=workers or os.cpu_count() or 1):
        seen += one
        faults += found
    faults += _repeated(seen)
    complete = len(seen) == sum(counts.values())
    faults += _unseen_name_faults(folder, seen, complete=complete)
    files = {part.file for part in parts}
    return Report(
        directory,
        sorted(faults),
        {split: sum(one.split == split for one in seen) for split in splits},
        len(files),
        sum((directory / file).stat().st_size for file in files),
        time.monotonic() - started,
    )


def _parts(
    splits: Mapping[str, source.RecordSource], *, classes: int | None
) -> tuple[list[Part], list[checks.Fault]]:
    """The records that are there, and shards that are missing, damaged or of another length."""
    parts, faults = [], []
    for split, opened in splits.items():
        offset = 0
        for file, listed in opened.shards:
            held, reason = _length(opened.directory / file)
            if reason is None and held != listed:
                reason = f"holds {held} records, dataset_info.json says {listed}"
            if reason is not None:
                faults.append(checks.of_file(file, reason))
            stop = min(held, listed)
            parts += [
                Part(
                    opened.directory, split, file, offset, start,
                    min(start + RECORDS_PER_PART, stop), classes,
                )
                for start in range(0, stop, RECORDS_PER_PART)
            ]  # fmt: skip
            offset += listed
    return parts, faults


def _length(path: Path) -> tuple[int, str | None]:
    """How many records a shard holds, and why that cannot be known."""
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
) -> Iterator[tuple[list[Seen], list[checks.Fault]]]:
    """`check_part` of every part, in order, with a progress bar."""
    total = sum(part.stop - part.start for part in parts)
    workers = min(workers, 1 + total // RECORDS_PER_PROCESS)
    with tqdm.tqdm(total=total, desc="verify", unit="record") as bar:
        for part, found in zip(parts, _mapped(parts, workers=workers), strict=True):
            yield found
            bar.update(part.stop - part.start)


def _mapped(parts: Sequence[Part], *, workers: int) -> Iterator:
    if workers == 1:
        yield from map(check_part, parts)
        return
    # Spawned, not forked: the caller may hold JAX, whose threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from pool.map(check_part, parts)


def check_part(part: Part) -> tuple[list[Seen], list[checks.Fault]]:
    """Reads and checks a run of records.

    Returns:
      the records that could be read, and what is wrong.
    """
    opened = source.open_split(part.directory, part.split)
    pictures = part.directory / "evaluation" / "pictures"
    seen, faults = [], []
    for place in range(part.start, part.stop):
        try:
            record = opened[part.offset + place]
        except RuntimeError as error:
            reason = f"cannot be read: {error.__cause__}"
            faults.append(checks.Fault(part.file, place, "", reason))
            continue
        seen.append(Seen(record["id"], record["name"], part.split, part.file, place))
        faults += [
            checks.Fault(part.file, place, record["id"], reason)
            for reason in checks.record_reasons(record, classes=part.classes, pictures=pictures)
        ]
    return seen, faults


def _repeated(seen: Sequence[Seen]) -> Iterator[checks.Fault]:
    """Ids that an earlier record of any split has already."""
    first: dict[str, Seen] = {}
    for one in seen:
        other = first.setdefault(one.id, one)
        if other is not one:
            reason = f"the id is that of record {other.place} of {other.file}, too"
            yield checks.Fault(one.file, one.place, one.id, reason)


def _unseen_name_faults(
    folder: Path, seen: Sequence[Seen], *, complete: bool
) -> Iterator[checks.Fault]:
    """The list of unseen names, against the records' names where all could be read."""
    name = "unseen_names.json"
    listed, faults = checks.read_texts(folder, name)
    yield from faults
    if listed is None or not complete:
        return
    splits: dict[str, list[str]] = {}
    for one in seen:
        splits.setdefault(one.split, []).append(one.id)
    wrong = sorted(set(listed) ^ set(evaluation.unseen_names(seen, splits)))
    if wrong:
        reason = f"by the records' names, {len(wrong)} ids are listed or left out in error"
        yield checks.of_file(f"{folder.name}/{name}", f"{reason}, such as {wrong[0]!r}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line of `verify`.

    Args:
      arguments: without the program's name; None takes the process's own.

    Returns:
      exit status.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", nargs="+", type=Path, help="such as data/furniture/1.0.0")
    parser.add_argument("--workers", type=int, help="processes; one per core where left out")
    options = parser.parse_args(arguments)
    for directory in options.directory:
        try:
            source.check_exists(directory)
        except FileNotFoundError as error:
            parser.error(str(error))
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
