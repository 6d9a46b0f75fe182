# SPDX-License-Identifier: Apache-2.0
"""What the TPU compiler says of losses, step and the largest student: writes docs/performance.md.

python -m benchmarks.tpu_table --reports runs/tpu.jsonl --output docs/performance.md

Each row of the page is one command that prints one JSON line. The lines are kept in `--reports`,
and a row that is there already is not compiled again: delete the file after a change of the step.
"""

import argparse
import json
import pathlib
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from mrd_jax.analysis import table

COMPILE, LOSSES = "mrd_jax.tools.compile_tpu", "benchmarks.tpu_losses"
# The student that the targets are set for: scaling 4, 512 groups of 32 of 10,000 points.
STEP = ("--config=configs/mrd_pointbert.py",)
STEP += ("--config.model.groups=512", "--config.model.group_size=32")
# A contrastive batch of 16,384 on 64 chips passes the student in four parts.
LARGE_BATCH = ("--config.model.micro_batch=64", "--config.loss.dtype=bfloat16")
GIANT = ("--config=configs/uni3d_g.py", "--topology=v5e:4x4")


class Row(NamedTuple):
    """One command of a section.

    Attributes:
      module: that is run.
      arguments: of it.
    """

    module: str
    arguments: tuple[str, ...]

    @property
    def command(self) -> str:
        """As typed."""
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


def main() -> None:
    """Runs what is missing, each in a process of its own, and writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="to compile"
    )
    parser.add_argument("--reports", type=pathlib.Path, required=True, help="JSON lines to keep")
    parser.add_argument("--output", type=pathlib.Path, help="page to write, once all is there")
    options = parser.parse_args()
    reports = read(options.reports)
    for row in (row for name in options.sections for row in SECTIONS[name]):
        if row.command not in reports:
            reports[row.command] = measure(row)
            options.reports.parent.mkdir(parents=True, exist_ok=True)
            with options.reports.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"command": row.command, **reports[row.command]}) + "\n")
    if options.output:
        missing = [row.command for row in all_rows() if row.command not in reports]
        if missing:
            raise SystemExit("not compiled yet:\n" + "\n".join(missing))
        options.output.write_text(page(reports), encoding="utf-8")


def all_rows() -> list[Row]:
    """Of all sections, in order."""
    return [row for rows in SECTIONS.values() for row in rows]


def read(path: pathlib.Path) -> dict[str, dict[str, Any]]:
    """Reports of earlier calls by their command; none where there is no file."""
    if not path.exists():
        return {}
    lines = (json.loads(line) for line in path.read_text("utf-8").splitlines())
    return {line.pop("command"): line for line in lines}


def measure(row: Row) -> dict[str, Any]:
    """Runs a command; a step that does not fit is a report, too."""
    print(row.command, file=sys.stderr, flush=True)
    done = subprocess.run(
        [sys.executable, "-m", row.module, *row.arguments], stdout=subprocess.PIPE, text=True
    )
    if done.returncode not in (0, 1) or not done.stdout:
        raise SystemExit(f"{row.command} ended with status {done.returncode}; see above")
    return json.loads(done.stdout)


def page(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """The page: what was compiled, the tables, what their figures are and are not.

    Args:
      reports: by command, of all rows.
    """
    found = {name: [reports[row.command] for row in rows] for name, rows in SECTIONS.items()}
    first = found["step"][0]
    blockwise, _, large, _ = found["losses"]
    contrastive, whole = found["relations"]
    relations = blockwise["estimate_s"] - contrastive["estimate_s"]
    return f"""\
# Performance by the TPU compiler

Written by `python -m benchmarks.tpu_table --reports runs/tpu.jsonl --output docs/performance.md`
with jax {first["jax"]} and libtpu {first["libtpu"]}: no TPU was used. Every row is one command,
named below its table. Memory, operations, bytes and times are of one chip; the seconds of
compilation are those of the machine that compiled.

{table.CAVEAT}

## The objective

Contrastive and relation terms of the default objective, embeddings of {blockwise["dim"]:,} in
bfloat16, forward and gradient. The gathered rows of three modalities alone are
{_gathered(blockwise):.0f} MiB of {blockwise["batch"]:,} samples and {_gathered(large):.0f} MiB of
{large["batch"]:,}.

{_losses(found["losses"])}

{_commands("losses")}

The relation terms take {1e3 * relations:.2f} ms of a step of {1e3 * whole["estimate_s"]:,.0f} ms
with {whole["batch_per_chip"]} clouds a chip: {relations / whole["estimate_s"]:.2%}.

{_commands("relations")}

## The step

Scaling 4 with 512 groups of 32 points of 10,000, activations in bfloat16, blocks recomputed, 64
clouds a chip.

{table.markdown(found["step"])}

{_commands("step")}

The paper's configuration on 256 chips:

{table.markdown(found["paper"])}

{_commands("paper")}

## A billion parameters on sixteen chips

Uni3D's size g, parameters and optimizer split over the chips.

{table.markdown(found["giant"])}

{_commands("giant")}
"""


def _losses(reports: Sequence[Mapping[str, Any]]) -> str:
    lines = ["| slice | samples | form | most memory in use | estimate | floor |"]
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
    """MiB of the unit rows of points, images and texts, two bytes an entry."""
    return 3 * 2 * report["batch"] * report["dim"] / 2**20


def _commands(section: str) -> str:
    return "\n".join(["```sh", *(f".venv/bin/{row.command}" for row in SECTIONS[section]), "```"])


if __name__ == "__main__":
    main()
