# SPDX-License-Identifier: Apache-2.0
"""Reads the next files while the devices embed the last ones."""

import collections
from collections.abc import Callable, Iterable, Iterator
from concurrent import futures
from typing import Any


def map_ahead(function: Callable, items: Iterable, *, count: int) -> Iterator[Any]:
    """Maps a function over items in a thread that works up to `count` items ahead.

    One thread only: meshes are read by Python code, which would not run in parallel anyway.
    """
    pool = futures.ThreadPoolExecutor(max_workers=1)
    pending: collections.deque[futures.Future] = collections.deque()
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > count:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
