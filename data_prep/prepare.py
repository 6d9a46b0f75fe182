# SPDX-License-Identifier: Apache-2.0
"""Raw data to a cache of prepared shapes: in parallel, resumable by shard."""

import argparse
import collections
import concurrent.futures
import contextlib
import dataclasses
import itertools
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import tqdm

from data_prep import shapes, sources, timing

ITEMS_PER_SHARD = 32
# Items that a summary names, for each reason.
NAMED = 5
# Changes whenever prepared shapes change their content: older shards are then prepared again.
FORMAT = 2


@dataclasses.dataclass
class Summary:
    """What happened to the items of a source.

    Attributes:
      read: items that the source lists.
      written: shapes in the cache.
      reused: items whose shard was there already.
      skipped: reason -> items that became no shape.
      faults: kind -> how often shapes were kept with something repaired or left out.
      examples: reason or kind -> ids of the first of them.
      bytes: of the shards in the cache.
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
        """A few lines for people."""
        lines = [
            f"{self.read} items read, {self.written} shapes in the cache "
            f"({self.reused} items found prepared), {self.skipped.total()} skipped, "
            f"{self.bytes} bytes, {self.seconds:.1f} s"
        ]
        for what, counts in (("skipped", self.skipped), ("kept", self.faults)):
            for reason, count in sorted(counts.items()):
                named = self.examples.get(reason, [])
                lines.append(f"  {what}, {reason}: {count}")
                if named:
                    more = ["..."] if len(named) == NAMED < count else []
                    lines.append(f"    {', '.join(named + more)}")
        if self.cpu_seconds:
            stages = ", ".join(f"{name} {sec:.1f}" for name, sec in self.cpu_seconds.items())
            lines.append(f"  CPU seconds: {stages}")
        return "\n".join(lines)


def prepare_shapes(
    source: str,
    input_dir: Path,
    cache_dir: Path,
    *,
    points: int = 10_000,
    views: int = 12,
    image_size: int = 224,
    workers: int | None = None,
    seed: int = 0,
) -> Summary:
    """Prepares every item of a source into `cache_dir/shard-*.npz`.

    Shards that were made from the same items with the same settings are kept, so an interrupted
    run goes on where it stopped. The result does not depend on the number of workers.

    Args:
      source: a name in `sources.SOURCES`.
      input_dir: folder of the raw data.
      cache_dir: folder of the shards, one per source family.
      points: points a shape.
      views: rendered views a shape, at most; blank ones are left out.
      image_size: side of the views in pixels.
      workers: processes; None for one per core, 1 to work in this process.
      seed: of the point sampling.

    Returns:
      Counts and times; shards that were found count with what they skipped and repaired.

    Raises:
      ValueError: the source is unknown or the folder holds none of its data.
      RuntimeError: an item failed in a way that is not its own fault; it names the item.
    """
    if source not in sources.SOURCES:
        raise ValueError(f"unknown source {source!r}, expected one of {sorted(sources.SOURCES)}")
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
        for (path, batch), outcomes in _outcomes(source, pending, settings, workers):
            done: list[shapes.Shape] = []
            header = {"format": FORMAT, **settings, **_listed(batch), "skipped": {}}
            for item, (outcome, seconds) in zip(batch, outcomes, strict=True):
                summary.cpu_seconds.update(seconds)
                if isinstance(outcome, shapes.Shape):
                    done.append(outcome)
                else:
                    header["skipped"][item.id] = outcome
                bar.update()
            header["faults"] = collections.Counter(f for shape in done for f in shape.faults)
            header["faulty"] = {
                kind: [shape.id for shape in done if kind in shape.faults][:NAMED]
                for kind in header["faults"]
            }
            shapes.save_shard(path, done, header=header)
            _count(summary, path, header, written=len(done))
    summary.seconds = time.monotonic() - start
    return summary


def shard_paths(cache_dir: Path) -> list[Path]:
    """The shards of a cache in order, for `shapes.load_shard`."""
    return sorted(Path(cache_dir).glob("shard-*.npz"))


def _shards(items: Sequence, cache_dir: Path) -> list[tuple[Path, Sequence]]:
    """Pairs every run of ITEMS_PER_SHARD items with its file."""
    starts = range(0, len(items), ITEMS_PER_SHARD)
    return [
        (cache_dir / f"shard-{number:05d}.npz", items[start : start + ITEMS_PER_SHARD])
        for number, start in enumerate(starts)
    ]


def _matching_header(path: Path, *, batch: Sequence, settings: dict) -> dict | None:
    """The header of a shard made from these items with these settings, else None.

    A shard that lacks a shape whose file has come since is made again.
    """
    if not path.exists():
        return None
    header = shapes.load_header(path)
    wanted = {"format": FORMAT, "marks": None, **settings, **_listed(batch)}
    if any(header.get(key) != value for key, value in wanted.items()):
        return None
    absent = [i for i in batch if header["skipped"].get(i.id) == shapes.FILE_MISSING]
    return None if any(item.is_there() for item in absent) else header


def _listed(batch: Sequence) -> dict[str, list[str]]:
    """What a header remembers of its items: their ids, and their marks where they have any."""
    marks = [getattr(item, "mark", "") for item in batch]
    return {"items": [item.id for item in batch]} | ({"marks": marks} if any(marks) else {})


def _remove_surplus(cache_dir: Path, *, shards: int) -> None:
    """Deletes shards behind the last one, left by an earlier and larger input."""
    for path in shard_paths(cache_dir):
        if int(path.stem.split("-")[1]) >= shards:
            path.unlink()


def _count(summary: Summary, path: Path, header: dict, *, written: int) -> None:
    """Adds one shard to the summary."""
    summary.written += written
    summary.bytes += path.stat().st_size
    summary.skipped.update(header["skipped"].values())
    summary.faults.update(header["faults"])
    found = [(reason, [item_id]) for item_id, reason in header["skipped"].items()]
    # Shards of earlier versions only count what they kept with faults.
    for reason, ids in [*found, *header.get("faulty", {}).items()]:
        named = summary.examples.setdefault(reason, [])
        named += ids[: NAMED - len(named)]


def _outcomes(source: str, pending: list, settings: dict, workers: int) -> Iterator[tuple]:
    """Yields (shard, iterator of the items' outcomes) in order, a few shards ahead of need."""
    if workers == 1:
        for shard in pending:
            yield shard, (_prepare_item(source, item, settings) for item in shard[1])
        return
    # Spawned, not forked: the caller may hold JAX, whose threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context)
    ahead: collections.deque = collections.deque()
    queue = iter(pending)
    try:
        while True:
            # Two shards, so that the processes have work while the first one is written.
            for shard in itertools.islice(queue, 2 + workers // ITEMS_PER_SHARD - len(ahead)):
                with _one_thread_each():  # processes start when they get work
                    futures = [
                        pool.submit(_prepare_item, source, item, settings) for item in shard[1]
                    ]
                ahead.append((shard, futures))
            if not ahead:
                return
            yield _ready(*ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _one_thread_each() -> Iterator[None]:
    """Keeps the linear algebra library in new processes from starting a thread per core."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _ready(shard: tuple, futures: list[concurrent.futures.Future]) -> tuple:
    """Pairs a shard with an iterator that waits for its items."""

    def results() -> Iterator[tuple]:
        for item, future in zip(shard[1], futures, strict=True):
            error = future.exception()
            if error is not None:
                raise RuntimeError(f"preparing {item.id!r} failed: {error}") from error
            yield future.result()

    return shard, results()


def _prepare_item(
    source: str, item: sources.Item, settings: dict
) -> tuple[shapes.Shape | str, dict[str, float]]:
    """Returns (the shape or the reason why there is none, CPU seconds by stage)."""
    try:
        outcome = sources.SOURCES[source].prepare(item, **settings)
    except shapes.SkipShape as skip:
        outcome = str(skip)
    return outcome, timing.take()


def main() -> None:
    """Command line of `prepare_shapes`."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--source", required=True, choices=sorted(sources.SOURCES))
    parser.add_argument("--input", required=True, type=Path, help="folder of the raw data")
    parser.add_argument("--output", required=True, type=Path, help="folder of the shards")
    parser.add_argument("--points", type=int, default=10_000)
    parser.add_argument("--views", type=int, default=12)
    parser.add_argument("--image_size", type=int, default=224)
    parser.add_argument("--workers", type=int, default=None, help="default: one per core")
    parser.add_argument("--seed", type=int, default=0)
    options = vars(parser.parse_args())
    summary = prepare_shapes(
        options.pop("source"), options.pop("input"), options.pop("output"), **options
    )
    print(summary)


if __name__ == "__main__":
    main()
