# SPDX-License-Identifier: Apache-2.0
"""Joins the folders of the parts of a preparation, and builds the data set.

python -m data_prep.build --part 0/2 --output PART0 ...   # on one machine
python -m data_prep.build --part 1/2 --output PART1 ...   # on another
python -m data_prep.merge --parts PART0 PART1 --output DIR ...

All other flags are those of `data_prep.build`, and have the same values in all commands. Files are
linked where the folders are on one file system, else copied. Parts that were prepared into one
shared folder need no merge: run `data_prep.build` there without --part.
"""

import dataclasses
import filecmp
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from data_prep import build, build_flags, build_parser, lock, parts, sources
from data_prep.captions import encoding
from data_prep.options import Options
from mrd_jax import atomic_io
from mrd_jax.cli import command


def merge(folders: Sequence[Path], options: Options) -> Path:
    """Joins folders into `options.output`, and runs the stages that remain.

    Args:
      folders: values of --output of the parts.
      options: options of the build.

    Returns:
      Local folder of the data set.

    Raises:
      ValueError: a folder holds no part, two folders hold different files for one shard, or
        shards are missing or were prepared with other options.
    """
    family = sources.find(options.source, label_from=options.label_from).family
    cache = Path("shapes") / family
    for folder in folders:
        if not (folder / cache).is_dir():
            raise ValueError(
                f"--parts {folder}: has no folder {cache}; expected the --output of a "
                f"`data_prep.build --part` with --source {options.source}"
            )
    with lock.acquire(options.output):
        for folder in folders:
            for name in ("features", encoding.FOLDER):
                join(folder / name / options.source, options.output / name / options.source)
            join(folder / cache, options.output / cache)
    # What the parts have not prepared is an error, not hours of work on this machine.
    execution = dataclasses.replace(options.execution, executor="none", part=parts.WHOLE)
    return build.build(dataclasses.replace(options, execution=execution))


def join(source: Path, target: Path) -> int:
    """Links or copies the files below a folder into another.

    Args:
      source: folder of one part; may be missing.
      target: folder of all parts.

    Returns:
      Number of new files.

    Raises:
      ValueError: a file exists with other content.
    """
    new = 0
    for path in sorted(source.rglob("*")):
        other = target / path.relative_to(source)
        if path.name.startswith(".") or not path.is_file():
            continue
        if other.exists():
            if not (other.samefile(path) or filecmp.cmp(path, other, shallow=False)):
                raise ValueError(
                    f"{path} and {other} differ: the parts were prepared with other options or "
                    "from other files; choose an empty --output, and pass parts of one preparation"
                )
            continue
        other.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, other)
        except OSError:  # another file system, or one without links
            with atomic_io.replacing(other) as temporary:
                shutil.copyfile(path, temporary)
        new += 1
    return new


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = build_parser.make_parser(__doc__, prog="python -m data_prep.merge")
    parser.add_argument(
        "--parts",
        nargs="+",
        required=True,
        type=command.local_path,
        help="values of --output of all parts",
    )
    values = vars(parser.parse_args(arguments))
    if values["part"] != build_flags.Execution.part:
        parser.error(f"--part {values['part']} is for data_prep.build; pass the folders as --parts")
    folders = values.pop("parts")
    merge(folders, build_parser.read_options(parser, values))
    return 0


if __name__ == "__main__":
    sys.exit(main())
