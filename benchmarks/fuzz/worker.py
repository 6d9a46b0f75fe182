# SPDX-License-Identifier: Apache-2.0
"""The process that reads hostile files, under a limit of memory and, for each file, of time.

It may die of a file: which one, its parent reads from the progress file.
"""

import json
import logging
import resource
import signal
import struct
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np

from benchmarks.fuzz import mutations, readers

# Memory that a reader may take for a file, above what Python holds already: what the largest
# picture that `data_prep.foreign.limits` lets through takes, and half as much again.
MEMORY = 2 * 2**30
# After so many seconds with one file the process is ended.
SECONDS = 10
# Next input, refused, accepted.
PROGRESS = struct.Struct("<3q")


def make_input(name: str, *, seed: int, index: int) -> bytes:
    """Input number index of a reader; the same whenever it is made."""
    found = readers.READERS[name].valid()
    rng = np.random.default_rng([seed, index, *name.encode()])
    chosen = found[rng.integers(len(found))]
    others = [one.part for one in found]
    return chosen.pack(mutations.mutate(chosen.part, others=others, rng=rng))


def run(name: str, *, seed: int, start: int, stop: int, progress: BinaryIO) -> None:
    """Reads inputs start to stop; a line of JSON on stdout for each one that fails.

    Args:
      name: of the reader.
      seed: of all inputs.
      start: number of the first.
      stop: behind the last.
      progress: file that always holds the number of the input at work.
    """
    reader = readers.READERS[name]
    found = reader.valid()
    parts = [one.part for one in found]
    counts = {"refused": 0, "accepted": 0}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"file.{reader.suffix}")
        for index in range(start, stop):
            progress.seek(0)
            progress.write(PROGRESS.pack(index, *counts.values()))
            progress.flush()
            rng = np.random.default_rng([seed, index, *name.encode()])
            chosen = found[rng.integers(len(found))]
            data = chosen.pack(mutations.mutate(chosen.part, others=parts, rng=rng))
            path.write_bytes(data)
            signal.setitimer(signal.ITIMER_REAL, SECONDS)
            began = time.perf_counter()
            try:
                reader.read(path)
                counts["accepted"] += 1
            except reader.refusals:
                counts["refused"] += 1
            except BaseException as error:  # noqa: B036 - whatever it is, it is the finding
                where = traceback.extract_tb(error.__traceback__)[-1]
                line = {"input": index, "error": f"{type(error).__name__}: {error}"[:200]}
                line["where"] = f"{where.filename}:{where.lineno}"
                print(json.dumps(line), flush=True)
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
            took = time.perf_counter() - began
            if took > 1:
                print(json.dumps({"input": index, "slow": round(took, 1)}), flush=True)
    progress.seek(0)
    progress.write(PROGRESS.pack(stop, *counts.values()))
    progress.flush()


def limit_memory() -> None:
    """Lets the address space grow by MEMORY from here."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    size = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def main() -> None:
    """Arguments: seed and progress file; then lines `name start stop` on stdin."""
    seed, progress = int(sys.argv[1]), sys.argv[2]
    warnings.simplefilter("ignore")
    logging.disable()
    # The default action of this signal ends the process, also inside a library.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    limit_memory()
    with open(progress, "r+b") as file:
        for line in sys.stdin:
            name, start, stop = line.split()
            run(name, seed=seed, start=int(start), stop=int(stop), progress=file)
            print(json.dumps({"done": name}), flush=True)


if __name__ == "__main__":
    main()
