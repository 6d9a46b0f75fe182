# SPDX-License-Identifier: Apache-2.0
"""Writes docs/performance.md: the TPU compiler's figures of losses, step and largest student.

python -m benchmarks.tpu_table --reports runs/tpu.jsonl --output docs/performance.md

Each row of the page is the output of one command, one JSON line. The lines are kept in `--reports`,
and rows in that file are not compiled again: delete it after a change of the step.
"""

import json
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mrd_jax.analysis import table
from mrd_jax.cli import command

COMPILE, LOSSES = "mrd_jax.tools.compile", "benchmarks.tpu_losses"
# Scaling 4 with 512 groups of 32 points of 10,000.
STEP = ("--config=configs/mrd_pointbert.py",)
STEP += ("--config.model.groups=512", "--config.model.group_size=32")
# A contrastive batch of 16,384 on 64 chips, in four micro-batches per chip.
LARGE_BATCH = ("--config.model.micro_batch=64", "--config.loss.dtype=bfloat16")
GIANT = ("--config=configs/uni3d_g.py", "--topology=v5e:4x4")


class Row(NamedTuple):
    """One row of a section: a command.

    Attributes:
      module: module to run.
      arguments: its command-line arguments.
    """

    module: str
    arguments: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command line."""
        return shlex.join(("python", "-m", self.module, *self.arguments))


def _step(topology: str, *more: str, batch: int = 64) -> Row:
    return Row(COMPILE, (*STEP, f"--topology={topology}", f"--batch_per_chip={batch}", *more))


SECTIONS = {
    "losses": (
        Row(LOSSES, ("--batch=16384",)),
        Row(LOSSES, ("--batch=16384", "--form=plain")),
        Row(LOSSES, ("--batch=65536", "--block=2048")),
        Row(LOSSES, ("--batch=65536", "--form=plain")),
    ),
    "relations": (
        Row(LOSSES, ("--batch=16384", "--contrastive")),
        _step("v5e:8x8", *LARGE_BATCH, batch=256),
    ),
    "step": tuple(
        _step(topology)
        for topology in ("v5e:1x1", "v5e:8x8", "v6e:8x8", "v5p:4x4x4", "v4:4x4x4")
    ),
    "paper": (Row(COMPILE, ("--config=configs/mrd_pointbert.py", "--topology=v5e:16x16")),),
    "giant": tuple(
        Row(COMPILE, (*GIANT, f"--batch_per_chip={batch}", f"--config.model.micro_batch={part}"))
        for batch, part in ((8, 8), (32, 16))
    ),
}  # fmt: skip


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the missing commands, each in its own process, and writes the page."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.tpu_table")
    parser.add_argument(
        "--sections",
        nargs="+",
        choices=SECTIONS,
        default=list(SECTIONS),
        help="sections to compile",
    )
    parser.add_argument(
        "--reports", type=pathlib.Path, required=True, help="file of the JSON lines"
    )
    parser.add_argument(
        "--output", type=pathlib.Path, help="page to write once all rows are compiled"
    )
    options = parser.parse_args(arguments)
    rows = [row for name in options.sections for row in SECTIONS[name]]
    reports = complete(options.reports, rows)
    if options.output:
        require_all(reports, all_rows())
        options.output.write_text(format_page(reports), encoding="utf-8")
    return 0


def all_rows() -> list[Row]:
    """Returns the rows of all sections, in order."""
    return [row for rows in SECTIONS.values() for row in rows]


def complete(path: pathlib.Path, rows: Sequence[Row]) -> dict[str, dict[str, Any]]:
    """Returns the reports in a file by command, after adding those of the rows that it lacks."""
    reports = read(path)
    for row in rows:
        if row.command not in reports:
            reports[row.command] = measure(row)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"command": row.command, **reports[row.command]}) + "\n")
    return reports


def require_all(reports: Mapping[str, Any], rows: Sequence[Row]) -> None:
    """Checks that there is a report of every row.

    Raises:
      ValueError: some are missing; the message lists their commands.
    """
    missing = [row.command for row in rows if row.command not in reports]
    if missing:
        raise ValueError("these commands have not been run yet:\n" + "\n".join(missing))


def read(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Reads the reports of earlier calls by command; empty if the file does not exist."""
    if not path.exists():
        return {}
    lines = (json.loads(line) for line in path.read_text("utf-8").splitlines())
    return {line.pop("command"): line for line in lines}


def measure(row: Row) -> dict[str, Any]:
    """Runs a command and returns its report.

    Raises:
      ValueError: the command failed; status 1 means that the step does not fit and is a report.
    """
    print(row.command, file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", row.module, *row.arguments], stdout=subprocess.PIPE, text=True
    )
    if done.returncode not in (0, 1) or not done.stdout:
        raise ValueError(f"{row.command} failed with exit status {done.returncode}; see above")
    return json.loads(done.stdout)


def format_page(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Formats the page: tables, commands and notes on the figures.

    Args:
      reports: reports of all rows by command.
    """
    sections = {name: [reports[row.command] for row in rows] for name, rows in SECTIONS.items()}
    first = sections["step"][0]
    blockwise, _, large, _ = sections["losses"]
    contrastive, whole = sections["relations"]
    relations = blockwise["estimate_s"] - contrastive["estimate_s"]
    return f"""\
# TPU performance, estimated by the compiler

Written by `python -m benchmarks.tpu_table --reports runs/tpu.jsonl --output docs/performance.md`
with jax {first["jax"]} and libtpu {first["libtpu"]}, without a TPU. Each column or row is the
output of one command, listed below its table. Memory, operations, bytes and times are per chip;
compilation times are of the machine that compiled.

{table.CAVEAT}

## The objective

Value and gradient of the default objective, contrastive and relation terms, with
{blockwise["dim"]:,}-dimensional embeddings in bfloat16. The gathered embeddings of the three
modalities alone take {_gathered(blockwise):.0f} MiB for {blockwise["batch"]:,} samples and
{_gathered(large):.0f} MiB for {large["batch"]:,}.

{_losses(sections["losses"])}

{format_commands(SECTIONS["losses"])}

The relation terms take {1e3 * relations:.2f} ms of a step of {1e3 * whole["estimate_s"]:,.0f} ms
with {whole["batch_per_chip"]} point clouds per chip: {relations / whole["estimate_s"]:.2%}.

{format_commands(SECTIONS["relations"])}

## The step

OpenShape's scaling 4 with 512 groups of 32 points, sampled from 10,000 points, with activations in
bfloat16, remat of the blocks and 64 point clouds per chip.

{table.format_markdown(sections["step"])}

{format_commands(SECTIONS["step"])}

The paper's configuration on 256 chips:

{table.format_markdown(sections["paper"])}

{format_commands(SECTIONS["paper"])}

## A billion parameters on sixteen chips

Uni3D's size g, with parameters and optimizer state sharded over the chips (FSDP).

{table.format_markdown(sections["giant"])}

{format_commands(SECTIONS["giant"])}
"""


def _losses(reports: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| slice | samples | form | peak memory | estimate | lower bound |"]
    lines.append("| --- | ---: | --- | ---: | ---: | ---: |")
    for report in reports:
        form = report["form"]
        form += f", blocks of {report['block']:,}" if form == "blockwise" else ""
        lines.append(
            f"| {report['topology']} | {report['batch']:,} | {form} "
            f"| {report['peak_bytes'] / 2**20:,.1f} MiB | {1e3 * report['estimate_s']:.2f} ms "
            f"| {1e3 * report['floor_s']:.2f} ms |"
        )
    return "\n".join(lines)


def _gathered(report: Mapping[str, Any]) -> float:
    """Returns the MiB of the embeddings of points, images and texts in bfloat16."""
    return 3 * 2 * report["batch"] * report["dim"] / 2**20


def format_commands(rows: Sequence[Row]) -> str:
    """Returns a block with the commands of rows."""
    return "\n".join(["```sh", *(f".venv/bin/{row.command}" for row in rows), "```"])


if __name__ == "__main__":
    sys.exit(main())
