# SPDX-License-Identifier: Apache-2.0
"""Worker processes that read untrusted uploads under time and memory limits."""

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

# Seconds that a worker may take to start; it imports the mesh libraries.
START_SECONDS = 120
# Workers multiply no matrices, but on many cores OpenBLAS would allocate much of their memory.
_ENVIRONMENT = {"OPENBLAS_NUM_THREADS": "1"}
# Maximum size in bytes of an array that a worker returns.
_MAX_ARRAY_BYTES = 64 * 2**20
# Probable cause of an exceeded limit.
_PROBABLE_CAUSE = "the file is corrupt, malicious or too large"


class UnreadableError(ValueError):
    """An upload cannot be read; the message is shown to the user."""


@dataclasses.dataclass(frozen=True)
class Content:
    """Content of an uploaded file.

    Attributes:
      kind: "cloud" or "picture".
      arrays: `xyz` [points, 3], `rgb` [points, 3] and `mesh` (bytes), or `picture`
        [height, width, 3].
      faults: parts of the file that were ignored, such as "missing texture".
    """

    kind: str
    arrays: dict[str, np.ndarray]
    faults: tuple[str, ...]


class WorkerPool:
    """A fixed number of workers; `read` blocks until a worker is idle.

    Args:
      conventions: conventions of the point clouds to return.
      seconds: time limit per file.
      memory: address space limit of a worker in bytes; a worker itself needs 300 MB.
      workers: number of processes.

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
        for worker in self._workers:  # start in parallel, since each takes seconds
            worker.launch()
        for worker in self._workers:
            worker.await_ready()
            self._idle.put(worker)

    def read(self, path: Path) -> Content:
        """Reads a file in one of the workers.

        Args:
          path: file in a folder of its own; the worker writes its output there, and reads materials
            and textures from there.

        Raises:
          UnreadableError: the file is not usable, exceeds a limit or crashes the worker.
        """
        output = path.with_name("content.npz")
        worker = self._idle.get()
        try:
            answer = worker.ask({"path": str(path), "output": str(output)}, self._seconds)
            if answer.get("out_of_memory"):
                worker.stop()  # the next file needs a process whose memory is free
        finally:
            self._idle.put(worker)
        if answer.get("out_of_memory"):
            raise UnreadableError(
                f"reading it takes more than {self._memory / 2**30:g} GB of memory; "
                f"{_PROBABLE_CAUSE}"
            )
        if "error" in answer:
            raise UnreadableError(answer["error"])
        with output.open("rb") as stream:
            file = numpy_files.ArrayFile(stream, max_bytes=_MAX_ARRAY_BYTES)
            arrays = {name: file[name] for name in file}
        return Content(answer["kind"], arrays, tuple(answer["faults"]))

    def close(self) -> None:
        """Stops the workers."""
        for worker in self._workers:
            worker.stop()


class _Worker:
    """A process that is restarted after it was killed; used by one thread at a time."""

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
        """Blocks until the process can read files."""
        if not self._read_line(START_SECONDS):
            self.stop()
            raise RuntimeError("a worker that reads uploads did not start; see its output above")

    def ask(self, task: dict[str, str], seconds: float) -> dict[str, Any]:
        """Sends a file to the process and returns its answer; kills the process on timeout."""
        if self._process is None:
            self.launch()
            self.await_ready()
        try:
            self._process.stdin.write(json.dumps(task) + "\n")
            self._process.stdin.flush()
            line = self._read_line(seconds)
        except BrokenPipeError:
            line = ""
        if line:
            return json.loads(line)
        timed_out = self._timed_out
        self.stop()
        reason = f"reading it takes more than {seconds:g} s" if timed_out else "reading it failed"
        return {"error": f"{reason}; {_PROBABLE_CAUSE}"}

    def stop(self) -> None:
        """Kills the process; the next call of `ask` starts another."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process.stdin.close()
            self._process.stdout.close()
            self._process = None

    def _read_line(self, seconds: float) -> str:
        """Returns the next line of output; "" if the process ended or was killed on timeout."""
        self._timed_out = False

        def kill() -> None:
            self._timed_out = True
            self._process.kill()

        timer = threading.Timer(seconds, kill)
        timer.start()
        try:
            return self._process.stdout.readline()
        finally:
            timer.cancel()
            timer.join()
