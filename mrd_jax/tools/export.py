# SPDX-License-Identifier: Apache-2.0
"""Exports an encoder as one file that embeds point clouds without this package.

python -m mrd_jax.tools.export --to stablehlo --checkpoint runs/quickstart --output encoder.npz

Reading the file needs jax, flatbuffers and numpy; docs/examples/embed_exported.py embeds a mesh.
"""

import argparse
import sys
from collections.abc import Sequence

from mrd_jax.checkpoints import restore
from mrd_jax.cli import command
from mrd_jax.encoder import exporting

FORMATS = ("stablehlo",)


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parse_options(arguments)
    stored = restore.find_student(options.checkpoint)
    exporting.write(
        options.output,
        card=stored.card,
        variables=stored.read_variables(),
        batch_size=options.batch_size,
    )
    batch = options.batch_size or "any number of"
    print(
        f"{stored.card.size or stored.card.student['name']}: {batch} point clouds of "
        f"{stored.card.points:,} points per call, {', '.join(exporting.PLATFORMS)}: "
        f"{options.output}"
    )
    return 0


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.export")
    add = parser.add_argument
    add("--to", required=True, choices=FORMATS, help="format: a program of jax.export")
    add(
        "--checkpoint",
        required=True,
        type=command.encoder_path,
        help="workdir of a run, one of its checkpoints, or encoder folder",
    )
    add("--output", required=True, type=command.path, help=".npz file to write, must not exist")
    add(
        "--batch_size",
        type=int,
        default=0,
        help="point clouds per call, faster on a GPU or TPU; 0 for any number, which are embedded "
        "one by one (default: 0)",
    )
    options = parser.parse_args(arguments)
    if options.output.suffix != ".npz":
        parser.error(f"--output is {options.output}; expected a name that ends with .npz")
    if options.output.exists():
        parser.error(f"{options.output} exists; choose another path or remove it first")
    if options.batch_size < 0:
        parser.error(f"--batch_size is {options.batch_size}; expected 0 or more")
    return options


if __name__ == "__main__":
    sys.exit(main())
