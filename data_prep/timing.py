# SPDX-License-Identifier: Apache-2.0
"""Time of the stages of preparation, summed within one process."""

import collections
import contextlib
import time
from collections.abc import Iterator

_seconds: collections.Counter[str] = collections.Counter()


@contextlib.contextmanager
def stage(name: str) -> Iterator[None]:
    """Adds the CPU seconds of the block, without waiting, to the sum of a stage."""
    start = time.process_time()
    try:
        yield
    finally:
        _seconds[name] += time.process_time() - start


@contextlib.contextmanager
def announced(name: str) -> Iterator[None]:
    """Prints the name of a stage and, at the end of the block, its wall time."""
    print(f"== {name}", flush=True)
    start = time.monotonic()
    yield
    print(f"== {name}: {time.monotonic() - start:.1f} s", flush=True)


def take() -> dict[str, float]:
    """Returns the CPU seconds per stage since the last call, and resets them."""
    seconds = dict(_seconds)
    _seconds.clear()
    return seconds
