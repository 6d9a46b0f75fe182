# SPDX-License-Identifier: Apache-2.0
"""Fuzzes every reader of untrusted files with corrupt and malicious inputs.

python -m benchmarks.fuzz                     # 10,000 inputs per reader, or 1,000 for the slow ones
python -m benchmarks.fuzz glb pickle --inputs 500 --seed 7

Inputs are mutations of valid files: flipped bits, truncation, repetition, splicing and extreme
numbers. A reader may accept a file or reject it with a documented exception. Everything else is a
fault: another exception, more than 10 seconds, more than 2 GiB, the end of the process. Prints one
line per reader. Exit status 1 if there are faults; their inputs are kept.
"""

import dataclasses
import json
import math
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks.fuzz import readers, worker
from mrd_jax.cli import command


@dataclasses.dataclass
class Result:
    """Outcomes of the inputs of one reader.

    Attributes:
      name: name of the reader.
      refused: number of inputs rejected with a documented exception.
      unnamed: how many of those are only "unreadable", without a cause.
      accepted: number of inputs read.
      faults: (index of the input, description of the fault).
      seconds: wall time.
    """

    name: str
    refused: int = 0
    accepted: int = 0
    unnamed: int = 0
    faults: list[tuple[int, str]] = dataclasses.field(default_factory=list)
    seconds: float = 0.0

    def __str__(self) -> str:
        """Returns a summary of one line."""
        inputs = self.refused + self.accepted + len(self.faults)
        return (
            f"{self.name:<13}{inputs:>7} inputs {self.refused:>7} refused "
            f"({self.unnamed:>4} without a cause) {self.accepted:>7} accepted "
            f"{len(self.faults):>4} faults {self.seconds:>7.1f} s"
        )


class Workers:
    """Worker process, which is restarted after an input has ended it."""

    def __init__(self, *, seed: int, folder: Path):
        """Creates the object; the process starts with the first input.

        Args:
          seed: seed of all inputs.
          folder: folder of the progress file.
        """
        self._seed = seed
        self._progress = folder / "progress"
        self._process: subprocess.Popen | None = None

    def run(self, name: str, *, inputs: int) -> Result:
        """Runs a reader on the inputs 0 to `inputs` - 1."""
        result, start, started = Result(name), 0, time.perf_counter()
        while start < inputs:
            self._progress.write_bytes(worker.PROGRESS.pack(start, 0, 0, 0))
            completed = self._feed(result, f"{name} {start} {inputs}\n")
            progress = worker.PROGRESS.unpack(self._progress.read_bytes())
            index, refused, accepted, unnamed = progress
            result.refused += refused
            result.accepted += accepted
            result.unnamed += unnamed
            start = inputs
            if not completed:
                result.faults.append((index, self._ending()))
                start = index + 1
        result.seconds = time.perf_counter() - started
        return result

    def _feed(self, result: Result, request: str) -> bool:
        """Sends a request to the worker; returns False if the worker ended during it."""
        if self._process is None:
            program = [sys.executable, "-m", worker.__name__, str(self._seed), str(self._progress)]
            self._process = subprocess.Popen(
                program, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
        self._process.stdin.write(request)
        self._process.stdin.flush()
        for line in self._process.stdout:
            message = json.loads(line)
            if "done" in message:
                return True
            if "error" in message:
                fault = f"{message['error']} at {message['where']}"
                result.faults.append((message["input"], fault))
        return False

    def _ending(self) -> str:
        """Describes how the worker ended."""
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


def inputs_of(name: str, inputs: int) -> int:
    """Returns the number of inputs of a reader: all, or its share of them."""
    return math.ceil(inputs * readers.READERS[name].share)


def fuzz(names: Sequence[str], *, inputs: int, seed: int) -> Iterator[Result]:
    """Runs readers one after another.

    Args:
      names: names in `readers.READERS`.
      inputs: inputs per reader; see `Reader.share`.
      seed: seed of all inputs.

    Yields:
      The result of each reader.
    """
    with tempfile.TemporaryDirectory() as folder:
        workers = Workers(seed=seed, folder=Path(folder))
        try:
            for name in names:
                yield workers.run(name, inputs=inputs_of(name, inputs))
        finally:
            workers.close()


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m benchmarks.fuzz")
    names = ", ".join(readers.READERS)
    parser.add_argument("readers", nargs="*", metavar="READER", help=f"{names}; default: all")
    parser.add_argument("--inputs", type=int, default=10_000, help="inputs per reader")
    parser.add_argument("--seed", type=int, help="seed of all inputs; default: random")
    parser.add_argument(
        "--keep", type=Path, default=Path("fuzz_faults"), help="folder of the inputs with faults"
    )
    options = parser.parse_args(arguments)
    if unknown := sorted(set(options.readers) - set(readers.READERS)):
        parser.error(f"unknown readers {unknown}; expected some of {names}")
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
