# SPDX-License-Identifier: Apache-2.0
"""Prepares raw data into a cache of shapes, in parallel and resumable by shard.

python -m data_prep.prepare --source furniture --input DIR --output DIR

`data_prep.build` runs this as its first stage.
"""

import collections
import dataclasses
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import tqdm

from data_prep import flag_types, process_pool, shapes, sources
from mrd_jax import storage
from mrd_jax.cli import command

# Defaults: points per shape, rendered views per shape (all cameras), side of a view in pixels.
POINTS, VIEWS, IMAGE_SIZE = 10_000, 12, 224
ITEMS_PER_SHARD = 32
# Item ids that a summary lists for each reason.
EXAMPLES = 5
# Increased whenever the content of prepared shapes changes: older shards are then prepared again.
FORMAT = 2


@dataclasses.dataclass
class Summary:
    """Counts and times of a preparation.

    Attributes:
      read: number of items that the source lists.
      written: number of shapes in the cache.
      reused: number of items in shards of an earlier run.
      skipped: reason -> number of items without a shape.
      faults: kind -> number of repairs and omissions in the shapes that were kept.
      examples: reason or kind -> ids of its first items.
      bytes: size of the shards in the cache.
      cpu_seconds: stage -> CPU seconds over all processes, without reused shards.
      seconds: wall time.
    """

    read: int = 0
    written: int = 0
    reused: int = 0
    skipped: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    faults: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    bytes: int = 0
    cpu_seconds: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    seconds: float = 0.0

    def __str__(self) -> str:
        """Returns a summary of a few lines."""
        lines = [
            f"{self.read} items read, {self.written} shapes in the cache "
            f"({self.reused} items found prepared), {self.skipped.total()} skipped, "
            f"{self.bytes} bytes, {self.seconds:.1f} s"
        ]
        for outcome, counts in (("skipped", self.skipped), ("kept", self.faults)):
            for reason, count in sorted(counts.items()):
                examples = self.examples.get(reason, [])
                lines.append(f"  {outcome}, {reason}: {count}")
                if examples:
                    more = ["..."] if len(examples) == EXAMPLES < count else []
                    lines.append(f"    {', '.join(examples + more)}")
        if self.cpu_seconds:
            stages = ", ".join(f"{name} {sec:.1f}" for name, sec in self.cpu_seconds.items())
            lines.append(f"  CPU seconds: {stages}")
        return "\n".join(lines)


def check_input(source: str, input_dir: Path) -> None:
    """Checks the source and that the folder of the raw data exists.

    Raises:
      ValueError: the source is unknown, or the folder is missing.
    """
    if source not in sources.SOURCES:
        raise ValueError(f"unknown source {source!r}, expected one of {sorted(sources.SOURCES)}")
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
    items = sources.SOURCES[source].items(Path(input_dir))
    settings = {"points": points, "views": views, "image_size": image_size, "seed": seed}
    summary = Summary(read=len(items))
    pending = []
    for path, batch in _shards(items, Path(cache_dir)):
        header = _matching_header(path, batch=batch, settings=settings)
        if header is None:
            pending.append((path, batch))
        else:
            summary.reused += len(batch)
            _count(summary, path, header, written=len(batch) - len(header["skipped"]))
    _remove_surplus(Path(cache_dir), shards=-(-len(items) // ITEMS_PER_SHARD))
    workers = workers or os.cpu_count() or 1
    with tqdm.tqdm(total=len(items), initial=summary.reused, unit="shape", desc="prepare") as bar:
        # Two shards, so that the processes stay busy while the first one is written.
        prefetch = 2 + workers // ITEMS_PER_SHARD
        results = process_pool.prepare_shards(
            source, pending, settings, workers=workers, prefetch=prefetch
        )
        for (path, batch), outcomes in results:
            prepared: list[shapes.Shape] = []
            header = {"format": FORMAT, **settings, **_item_fields(batch), "skipped": {}}
            for item, (outcome, seconds) in zip(batch, outcomes, strict=True):
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


def _matching_header(path: Path, *, batch: Sequence, settings: dict) -> dict | None:
    """Returns the header of a shard of these items and settings; None if there is none.

    A shard without a shape whose file has been added since does not match either.
    """
    if not path.exists():
        return None
    header = shapes.load_header(path)
    expected = {"format": FORMAT, "marks": None, **settings, **_item_fields(batch)}
    if any(header.get(key) != value for key, value in expected.items()):
        return None
    missing = [i for i in batch if header["skipped"].get(i.id) == shapes.FILE_MISSING]
    return None if any(item.file_exists() for item in missing) else header


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
    add("--input", required=True, type=storage.local_path, help="folder of the raw data")
    add("--output", required=True, type=storage.local_path, help="folder of the shards")
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
    )
    print(summary)
    return 0


if __name__ == "__main__":
    sys.exit(main())
