# SPDX-License-Identifier: Apache-2.0
"""Feeds every reader of foreign files with damaged and hostile ones.

python -m benchmarks.fuzz                     # 10,000 inputs for each reader
python -m benchmarks.fuzz glb pickle --inputs 500 --seed 7

Valid files are changed: bits flipped, parts cut, repeated and spliced, numbers inflated. A reader
may accept a file or refuse it with the error that it documents. Anything else is a fault: another
exception, more than 10 seconds, more than 2 GiB, the end of the process. One line per reader;
exit status 1 where there are faults, whose inputs are kept.
"""

import argparse
import dataclasses
import json
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.fuzz import readers, worker


@dataclasses.dataclass
class Result:
    """What became of the inputs of one reader.

    Attributes:
      name: of the reader.
      refused: inputs that it refused as it should.
      accepted: inputs that it read.
      faults: (number of the input, what happened).
      seconds: wall time.
    """

    name: str
    refused: int = 0
    accepted: int = 0
    faults: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        """One line for people."""
        inputs = self.refused + self.accepted + len(self.faults)
        return (
            f"{self.name:<13}{inputs:>7} inputs {self.refused:>7} refused {self.accepted:>7} "
            f"accepted {len(self.faults):>4} faults {self.seconds:>7.1f} s"
        )


class Workers:
    """One worker process after another; a new one where a file has ended the last."""

    def __init__(self, *, seed: int, folder: Path):
        """Starts with none.

        Args:
          seed: of all inputs.
          folder: for the progress file.
        """
        self._seed = seed
        self._progress = folder / "progress"
        self._process: subprocess.Popen | None = None

    def run(self, name: str, *, inputs: int) -> Result:
        """Feeds a reader with inputs 0 to `inputs`."""
        result, start, began = Result(name), 0, time.perf_counter()
        while start < inputs:
            self._progress.write_bytes(worker.PROGRESS.pack(start, 0, 0))
            whole = self._feed(result, f"{name} {start} {inputs}\n")
            at, refused, accepted = worker.PROGRESS.unpack(self._progress.read_bytes())
            result.refused += refused
            result.accepted += accepted
            start = inputs
            if not whole:
                result.faults.append((at, self._ending()))
                start = at + 1
        result.seconds = time.perf_counter() - began
        return result

    def _feed(self, result: Result, order: str) -> bool:
        """Gives one order, and says whether the worker outlived it."""
        if self._process is None:
            command = [sys.executable, "-m", worker.__name__, str(self._seed), str(self._progress)]
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        self._process.stdin.write(order)
        self._process.stdin.flush()
        for line in self._process.stdout:
            told = json.loads(line)
            if "done" in told:
                return True
            if "error" in told:
                result.faults.append((told["input"], f"{told['error']} at {told['where']}"))
        return False

    def _ending(self) -> str:
        """How the worker ended."""
        self._process.communicate()  # closes the pipes as well
        status, self._process = self._process.returncode, None
        if status == -signal.SIGALRM:
            return f"took more than {worker.SECONDS} s"
        return f"ended the process with status {status}"

    def close(self) -> None:
        """Ends the worker."""
        if self._process is not None:
            self._process.communicate()
            self._process = None


def fuzz(names: Sequence[str], *, inputs: int, seed: int) -> Iterator[Result]:
    """Feeds readers one after another.

    Args:
      names: of `readers.READERS`.
      inputs: for each.
      seed: of all inputs.

    Yields:
      what became of each reader's inputs.
    """
    with tempfile.TemporaryDirectory() as folder:
        workers = Workers(seed=seed, folder=Path(folder))
        try:
            for name in names:
                yield workers.run(name, inputs=inputs)
        finally:
            workers.close()


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit status.

    Args:
      arguments: without the program's name; None takes the process's own.
    """
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = ", ".join(readers.READERS)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"{known}; all by default")
    parser.add_argument("--inputs", type=int, default=10_000, help="for each reader")
    parser.add_argument("--seed", type=int, help="of all inputs; by chance where left out")
    parser.add_argument("--keep", type=Path, default=Path("fuzz_faults"), help="folder for inputs")
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.readers) - set(readers.READERS)):
        parser.error(f"no readers {unknown}; there are {known}")
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    faults = 0
    for result in fuzz(options.readers or [*readers.READERS], inputs=options.inputs, seed=seed):
        print(result, flush=True)
        faults += len(result.faults)
        for index, reason in result.faults:
            options.keep.mkdir(parents=True, exist_ok=True)
            path = options.keep / f"{result.name}-{seed}-{index}"
            path.write_bytes(worker.make_input(result.name, seed=seed, index=index))
            print(f"  {path}: {reason}", flush=True)
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
