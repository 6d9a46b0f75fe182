# SPDX-License-Identifier: Apache-2.0
"""A few worker processes that open uploaded files, each within a time limit."""

import dataclasses
import json
import os
import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.geometry import clouds
from mrd_jax.data import numpy_files

# Seconds that a worker may take to start; it imports what reads meshes.
START_SECONDS = 120
# Workers multiply no matrices. On many cores, the buffers for that would use up their memory.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
# Bytes of one array that a worker may hand over.
_LARGEST = 64 * 2**20
# What a file is that takes too much, as far as one can know.
_BLAME = "the file is damaged, hostile or too large"


class UnreadableError(ValueError):
    """An uploaded file that cannot be used; the message is for whoever uploaded it."""


@dataclasses.dataclass(frozen=True)
class Content:
    """What a file held.

    Attributes:
      kind: "cloud" or "picture".
      arrays: xyz [points, 3] and rgb [points, 3], or picture [height, width, 3].
      faults: what was left out on the way.
    """

    kind: str
    arrays: dict[str, np.ndarray]
    faults: tuple[str, ...]


class Pool:
    """Workers that wait for files; more files than workers wait in turn.

    Args:
      conventions: of the clouds that files become.
      seconds: that one file may take.
      memory: bytes of address space of a worker, which needs 300 MB by itself.
      workers: processes.

    Raises:
      RuntimeError: a worker does not start.
    """

    def __init__(
        self, conventions: clouds.Conventions, *, seconds: float, memory: int, workers: int = 2
    ):
        settings = {"conventions": dataclasses.asdict(conventions), "memory": memory}
        self._seconds = seconds
        self._memory = memory
        self._idle: queue.Queue[_Worker] = queue.Queue()
        self._workers = [_Worker(json.dumps(settings)) for _ in range(workers)]
        for worker in self._workers:  # at once: each takes seconds
            worker.launch()
        for worker in self._workers:
            worker.await_ready()
            self._idle.put(worker)

    def read(self, path: Path) -> Content:
        """Reads a file in one of the workers.

        Args:
          path: in a folder of its own, which the worker writes to and which its materials may lie
            in.

        Raises:
          UnreadableError: it cannot be used, takes too long or too much memory, or ended its
            worker.
        """
        output = path.with_name("content.npz")
        worker = self._idle.get()
        try:
            answer = worker.ask({"path": str(path), "output": str(output)}, self._seconds)
            if answer.get("spent"):
                worker.stop()  # what it could not free would be missing for the next file
        finally:
            self._idle.put(worker)
        if answer.get("spent"):
            needed = f"it needs more than {self._memory / 2**30:g} GB of memory to read"
            raise UnreadableError(f"{needed}; {_BLAME}")
        if "error" in answer:
            raise UnreadableError(answer["error"])
        with output.open("rb") as stream:
            file = numpy_files.ArrayFile(stream, most_bytes=_LARGEST)
            arrays = {name: file[name] for name in file}
        return Content(answer["kind"], arrays, tuple(answer["faults"]))

    def close(self) -> None:
        """Ends the workers."""
        for worker in self._workers:
            worker.stop()


class _Worker:
    """One process, started anew after it was killed; used by one thread at a time."""

    def __init__(self, arguments: str):
        self._command = [sys.executable, "-m", "mrd_jax.demo.worker", arguments]
        self._process: subprocess.Popen | None = None

    def launch(self) -> None:
        """Starts the process."""
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | _ENVIRONMENT,
        )

    def await_ready(self) -> None:
        """Waits until the process can take a file."""
        if not self._line(START_SECONDS):
            self.stop()
            raise RuntimeError("a worker that opens files does not start; see above for its reason")

    def ask(self, task: dict[str, str], seconds: float) -> dict[str, Any]:
        """Gives the process a file; kills it where the answer takes too long."""
        if self._process is None:
            self.launch()
            self.await_ready()
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
            line = self._line(seconds)
        except BrokenPipeError:
            line = ""
        if line:
            return json.loads(line)
        late = self._late
        self.stop()
        reason = f"it takes more than {seconds:g} s to read" if late else "reading it failed"
        return {"error": f"{reason}; {_BLAME}"}

    def stop(self) -> None:
        """Ends the process; the next question starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None

    def _line(self, seconds: float) -> str:
        """The next line; "" where the process ended, or was killed because it took too long."""
        self._late = False

        def kill() -> None:
            self._late = True
            self._process.kill()

        timer = threading.Timer(seconds, kill)
        timer.start()
        try:
            return self._process.stdout.readline()
        finally:
            timer.cancel()
            timer.join()
