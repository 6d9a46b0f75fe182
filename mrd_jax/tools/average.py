# SPDX-License-Identifier: Apache-2.0
"""Averages the weights of two or more encoders of one architecture to an encoder folder.

python -m mrd_jax.tools.average --output encoders/average runs/contrastive runs/mrd

The encoders should come from the same initial weights, as two runs with the same
config.initial_weights do. Prints how far each is from the average, relative to its norm.
"""

import argparse
import sys
from collections.abc import Sequence

from mrd_jax import encoder
from mrd_jax.checkpoints import restore
from mrd_jax.cli import command
from mrd_jax.encoder import averaging


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parse_options(arguments)
    stored = {str(path): restore.find_student(path) for path in options.checkpoints}
    result = averaging.average(stored)
    encoder.save(options.output, variables=result.variables, card=result.card)
    for path, distance in zip(stored, result.distances, strict=True):
        print(f"{path}: {distance:.3f} from the average")
    print(f"averaged {len(stored)} encoders: {options.output}")
    return 0


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.average")
    add = parser.add_argument
    add(
        "checkpoints",
        nargs="+",
        type=command.encoder_path,
        metavar="CHECKPOINT",
        help="workdir of a run, one of its checkpoints, or encoder folder; two or more",
    )
    add("--output", required=True, type=command.path, help="new or empty folder to write")
    options = parser.parse_args(arguments)
    if len({str(path) for path in options.checkpoints}) < max(2, len(options.checkpoints)):
        parser.error("expected two or more different CHECKPOINTs")
    return options


if __name__ == "__main__":
    sys.exit(main())
