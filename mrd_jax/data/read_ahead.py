# SPDX-License-Identifier: Apache-2.0
"""Batches of records, loaded ahead by threads; their order does not depend on the threads.

A few threads decode and stack records. Where a read takes milliseconds, as from a bucket, many more
threads request the records of the next batches, so that the decoding does not wait for each.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from typing import Any

import grain

from mrd_jax import storage
from mrd_jax.data.source import RecordSource

# Threads that decode and stack batches: the interpreter lock leaves nothing to gain beyond two.
DECODERS = 2


def thread_count(directory: str | os.PathLike, wanted: int = -1) -> int:
    """Returns the number of threads that request records.

    Args:
      directory: folder of the data set.
      wanted: number of threads; 0 leaves the reads to the threads that decode, and -1 chooses by
        where the data set is, see `storage.read_threads`.
    """
    return wanted if wanted >= 0 else storage.read_threads(directory)


def iterate(
    load: Callable[[int], Any],
    *,
    indices: Callable[[int], Sequence[int]],
    records: RecordSource,
    batch_size: int,
    length: int,
    start: int = 0,
    threads: int = 0,
) -> Iterator[Any]:
    """Iterates over `load(start), ..., load(length - 1)`, which threads call ahead of the consumer.

    Args:
      load: function from the number of a batch to the batch; thread-safe.
      indices: function from the number of a batch to the records that `load` will read.
      records: split that `load` reads from.
      batch_size: number of records of a batch.
      length: number of batches.
      start: number of the first batch.
      threads: number of threads that request records, see `thread_count`.
    """
    batches: Any = grain.MapDataset.source(
        _Batches(load, indices=indices, records=records, length=length, threads=threads)
    )
    # A decoding thread has one batch in flight; together they keep the requesting threads busy.
    workers = max(DECODERS, -(-threads // batch_size))
    options = grain.ReadOptions(num_threads=workers, prefetch_buffer_size=workers + 2)
    return iter(batches[start:].to_iter_dataset(options))


class _Batches:
    """Sequence of batches; see `iterate`."""

    def __init__(
        self,
        load: Callable[[int], Any],
        *,
        indices: Callable[[int], Sequence[int]],
        records: RecordSource,
        length: int,
        threads: int,
    ):
        self._load = load
        self._indices = indices
        self._records = records
        self._length = length
        self._pool = futures.ThreadPoolExecutor(threads) if threads else None

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, number: int) -> Any:
        if self._pool is not None:
            self._records.request(self._indices(number), self._pool)
        return self._load(number)
