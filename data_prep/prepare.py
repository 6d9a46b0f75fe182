# SPDX-License-Identifier: Apache-2.0
"""Prepares raw data into a cache of shapes, in parallel and resumable by shard.

python -m data_prep.prepare --source furniture --input DIR --output DIR

`data_prep.build` runs this as its first stage.
"""

import collections
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import tqdm

from data_prep import flag_types, licences, process_pool, shape_names, shapes, sources
from data_prep.geometry import formats
from data_prep.summary import EXAMPLES, Summary
from mrd_jax.cli import command

# Defaults: points per shape, rendered views per shape (all cameras), side of a view in pixels.
POINTS, VIEWS, IMAGE_SIZE = 10_000, 12, 224
ITEMS_PER_SHARD = 32
# Increased whenever the content of prepared shapes changes: older shards are then prepared again.
FORMAT = 2
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
    workers: int | None = None,
    seed: int = 0,
    label_from: str | None = None,
    excluded: Mapping[str, str] | None = None,
) -> Summary:
    """Prepares every item of a source into `cache_dir/shard-*.npz`.

    Shards that were made from the same items with the same settings are kept, so an interrupted
    run resumes where it stopped. The result does not depend on the number of workers.

    Args:
      source: name in `sources.SOURCES`.
      input_dir: folder of the raw data.
      cache_dir: folder of the shards, one per source family.
      points: points per shape.
      views: rendered views per shape, at most; blank views are dropped.
      image_size: side of the views in pixels.
      workers: processes; None for one per core, 1 to work in this process.
      seed: seed of the point sampling.
      label_from: value of --label_from, see `sources.folder`.
      excluded: id -> reason of the items that are not prepared. Shards that hold them from an
        earlier run are kept, and prepared again once such an item is wanted.

    Returns:
      Counts and times. Items of reused shards that were skipped or repaired count as such.

    Raises:
      ValueError: the source is unknown or the folder holds none of its data.
      process_pool.ItemError: an item cannot be read for a reason that the user can remove.
      RuntimeError: preparing an item failed for any other reason. With one worker, the exception
        of the source itself is raised in place of both.
    """
    check_input(source, input_dir)
    start = time.monotonic()
    origin = sources.find(source, label_from=label_from)
    items, notes = list_items(origin, Path(input_dir))
    excluded = excluded or {}
    settings = {"points": points, "views": views, "image_size": image_size, "seed": seed}
    # Part of the header of shards whose shapes come from files.
    reader = {READER: formats.READER_VERSION} if origin.family in sources.FILE_FAMILIES else {}
    summary = Summary(read=len(items), notes=notes)
    pending, outdated = [], 0
    for path, batch in _shards(items, Path(cache_dir)):
        header = shapes.load_header(path) if path.exists() else None
        if (
            header is None
            or not _matches(header, batch=batch, settings=settings | reader)
            or licences.lacks(header["skipped"], excluded=excluded)
        ):
            pending.append((path, batch))
            outdated += len(batch) if header and _is_outdated(header, batch, settings) else 0
        else:
            summary.reused += len(batch)
            _count(summary, path, header, written=len(batch) - len(header["skipped"]))
    if outdated and reader:
        note = OUTDATED.format(outdated, formats.READER_VERSION)
        summary.notes.append(note)
        # Now, since it may take hours, and the shards are replaced one by one.
        print(f"note: {note}; interrupt this command to keep the others", file=sys.stderr)
    _remove_surplus(Path(cache_dir), shards=-(-len(items) // ITEMS_PER_SHARD))
    workers = workers or os.cpu_count() or 1
    with tqdm.tqdm(total=len(items), initial=summary.reused, unit="shape", desc="prepare") as bar:
        # Two shards, so that the processes stay busy while the first one is written.
        prefetch = 2 + workers // ITEMS_PER_SHARD
        wanted = [(path, [i for i in batch if i.id not in excluded]) for path, batch in pending]
        results = process_pool.prepare_shards(
            source, wanted, settings, workers=workers, prefetch=prefetch
        )
        for (path, batch), ((_, kept), outcomes) in zip(pending, results, strict=True):
            prepared: list[shapes.Shape] = []
            header = {"format": FORMAT, **settings, **reader, **_item_fields(batch), "skipped": {}}
            left_out = {item.id: excluded[item.id] for item in batch if item.id in excluded}
            header["skipped"].update(left_out)
            bar.update(len(left_out))
            for item, (outcome, seconds) in zip(kept, outcomes, strict=True):
                summary.cpu_seconds.update(seconds)
                if isinstance(outcome, shapes.Shape):
                    prepared.append(outcome)
                else:
                    header["skipped"][item.id] = outcome
                bar.update()
            header["faults"] = collections.Counter(f for shape in prepared for f in shape.faults)
            header["faulty"] = {
                kind: [shape.id for shape in prepared if kind in shape.faults][:EXAMPLES]
                for kind in header["faults"]
            }
            shapes.save_shard(path, prepared, header=header)
            _count(summary, path, header, written=len(prepared))
    summary.seconds = time.monotonic() - start
    return summary


def shard_paths(cache_dir: Path) -> list[Path]:
    """Returns the shards of a cache in order, for `shapes.load_shard`."""
    return sorted(Path(cache_dir).glob("shard-*.npz"))


def _shards(items: Sequence, cache_dir: Path) -> list[tuple[Path, Sequence]]:
    """Pairs every ITEMS_PER_SHARD consecutive items with the file of their shard."""
    starts = range(0, len(items), ITEMS_PER_SHARD)
    return [
        (cache_dir / f"shard-{number:05d}.npz", items[start : start + ITEMS_PER_SHARD])
        for number, start in enumerate(starts)
    ]


def list_items(
    origin: sources.Source | sources.published.Published, input_dir: Path
) -> tuple[Sequence, list[str]]:
    """Returns the items of a source, and notes about its folder."""
    if not isinstance(origin, sources.folder.Folder):
        return origin.items(input_dir), []
    contents = origin.contents(input_dir)
    return contents.items, [*contents.notes, *contents.name_notes]


def _matches(header: dict, *, batch: Sequence, settings: dict) -> bool:
    """Returns whether a shard, described by its header, has these items and settings.

    A shard without a shape whose file has been added since does not match.
    """
    expected = {"format": FORMAT, "marks": None, **settings, **_item_fields(batch)}
    if any(header.get(key) != value for key, value in expected.items()):
        return False
    missing = [i for i in batch if header["skipped"].get(i.id) == shapes.FILE_MISSING]
    return not any(item.file_exists() for item in missing)


def _is_outdated(header: dict, batch: Sequence, settings: dict) -> bool:
    """Returns whether a shard has the same items and settings, but is of an earlier reader."""
    expected = {**settings, "items": [item.id for item in batch]}
    is_same = all(header.get(key) == value for key, value in expected.items())
    return is_same and header.get(READER, 1) < formats.READER_VERSION


def _item_fields(batch: Sequence) -> dict[str, list[str]]:
    """Returns the header fields of the items: ids, and fingerprints ("marks") if they have any."""
    fingerprints = [getattr(item, "fingerprint", "") for item in batch]
    fields = {"items": [item.id for item in batch]}
    return fields | ({"marks": fingerprints} if any(fingerprints) else {})


def _remove_surplus(cache_dir: Path, *, shards: int) -> None:
    """Deletes shards beyond the last one, which an earlier and larger input left."""
    for path in shard_paths(cache_dir):
        if int(path.stem.split("-")[1]) >= shards:
            path.unlink()


def _count(summary: Summary, path: Path, header: dict, *, written: int) -> None:
    """Adds one shard to the summary."""
    summary.written += written
    summary.bytes += path.stat().st_size
    summary.skipped.update(header["skipped"].values())
    summary.faults.update(header["faults"])
    skipped = [(reason, [item_id]) for item_id, reason in header["skipped"].items()]
    # Shards of earlier versions have no "faulty".
    for reason, ids in [*skipped, *header.get("faulty", {}).items()]:
        examples = summary.examples.setdefault(reason, [])
        examples += ids[: EXAMPLES - len(examples)]


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line of `prepare_shapes` and returns its exit status.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m data_prep.prepare")
    add, positive, default = parser.add_argument, flag_types.integer(1), "default: %(default)s"
    add("--source", required=True, choices=sorted(sources.SOURCES), help="kind of raw data")
    add("--input", required=True, type=command.local_path, help="folder of the raw data")
    add("--output", required=True, type=command.local_path, help="folder of the shards")
    add("--points", type=positive, default=POINTS, help=f"points per shape; {default}")
    add(
        "--views",
        type=flag_types.integer(0, VIEWS),
        default=VIEWS,
        help=f"rendered views per shape; {default}",
    )
    add(
        "--image_size",
        type=positive,
        default=IMAGE_SIZE,
        help=f"side of a view in pixels; {default}",
    )
    add("--workers", type=positive, help="processes; default: one per core")
    add(
        "--seed",
        type=flag_types.integer(0),
        default=0,
        help=f"seed of the point sampling; {default}",
    )
    add("--label_from", help=shape_names.LABEL_FROM_HELP)
    options = parser.parse_args(arguments)
    summary = prepare_shapes(
        options.source,
        options.input,
        options.output,
        points=options.points,
        views=options.views,
        image_size=options.image_size,
        workers=options.workers,
        seed=options.seed,
        label_from=options.label_from,
    )
    print(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
