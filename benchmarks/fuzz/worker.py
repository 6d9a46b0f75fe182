# SPDX-License-Identifier: Apache-2.0
"""Worker process that reads malicious files with limits on memory and on the time per file.

An input may end the process. Its parent then reads the index of the input from the progress file.
"""

import json
import logging
import os
import re
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from benchmarks.fuzz import mutations, readers
from data_prep.foreign import limits

if TYPE_CHECKING:
    from benchmarks.fuzz import valid

# Memory that a reader may allocate for a file, in addition to that of the idle process: 1.5 times
# the memory of the largest picture that `data_prep.foreign.limits` allows.
MEMORY = 2 * 2**30
# Seconds per file, after which the process is ended.
SECONDS = 10
# Index of the current input, refused, accepted, refused without a cause.
PROGRESS = struct.Struct("<4q")
# Errors of readers for exceptions that they do not expect, `data_prep.geometry.meshes.load`.
_UNNAMED = re.compile(r"unreadable [\w ]+ file(; |$)")


def make_input(name: str, *, seed: int, index: int) -> bytes:
    """Returns an input of a reader, which depends only on the seed and the index."""
    return _mutated(readers.READERS[name].valid(), name, seed=seed, index=index)


def _mutated(valid_files: Sequence["valid.Valid"], name: str, *, seed: int, index: int) -> bytes:
    rng = np.random.default_rng([seed, index, *name.encode()])
    chosen = valid_files[rng.integers(len(valid_files))]
    others = [file.part for file in valid_files]
    return chosen.pack(mutations.mutate(chosen.part, others=others, rng=rng))


def run(name: str, *, seed: int, start: int, stop: int, progress: BinaryIO) -> None:
    """Reads the inputs from start to stop; prints a line of JSON for each fault.

    Args:
      name: name of the reader.
      seed: seed of all inputs.
      start: index of the first input.
      stop: index after the last input.
      progress: file that contains the index of the current input at all times.
    """
    reader = readers.READERS[name]
    valid_files = reader.valid()
    counts = {"refused": 0, "accepted": 0, "unnamed": 0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"file.{reader.suffix}")
        for index in range(start, stop):
            progress.seek(0)
            progress.write(PROGRESS.pack(index, *counts.values()))
            progress.flush()
            path.write_bytes(_mutated(valid_files, name, seed=seed, index=index))
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            started = time.perf_counter()
            try:
                reader.read(path)
                counts["accepted"] += 1
            except reader.refusals as error:
                counts["refused"] += 1
                counts["unnamed"] += bool(_UNNAMED.match(str(error)))
            except BaseException as error:  # noqa: B036 - every exception is a result
                where = traceback.extract_tb(error.__traceback__)[-1]
                line = {"input": index, "error": f"{type(error).__name__}: {error}"[:200]}
                line["where"] = f"{where.filename}:{where.lineno}"
                print(json.dumps(line), flush=True)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            seconds = time.perf_counter() - started
            if seconds > 1:
                print(json.dumps({"input": index, "slow": round(seconds, 1)}), flush=True)
    progress.seek(0)
    progress.write(PROGRESS.pack(stop, *counts.values()))
    progress.flush()


def limit_memory() -> None:
    """Limits the address space to its current size plus MEMORY."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Runs the requests `name start stop` from stdin; the arguments are seed and progress file."""
    seed, progress = int(sys.argv[1]), sys.argv[2]
    warnings.simplefilter("ignore")
    logging.disable()
    # The default action of this signal ends the process, even within a library.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    limit_memory()
    # Readers in processes of their own end by themselves before this one is ended.
    os.environ[limits.READER_SECONDS.variable] = str(SECONDS // 2)
    with open(progress, "r+b") as file:
        for line in sys.stdin:
            name, start, stop = line.split()
            run(name, seed=seed, start=int(start), stop=int(stop), progress=file)
            print(json.dumps({"done": name}), flush=True)


if __name__ == "__main__":
    main()
