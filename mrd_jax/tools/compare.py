# SPDX-License-Identifier: Apache-2.0
"""Compares finished runs on one page: results, significance tests, differing settings, curves.

python -m mrd_jax.tools.compare runs/contrastive runs/mrd --output runs/comparison.html

The first run is the reference: every other one is tested against it, paired by shape.
"""

import sys
from collections.abc import Sequence

from mrd_jax.cli import command
from mrd_jax.report import comparison


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.compare")
    add = parser.add_argument
    add("runs", nargs="+", type=command.path, help="workdirs of the runs, two or more")
    add("--names", nargs="+", help="one name per run (default: the name of its folder)")
    add("--output", type=command.path, required=True, help="HTML page to write")
    options = parser.parse_args(arguments)
    names = options.names or [run.name for run in options.runs]
    if len(names) != len(options.runs):
        parser.error(f"{len(names)} --names for {len(options.runs)} runs; expected one for each")
    runs = [
        comparison.read_run(workdir, name=name)
        for workdir, name in zip(options.runs, names, strict=True)
    ]
    print(comparison.write_comparison(runs, output=options.output))
    return 0


if __name__ == "__main__":
    sys.exit(main())
