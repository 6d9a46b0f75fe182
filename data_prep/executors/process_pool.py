# SPDX-License-Identifier: Apache-2.0
"""Worker processes with limits, which are replaced when they end or are killed."""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import connection
from pathlib import Path
from types import TracebackType

from data_prep.executors import worker
from data_prep.executors.interface import ItemError, Job
from data_prep.executors.scheduler import Task
from data_prep.shards import Outcome

# Seconds that a worker may take to import its libraries, on a slow disk with many others.
START_SECONDS = 600
# Seconds between the end of a connection and that of its process.
EXIT_SECONDS = 5
# Seconds between two checks of the limits.
POLL = 0.2
# A worker that keeps this part of the limit after an item is replaced before the next one.
KEPT = 0.5
# Not `-m`: the parent would not find the classes of a module that is "__main__".
_PROGRAM = f"from {worker.__name__} import main; main()"
# One thread per worker: there are as many workers as cores.
_ENVIRONMENT = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class ProcessPool:
    """Pool of worker processes, see `scheduler.Pool`; a context manager that ends them.

    Args:
      job: job of all tasks.
      workers: number of processes; each starts with its first task.
    """

    def __init__(self, job: Job, workers: int):
        self._job = job
        self._selector = selectors.DefaultSelector()  # its cost does not grow with the workers
        self._idle = [_Process(job, self._selector) for _ in range(workers)]
        self._busy: list[_Process] = []
        self._checked = 0.0

    def __enter__(self) -> "ProcessPool":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the workers."""
        for process in [*self._idle, *self._busy]:
            process.stop()
        self._selector.close()

    def free(self) -> int:
        """Returns the number of idle workers."""
        return len(self._idle)

    def start(self, task: Task) -> None:
        """Gives a task to an idle worker."""
        process = self._idle.pop()
        process.start(task)
        self._busy.append(process)

    def wait(self) -> list[tuple[Task, Outcome]]:
        """Waits for an answer, the end of a worker or the next check of the limits.

        Raises:
          ItemError: the preparation has to stop.
          RuntimeError: a worker does not start.
        """
        ready = [key.data for key, _ in self._selector.select(POLL)]
        ended = [pair for process in ready for pair in self._receive(process)]
        if time.monotonic() - self._checked >= POLL:
            ended += [pair for process in list(self._busy) for pair in self._check(process)]
            self._checked = time.monotonic()
        return ended

    def _receive(self, process: "_Process") -> Iterator[tuple[Task, Outcome]]:
        """Yields the outcome if a worker has sent one or has ended."""
        try:
            message = process.answers.recv()
        except (EOFError, OSError):  # OSError: it was killed while it sent its answer
            status = process.stop(grace=EXIT_SECONDS)
            if process.task is None:
                return  # an idle worker has ended, and costs nothing
            if process.started is None and status >= 0:  # it raised; nobody killed it
                raise RuntimeError(
                    f"a worker process ended while it started ({_ending(status)}); see above"
                ) from None
            yield self._abort(process, f"worker ended: {_ending(status)}")
            return
        if message == worker.READY:
            process.started = time.monotonic()
            return
        if message.outcome is None:
            raise ItemError(message.error)
        task = self._release(process)
        is_full = message.outcome.reason == worker.memory_reason(self._job.limits.memory)
        if is_full or process.memory() > KEPT * self._job.limits.memory:
            process.stop()
        yield task, message.outcome

    def _check(self, process: "_Process") -> Iterator[tuple[Task, Outcome]]:
        """Yields the outcome if the task of a worker exceeds a limit."""
        limits, now = self._job.limits, time.monotonic()
        if process.started is None:
            if now - process.launched > START_SECONDS:
                raise RuntimeError(f"a worker process did not start within {START_SECONDS} s")
        elif now - process.started > limits.seconds:
            yield self._abort(process, f"time limit of {limits.seconds:g} s exceeded")
        elif process.memory() > limits.memory:
            yield self._abort(process, worker.memory_reason(limits.memory))

    def _abort(self, process: "_Process", reason: str) -> tuple[Task, Outcome]:
        """Kills a worker, and returns the outcome of its task."""
        process.stop()
        return self._release(process), Outcome(None, reason, aborted=True)

    def _release(self, process: "_Process") -> Task:
        """Makes a worker idle, and returns the task that it had."""
        task, process.task = process.task, None
        assert task is not None, "only busy workers have an outcome"
        self._busy.remove(process)
        self._idle.append(process)
        return task


class _Process:
    """One worker process, which starts with the next task after it was stopped.

    Attributes:
      task: task that it works on; None if it is idle.
      launched: time at which the process was created.
      started: time at which the task was begun; None while the process imports its libraries.
    """

    def __init__(self, job: Job, selector: selectors.BaseSelector):
        self._job = job
        self._selector = selector
        self._process: subprocess.Popen | None = None
        self.task: Task | None = None
        self.launched = 0.0
        self.started: float | None = None

    def start(self, task: Task) -> None:
        """Sends a task to the process; creates the process if necessary."""
        self.task = task
        if self._process is None:
            self._launch()
            self.started = None
        else:
            self.started = time.monotonic()
        try:
            self._requests.send(task.item)
        except BrokenPipeError:
            pass  # The process has ended, which the pipe of its answers shows.

    def stop(self, *, grace: float = 0.0) -> int:
        """Ends the process, and returns its exit status; 0 if there is none.

        Args:
          grace: seconds to wait for its own end before it is killed.
        """
        if self._process is None:
            return 0
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(grace)
        self._process.kill()
        status = self._process.wait()
        self._selector.unregister(self.answers)
        for pipe in (self._requests, self.answers):
            pipe.close()
        os.close(self._lifeline)
        self._process = None
        return status

    def memory(self) -> int:
        """Returns the resident memory in bytes without mapped files; 0 where it is unknown."""
        path = Path(f"/proc/{self._process.pid}/statm") if self._process else None
        try:
            _, resident, shared, *_ = path.read_text().split() if path else "000"
        except (FileNotFoundError, ProcessLookupError):  # not Linux, or the process has ended
            return 0
        return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")

    def _launch(self) -> None:
        """Creates the process; it does not import the program that runs this one."""
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        lifeline, self._lifeline = os.pipe()
        inherited = (theirs_in, theirs_out, lifeline)
        self._process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, *map(str, inherited)],
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            env=os.environ | _ENVIRONMENT | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        for descriptor in inherited:
            os.close(descriptor)
        self.launched = time.monotonic()
        self._requests = connection.Connection(ours_out, readable=False)
        self.answers = connection.Connection(ours_in, writable=False)
        self._selector.register(self.answers, selectors.EVENT_READ, self)
        try:
            self._requests.send(self._job)
        except BrokenPipeError:
            pass  # as in `start`


def _ending(status: int) -> str:
    """Describes an exit status."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
