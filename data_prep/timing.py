# SPDX-License-Identifier: Apache-2.0
"""Seconds spent in each stage of preparation, summed within one process."""

import collections
import contextlib
import time
from collections.abc import Iterator

_seconds: collections.Counter[str] = collections.Counter()


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Adds the CPU seconds of the block to the stage's sum (waiting is not counted)."""
    start = time.process_time()
    try:
        yield
    finally:
        _seconds[name] += time.process_time() - start


@contextlib.contextmanager
def announced(name: str) -> Iterator[None]:
    """Prints a name and, at the end of the block, its seconds (waiting is counted)."""
    print(f"== {name}", flush=True)
    start = time.monotonic()
    yield
    print(f"== {name}: {time.monotonic() - start:.1f} s", flush=True)


def take() -> dict[str, float]:
    """Returns the sums since the last call and starts again at zero."""
    seconds = dict(_seconds)
    _seconds.clear()
    return seconds
