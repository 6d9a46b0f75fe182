# SPDX-License-Identifier: Apache-2.0
"""Compare finished runs on one page: results, tests, settings that differ, curves.

python -m mrd_jax.tools.compare runs/contrastive runs/mrd --output runs/comparison.html

The others are tested against the first, shape by shape.
"""

import argparse
import pathlib
import sys
from collections.abc import Sequence

from mrd_jax.report import comparison


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("runs", nargs="+", type=pathlib.Path, help="workdirs, two or more")
    parser.add_argument("--names", nargs="+", help="one for each run; the folders' by default")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="page to write")
    options = parser.parse_args(arguments)
    names = options.names or [run.resolve().name for run in options.runs]
    if len(names) != len(options.runs):
        parser.error(f"{len(names)} --names for {len(options.runs)} runs; expected one for each")
    try:
        runs = [
            comparison.read(run, name=name) for run, name in zip(options.runs, names, strict=True)
        ]
        print(comparison.write_comparison(runs, output=options.output))
    except (ValueError, FileNotFoundError) as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
