# SPDX-License-Identifier: Apache-2.0
"""Measures the published encoders; prints a Markdown table of parameters and speed, and JSON.

python -m benchmarks.student_table --threads 1
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence

from mrd_jax.cli import command

SIZES = [f"openshape-{number}" for number in range(1, 7)] + [
    f"uni3d-{name}" for name in "ti s b l g".split()
]
# Sizes whose training needs more memory than a laptop has.
EMBED_ONLY = ("uni3d-g",)


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Measures one size after another, each in a process of its own."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.student_table")
    parser.add_argument("--sizes", nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--batch", type=int, default=2, help="point clouds per step")
    parser.add_argument("--points", type=int, default=10_000, help="points per point cloud")
    parser.add_argument("--repeats", type=int, default=1, help="timed calls; prints their median")
    parser.add_argument("--threads", type=int, default=1, help="CPU cores to use")
    options = parser.parse_args(arguments)
    reports = [measure(size, options) for size in options.sizes]
    print(markdown(reports))
    print(json.dumps({"benchmark": "student_table", "sizes": reports}))
    return 0


def measure(size: str, options: argparse.Namespace) -> dict:
    """Runs `benchmarks.student_step` for one size."""
    line = [sys.executable, "-m", "benchmarks.student_step", "--size", size]
    for name in ("batch", "points", "repeats", "threads"):
        line += [f"--{name}", str(getattr(options, name))]
    line.append("--embed_only" if size in EMBED_ONLY else "--whole")
    completed = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
    print(completed.stdout, end="", file=sys.stderr, flush=True)
    return json.loads(completed.stdout.splitlines()[-1])


def markdown(reports: list[dict]) -> str:
    """Formats one row per size, in CPU seconds per point cloud: other jobs affect these least."""
    lines = [
        "| student | parameters | embedding, CPU s | training step, CPU s |",
        "| --- | ---: | ---: | ---: |",
    ]
    for report in reports:
        train = "" if "step" not in report else f"{report['step']['cpu_s'] / report['batch']:.2f}"
        lines.append(
            f"| {report['size']} | {report['parameters'] / 1e6:.1f} M "
            f"| {report['embed']['cpu_s'] / report['batch']:.2f} | {train} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
