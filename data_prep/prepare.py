# SPDX-License-Identifier: Apache-2.0
"""Prepares raw data into a cache of shapes, in parallel and resumable by shard.

python -m data_prep.prepare --source furniture --input DIR --output DIR

`data_prep.build` runs this as its first stage. --part 0/3 prepares every third shard.
"""

import collections
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import tqdm

from data_prep import (
    build_flags,
    disk_space,
    executors,
    licences,
    lock,
    progress,
    shapes,
    shards,
    sources,
)
from data_prep.build_flags import IMAGE_SIZE, POINTS, VIEWS, Execution
from data_prep.geometry import formats
from data_prep.parts import WHOLE
from data_prep.shards import Shard
from data_prep.sources import shape_files
from data_prep.summary import Summary
from mrd_jax.cli import command

ITEMS_PER_SHARD = 32
# Increased whenever the content of prepared shapes changes: older shards are then prepared again.
FORMAT = 2
# A preparation stops once this many items were given up, and they are half of those it tried: then
# the machine or the installation is at fault.
MIN_ABORTED = 20
# Field of the header for the version of the readers; shards without it are of version 1.
READER = "reader_version"
OUTDATED = (
    "{} items that an earlier version of the readers of files prepared are prepared again: "
    "version {} reads more colours and transforms as the file formats define them"
)


def check_input(source: str, input_dir: Path) -> None:
    """Checks the source and that the folder of the raw data exists.

    Raises:
      ValueError: the source is unknown, or the folder is missing.
    """
    sources.find(source)
    if not Path(input_dir).is_dir():
        raise ValueError(
            f"--input {input_dir}: not a folder; expected the folder of the raw data of {source!r}"
        )


def prepare_shapes(
    source: str,
    input_dir: Path,
    cache_dir: Path,
    *,
    points: int = POINTS,
    views: int = VIEWS,
    image_size: int = IMAGE_SIZE,
    seed: int = 0,
    label_from: str | None = None,
    licence: Sequence[str] = (),
    execution: Execution | None = None,
) -> Summary:
    """Prepares every item of a source into the shards of a cache.

    Shards that were made from the same items with the same settings are kept, so an interrupted
    run resumes where it stopped. The result does not depend on the execution.

    Args:
      source: name in `sources.SOURCES`.
      input_dir: folder of the raw data.
      cache_dir: folder of the shards, one per source family.
      points: points per shape.
      views: rendered views per shape, at most; blank views are dropped.
      image_size: side of the views in pixels.
      seed: seed of the point sampling.
      label_from: value of --label_from, see `sources.folder`.
      licence: short names of the licences of the items to prepare; () for all. Shards that hold
        others from an earlier run are kept.
      execution: how the items are prepared; None for the defaults.

    Returns:
      Counts and times. Items of reused shards that were skipped or repaired count as such.

    Raises:
      ValueError: the source is unknown or the folder holds none of its data.
      executors.ItemError: an item cannot be read for a reason that the user can remove.
      executors.AbortedError: most of the items were given up. Without worker processes, the
        exception of the source itself is raised in place of both.
    """
    check_input(source, input_dir)
    start = time.monotonic()
    execution = execution or Execution()
    executor = execution.create()
    input_dir, cache_dir = Path(input_dir), Path(cache_dir)
    origin = sources.find(source, label_from=label_from)
    items, notes = list_items(origin, input_dir)
    settings = {"points": points, "views": views, "image_size": image_size, "seed": seed}
    # Part of the header of shards whose shapes come from files.
    reader = {READER: formats.READER_VERSION} if origin.family in sources.FILE_FAMILIES else {}
    job = executors.Job(
        prepare=licences.Filter(origin.prepare, licence) if licence else origin.prepare,
        options=settings,
        header={"format": FORMAT, **settings, **reader, **_camera_order(views)},
        limits=execution.limits,
        input=input_dir,
        cache_dir=cache_dir,
    )
    moved = shards.move_flat(cache_dir)
    if moved:
        notes = [*notes, f"{moved} shards of an earlier version were moved to subfolders"]
    mine = [shard for shard in _split(items, cache_dir) if execution.part.has(shard.number)]
    shards.remove_incomplete(cache_dir, {shard.path.name for shard in mine})
    summary = Summary(read=sum(len(shard.items) for shard in mine), notes=notes)
    pending = _find_pending(
        mine, job, summary, licence=licence, retry_skipped=execution.retry_skipped
    )
    if execution.part == WHOLE:
        shards.remove_surplus(cache_dir, count=len(mine))
    disk_space.check_shapes(
        cache_dir,
        sum(len(shard.items) for shard in pending),
        points=points,
        views=views,
        image_size=image_size,
    )
    _run(executor, job, pending, summary, listener=execution.listener)
    summary.check()
    summary.seconds = time.monotonic() - start
    return summary


def _camera_order(views: int) -> dict[str, str]:
    """Returns the part of a header that tells shards with fewer than all cameras from earlier ones.

    Earlier versions took the first cameras, which look from above, not those that are spread.
    """
    return {"cameras": "spread"} if 0 < views < VIEWS else {}


def _run(
    executor: executors.Executor,
    job: executors.Job,
    pending: Sequence[Shard],
    summary: Summary,
    *,
    listener: progress.Listener,
) -> None:
    """Prepares shards, and adds them to the summary."""
    counter = progress.Counter(listener, "shapes", unit="shape", total=summary.read)
    counter.add(summary.reused, skipped=summary.skipped, reused=True)
    aborted = attempted = 0
    with tqdm.tqdm(total=summary.read, initial=summary.reused, unit="shape", desc="shapes") as bar:
        for finished in executor.run(job, pending) if pending else ():
            count, skipped = len(finished.shard.items), finished.header["skipped"]
            summary.add_shard(finished.shard.path, finished.header, written=count - len(skipped))
            summary.cpu_seconds.update(finished.cpu_seconds)
            summary.retried.update(finished.retried)
            counter.add(
                count, skipped=collections.Counter(skipped.values()), retried=finished.retried
            )
            bar.update(count)
            attempted += count
            aborted += len(finished.header.get(shards.ABORTED, ()))
            _check_aborted(finished, aborted=aborted, attempted=attempted)
    counter.finish()


def _check_aborted(finished: executors.Finished, *, aborted: int, attempted: int) -> None:
    """Raises AbortedError if so many items are given up that the cause is not in the items."""
    if aborted < MIN_ABORTED or 2 * aborted < attempted:
        return
    last = finished.header[shards.ABORTED][-1] if shards.ABORTED in finished.header else None
    example = f" (such as {last!r}: {finished.header['skipped'][last]})" if last else ""
    raise executors.AbortedError(
        f"{aborted} of the first {attempted} items were given up{example}; correct the cause, and "
        "run the command again with --retry_skipped"
    )


def _find_pending(
    mine: Sequence[Shard],
    job: executors.Job,
    summary: Summary,
    *,
    licence: Sequence[str],
    retry_skipped: bool,
) -> list[Shard]:
    """Returns the shards to prepare, and adds the others to the summary."""
    pending, outdated = [], 0
    for shard in mine:
        header = _read_header(shard.path, summary)
        if (
            header is None
            or not _matches(header, shard, job, retry_skipped=retry_skipped)
            or licences.is_lacking(header["skipped"], shard.items, licence)
        ):
            pending.append(shard)
            outdated += len(shard.items) if header and _is_outdated(header, shard, job) else 0
        else:
            summary.reused += len(shard.items)
            summary.add_shard(shard.path, header, written=len(shard.items) - len(header["skipped"]))
    if outdated and READER in job.header:
        note = OUTDATED.format(outdated, formats.READER_VERSION)
        summary.notes.append(note)
        # Now, since it may take hours, and the shards are replaced one by one.
        print(f"note: {note}; interrupt this command to keep the others", file=sys.stderr)
    return pending


def _read_header(path: Path, summary: Summary) -> dict | None:
    """Returns the header of a shard; None if it does not exist or is corrupt, which is noted."""
    if not path.exists():
        return None
    try:
        return shapes.load_header(path)
    except ValueError as error:
        # The file system lost a part of it, such as when the power failed.
        summary.notes.append(f"prepared again: {error.__cause__}: {path}")
        return None


def shard_paths(cache_dir: Path) -> list[Path]:
    """Returns the shards of a cache in order, for `shapes.load_shard`."""
    return shards.list_paths(cache_dir)


def _split(items: Sequence, cache_dir: Path) -> list[Shard]:
    """Makes a shard of every ITEMS_PER_SHARD consecutive items."""
    starts = range(0, len(items), ITEMS_PER_SHARD)
    return [
        Shard(number, shards.path_of(cache_dir, number), items[start : start + ITEMS_PER_SHARD])
        for number, start in enumerate(starts)
    ]


def list_items(
    origin: sources.Source | sources.published.Published, input_dir: Path
) -> tuple[Sequence, list[str]]:
    """Returns the items of a source, and notes about its folder."""
    if isinstance(origin, sources.folder.Folder):
        contents = origin.contents(input_dir)
        axes = shape_files.describe_axes(contents.items)
        return contents.items, [*contents.notes, *contents.name_notes, axes]
    if isinstance(origin, sources.parts.KicadParts):
        return origin.contents(input_dir)
    items = origin.items(input_dir)
    if isinstance(origin, sources.objaverse.Objaverse):
        return items, [shape_files.describe_axes(items)]
    if isinstance(origin, sources.furniture.Furniture):
        return items, [sources.furniture.AXIS_NOTE]
    return items, []


def _matches(header: dict, shard: Shard, job: executors.Job, *, retry_skipped: bool) -> bool:
    """Returns whether a shard, described by its header, has these items and settings.

    A shard without a shape whose file has been added since does not match.
    """
    expected = {"marks": None, **job.header, **shards.item_fields(shard.items)}
    if any(header.get(key) != value for key, value in expected.items()):
        return False
    if retry_skipped and header.get(shards.ABORTED):
        return False
    missing = [i for i in shard.items if header["skipped"].get(i.id) == shapes.FILE_MISSING]
    return not any(item.file_exists() for item in missing)


def _is_outdated(header: dict, shard: Shard, job: executors.Job) -> bool:
    """Returns whether a shard has the same items and settings, but is of an earlier reader."""
    expected = {**job.options, "items": [item.id for item in shard.items]}
    is_same = all(header.get(key) == value for key, value in expected.items())
    return is_same and header.get(READER, 1) < formats.READER_VERSION


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of `prepare_shapes` and returns its exit status.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m data_prep.prepare")
    add = parser.add_argument
    add("--output", required=True, type=command.local_path, help="folder of the shards")
    build_flags.add_input(parser)
    build_flags.add_settings(parser)
    build_flags.add_execution(parser)
    values = vars(parser.parse_args(arguments))
    del values["debug"]
    execution = build_flags.pop_execution(values)
    check_input(values["source"], values["input"])  # before a folder is made
    with lock.acquire(values["output"], part=execution.part):
        summary = prepare_shapes(
            values.pop("source"),
            values.pop("input"),
            values.pop("output"),
            **values,
            execution=execution,
        )
    print(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
