# SPDX-License-Identifier: Apache-2.0
"""What the TPU compiler says of the paper's run on several slices: writes docs/performance.md.

python -m benchmarks.tpu_table --output docs/performance.md
"""

import argparse
import json
import pathlib
import subprocess
import sys

from mrd_jax.analysis import table

SLICES = ("v5e:1x1", "v5e:8x8", "v5e:16x16")


def main() -> None:
    """Compiles for one slice after another, each in a process of its own, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", default="configs/mrd_pointbert.py", help="experiment")
    parser.add_argument("--topologies", nargs="+", default=SLICES, help="slices")
    parser.add_argument("--batch_per_chip", type=int, default=64, help="clouds on each chip")
    parser.add_argument("--output", type=pathlib.Path, required=True, help="page to write")
    options = parser.parse_args()
    reports = [measure(topology, options) for topology in options.topologies]
    options.output.write_text(page(reports, options), encoding="utf-8")


def measure(topology: str, options: argparse.Namespace) -> dict:
    """Runs `mrd_jax.tools.compile_tpu` for one slice; one that does not fit is a row, too."""
    command = [sys.executable, "-m", "mrd_jax.tools.compile_tpu", "--config", options.config]
    command += ["--topology", topology, f"--batch_per_chip={options.batch_per_chip}"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    if done.returncode not in (0, 1) or not done.stdout:
        raise SystemExit(f"{' '.join(command)} ended with status {done.returncode}; see above")
    print(done.stdout, end="", file=sys.stderr, flush=True)
    return json.loads(done.stdout)


def page(reports: list[dict], options: argparse.Namespace) -> str:
    """The page: what was compiled, the table, what its figures are and are not."""
    first = reports[0]
    slices = " ".join(options.topologies)
    return f"""\
# Performance by the TPU compiler

Written by

```sh
python -m benchmarks.tpu_table --config {options.config} \\
    --topologies {slices} --batch_per_chip {options.batch_per_chip} --output {options.output}
```

with jax {first["jax"]} and libtpu {first["libtpu"]}; each column is one run of
`python -m mrd_jax.tools.compile_tpu`, and the seconds of compilation are those of the machine that
compiled. Memory, operations, bytes and times are of one chip.

{table.markdown(reports)}

{table.CAVEAT}
"""


if __name__ == "__main__":
    main()
