# SPDX-License-Identifier: Apache-2.0
"""The published students side by side: parameters and speed, as a Markdown table and a JSON line.

python -m benchmarks.student_table --threads 1
"""

import argparse
import json
import subprocess
import sys

SIZES = [f"openshape-{number}" for number in range(1, 7)] + [
    f"uni3d-{name}" for name in "ti s b l g".split()
]
# Training these takes more memory than a laptop has.
EMBED_ONLY = ("uni3d-g",)


def main() -> None:
    """Measures one size after another, each in a process of its own."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", default=SIZES, choices=SIZES)
    parser.add_argument("--batch", type=int, default=2, help="clouds per step")
    parser.add_argument("--points", type=int, default=10_000, help="points per cloud")
    parser.add_argument("--repeats", type=int, default=1, help="timed calls; the median counts")
    parser.add_argument("--threads", type=int, default=1, help="CPU cores to use")
    options = parser.parse_args()
    reports = [measure(size, options) for size in options.sizes]
    print(markdown(reports))
    print(json.dumps({"benchmark": "student_table", "sizes": reports}))


def measure(size: str, options: argparse.Namespace) -> dict:
    """Runs `benchmarks.student_step` for one size."""
    command = [sys.executable, "-m", "benchmarks.student_step", "--size", size]
    for name in ("batch", "points", "repeats", "threads"):
        command += [f"--{name}", str(getattr(options, name))]
    command.append("--embed_only" if size in EMBED_ONLY else "--whole")
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", file=sys.stderr, flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def markdown(reports: list[dict]) -> str:
    """One row a size; CPU seconds per cloud, which other jobs on the machine disturb least."""
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
    main()
