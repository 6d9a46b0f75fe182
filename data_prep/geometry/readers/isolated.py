# SPDX-License-Identifier: Apache-2.0
"""Runs readers that use native libraries in a process of their own.

Such a library may take any time or memory, or end its process, at corrupt files: an allocation of
Rust that fails, for example, is no exception. A reader in this sense is a module with a function
`convert(path, *, notes)`, from a file to arrays by name.
"""

import importlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

import data_prep
from data_prep.foreign import limits
from data_prep.geometry import scene

_SOURCE, _ARRAYS, _ANSWER = "source", "arrays.npz", "answer.json"


def run(reader: str, data: bytes, *, name: str, notes: list[str]) -> dict[str, np.ndarray]:
    """Reads a file in another process.

    Args:
      reader: module beside this one.
      data: bytes of the file.
      name: name of the format in messages.
      notes: list to which the reader's notes are appended.

    Returns:
      Arrays by name.

    Raises:
      scene.MeshError: the reader raised it, ended its process, or exceeded a limit.
    """
    seconds = limits.READER_SECONDS.maximum()
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / _SOURCE).write_bytes(data)
        # -P: files in the current folder must not hide modules.
        command = [sys.executable, "-P", "-m", __name__, reader, folder]
        try:
            done = subprocess.run(
                [*command, str(seconds), str(limits.READER_BYTES.maximum())],
                stdin=subprocess.DEVNULL,
                capture_output=True,  # native libraries print
                timeout=seconds,
                check=False,
                env=_environment(),
            )
        except subprocess.TimeoutExpired as error:
            raise scene.MeshError(
                f"too complex; set {limits.READER_SECONDS.variable} if you trust it: {name} is "
                f"read for at most {seconds} s"
            ) from error
        answer = Path(folder) / _ANSWER
        if not answer.is_file():
            raise scene.MeshError(
                f"unreadable {name} file: it ended the process of its reader: {_reason(done)}"
            )
        words = json.loads(answer.read_text("utf-8"))
        notes += words["notes"]
        if words["error"] is not None:
            raise scene.MeshError(words["error"])
        with np.load(Path(folder) / _ARRAYS) as arrays:
            return dict(arrays)


def _environment() -> dict[str, str]:
    """Returns the variables of the process, in which this package can be imported."""
    root = str(Path(data_prep.__file__).parents[1])
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    # Threads of numpy would reserve memory that counts.
    return os.environ | {"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"}


def _reason(done: subprocess.CompletedProcess) -> str:
    """Returns the exit status and the last line that a process printed."""
    lines = done.stderr.decode(errors="replace").strip().splitlines()
    return f"status {done.returncode} {lines[-1][:200] if lines else ''}".strip()


def main(reader: str, folder: str, seconds: str, memory: str) -> None:
    """Runs a reader in this process, and writes its arrays, notes and error."""
    _limit(int(seconds), int(memory))
    notes: list[str] = []
    error = None
    try:
        module = importlib.import_module(f"data_prep.geometry.readers.{reader}")
        arrays = module.convert(Path(folder) / _SOURCE, notes=notes)
        np.savez(Path(folder) / _ARRAYS, **arrays)
    except (scene.MeshError, limits.LimitError) as failure:
        error = str(failure)
    except MemoryError:
        error = f"too large; set {limits.READER_BYTES.variable} if you trust it"
    answer = json.dumps({"error": error, "notes": notes})
    (Path(folder) / _ANSWER).write_text(answer, encoding="utf-8")


def _limit(seconds: int, memory: int) -> None:
    """Limits CPU time and address space of this process, on POSIX systems.

    The limit of CPU time holds if the process that started this one is killed.
    """
    try:
        import resource
    except ModuleNotFoundError:
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for kind, size in ((resource.RLIMIT_CPU, seconds + 1), (resource.RLIMIT_AS, memory)):
        hard = resource.getrlimit(kind)[1]
        if hard == resource.RLIM_INFINITY or hard > size:
            resource.setrlimit(kind, (size, hard))


if __name__ == "__main__":
    main(*sys.argv[1:])
