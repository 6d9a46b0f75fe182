# SPDX-License-Identifier: Apache-2.0
"""Prepares items in worker processes, in order and with bounded prefetching."""

import collections
import concurrent.futures
import contextlib
import itertools
import multiprocessing
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep import shapes, sources, timing
from mrd_jax.cli import command

# File of a shard and its items.
Shard = tuple[Path, Sequence[Any]]
# The shape or the reason for skipping the item, and CPU seconds per stage.
Outcome = tuple[shapes.Shape | str, dict[str, float]]


class ItemError(RuntimeError):
    """Raised when an item cannot be read for a reason that the user can remove."""


def prepare_shards(
    source: str,
    shards: Sequence[Shard],
    settings: Mapping[str, int],
    *,
    workers: int,
    prefetch: int,
) -> Iterator[tuple[Shard, Iterator[Outcome]]]:
    """Prepares the items of shards.

    Args:
      source: name in `sources.SOURCES`.
      shards: files and items of the shards.
      settings: keyword arguments of `sources.Source.prepare`.
      workers: processes; 1 to work in this process.
      prefetch: shards that are submitted before their outcomes are needed.

    Yields:
      Each shard with an iterator over the outcomes of its items, in order.

    Raises:
      ItemError: an item cannot be read for a reason that the user can remove.
      RuntimeError: preparing an item failed in a worker process for any other reason. With one
        worker, the exception of the source itself is raised in place of both.
    """
    if workers == 1:
        for shard in shards:
            yield shard, (_prepare_item(source, item, settings) for item in shard[1])
        return
    # Spawned, not forked: the caller may use JAX, whose threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = concurrent.futures.ProcessPoolExecutor(workers, mp_context=context)
    submitted: collections.deque = collections.deque()
    queue = iter(shards)
    try:
        while True:
            for shard in itertools.islice(queue, prefetch - len(submitted)):
                with _one_thread_per_process():  # processes start when work is submitted
                    futures = [
                        pool.submit(_prepare_item, source, item, settings) for item in shard[1]
                    ]
                submitted.append((shard, futures))
            if not submitted:
                return
            shard, futures = submitted.popleft()
            yield shard, _outcomes(shard[1], futures)
    finally:
        pool.shutdown(cancel_futures=True)


@contextlib.contextmanager
def _one_thread_per_process() -> Iterator[None]:
    """Limits the linear algebra library of new processes to one thread."""
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


def _outcomes(items: Sequence, futures: Sequence[concurrent.futures.Future]) -> Iterator[Outcome]:
    """Waits for the outcomes of items, one after another."""
    for item, future in zip(items, futures, strict=True):
        error = future.exception()
        if error is not None:
            kind = ItemError if command.is_user_error(error) else RuntimeError
            raise kind(f"preparing {item.id!r} failed: {error}") from error
        yield future.result()


def _prepare_item(source: str, item: sources.Item, settings: Mapping[str, int]) -> Outcome:
    """Prepares one item in this process."""
    outcome: shapes.Shape | str
    try:
        outcome = sources.SOURCES[source].prepare(item, **settings)
    except shapes.SkipShape as skip:
        outcome = str(skip)
    return outcome, timing.take()
