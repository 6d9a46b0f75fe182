# SPDX-License-Identifier: Apache-2.0
"""Worker process: prepares items one after another until its parent closes the connection.

Started by `process_pool`. Messages are pickled objects over inherited pipes: the parent sends the
job and then items; the worker answers `READY` and then one `Answer` per item.
"""

import faulthandler
import os
import signal
import sys
import threading
import traceback
from multiprocessing import connection
from pathlib import Path
from typing import Any, NamedTuple

from data_prep import shapes, timing
from data_prep.executors.interface import Job
from data_prep.shards import Outcome
from mrd_jax.cli import command

READY = "ready"
# Bytes that the libraries may allocate beside an item, such as the stacks of their threads. The
# parent enforces the limit itself; this one stops a single huge allocation, which is faster.
SLACK = 2 * 2**30
# Seconds after the limit of an item at which a worker ends itself, in case its parent is gone.
GRACE = 60


class Answer(NamedTuple):
    """Answer to one item.

    Attributes:
      outcome: result; None if the whole preparation has to stop.
      error: reason to stop; "" for none.
    """

    outcome: Outcome | None
    error: str = ""


def prepare(job: Job, item: Any) -> Outcome:
    """Prepares one item in this process.

    Args:
      job: job of the item.
      item: item of the source.
    """
    try:
        shape = job.prepare(item, **job.options)
    except shapes.SkipShape as skip:
        if is_memory_error(skip):
            raise MemoryError from skip
        return Outcome(None, str(skip), cpu_seconds=timing.take())
    return Outcome(shape, cpu_seconds=timing.take())


def is_memory_error(error: BaseException | None) -> bool:
    """Returns whether an exception is a MemoryError or was raised while one was handled."""
    while error is not None and not isinstance(error, MemoryError):
        error = error.__cause__ or error.__context__
    return error is not None


def answer(job: Job, item: Any) -> Answer:
    """Prepares one item, and turns exceptions into answers.

    Args:
      job: job of the item.
      item: item of the source.
    """
    try:
        return Answer(prepare(job, item))
    except Exception as error:
        timing.take()
        if is_memory_error(error):
            return Answer(Outcome(None, memory_reason(job.limits.memory), aborted=True))
        if command.is_user_error(error):
            return Answer(None, f"preparing {item.id!r} failed: {error}")
        traceback.print_exc()
        place = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{Path(place.filename).name}:{place.lineno}"
        reason = f"failed: {type(error).__name__}: {error} ({where})"
        return Answer(Outcome(None, reason, aborted=True))


def memory_reason(limit: int) -> str:
    """Returns the reason for skipping an item that exceeds a limit of memory in bytes."""
    return f"memory limit of {limit / 1e9:g} GB exceeded"


def main() -> None:
    """Runs the worker; its arguments are the file descriptors of its pipes."""
    requests, answers, lifeline = (int(text) for text in sys.argv[1:])
    # An interrupt reaches every process of the terminal, and the parent ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, args=(lifeline,), daemon=True).start()
    reader = connection.Connection(requests, writable=False)
    writer = connection.Connection(answers, readable=False)
    job: Job = reader.recv()
    _prefer_for_oom_killer()
    _limit_memory(job.limits.memory)
    writer.send(READY)
    while True:
        try:
            item = reader.recv()
        except EOFError:
            return
        faulthandler.dump_traceback_later(job.limits.seconds + GRACE, exit=True)
        result = answer(job, item)
        faulthandler.cancel_dump_traceback_later()
        writer.send(result)


def _end_with_parent(lifeline: int) -> None:
    """Ends this process once the parent, which holds the other end of a pipe, has ended."""
    os.read(lifeline, 1)
    os._exit(1)


def _prefer_for_oom_killer() -> None:
    """Asks Linux to kill this process rather than its parent when memory runs out."""
    path = Path("/proc/self/oom_score_adj")
    if path.exists():
        path.write_text("1000")


def _limit_memory(limit: int) -> None:
    """Limits the private memory of this process."""
    import resource

    used = 0
    if sys.platform == "linux":
        # Pages of data and stack, see proc(5).
        used = int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = used + limit + SLACK
    if hard != resource.RLIM_INFINITY:
        soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))
