# SPDX-License-Identifier: Apache-2.0
"""Writes docs/gpu_step.md: what the GPU compiler says of the recipes, by topology.

CUDA_VISIBLE_DEVICES=-1 python -m benchmarks.gpu_table --reports runs/gpu.jsonl \
    --output docs/gpu_step.md

Each row is the output of one command, one JSON line, as in `benchmarks.tpu_table`. The lines are
kept in `--reports`, and rows in that file are not compiled again: delete it after a change of the
step. Requires the extra `cuda12`, and no GPU.
"""

import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks import tpu_table
from mrd_jax.analysis import table
from mrd_jax.cli import command

PAPER, GIANT = "--config=configs/mrd_pointbert.py", "--config=configs/uni3d_g.py"


def _row(config: str, topology: str, *more: str, batch: int) -> tpu_table.Row:
    arguments = (config, f"--topology={topology}", f"--batch_per_chip={batch}", *more)
    return tpu_table.Row(tpu_table.COMPILE, arguments)


SECTIONS = {
    # The paper's recipe with 64 clouds per GPU.
    "step": tuple(
        _row(PAPER, topology, batch=64)
        for topology in (
            "h100:1", "h100:8", "h100:2x8", "h200:8", "b200:8", "a100-80:8", "a100-40:8", "l4:1",
        )
    ),
    # Rows that differ from "h100:8" above in one option.
    "options": (
        _row(PAPER, "h100:8", batch=256),
        _row(PAPER, "h100:8", batch=2048),
        _row(PAPER, "h100:8", "--config.model.attention=xla", batch=64),
        _row(PAPER, "h100:8", "--config.model.remat=False", batch=64),
        _row(PAPER, "h100:8", "--config.model.micro_batch=16", batch=64),
    ),
    # Both searches start near the limit.
    "largest": tuple(
        _row(PAPER, topology, "--sweep", batch=2048) for topology in ("h100:1", "h100:8")
    ),
    "giant": tuple(
        _row(GIANT, topology, "--config.model.micro_batch=16", batch=batch)
        for topology, batch in (("h100:8", 32), ("a100-80:8", 32), ("h100:2x8", 64))
    ),
}  # fmt: skip


# What the formulation stores beyond the minimal traffic; see `mrd_jax.analysis.minimal_traffic`.
SURPLUS = """\
By the operations of the program, the surplus of the tokenizer is its last layer, from 64 to 256
channels, which the minimal traffic counts as if product and maximum were one operation. cuBLAS
writes the product of every chunk and the maximum reads it; so does the recomputation under remat.
The search for the index of the maximum reads two arrays of indices as well, which JAX moves out of
the loop over chunks. The backward pass writes the gradient of the product, zero but for one point
per group and channel, and reads it for two products. In the transformer, queries, keys and values
are split, and padded from 385 to 386 tokens, in arrays of their own; the attention of each block is
computed three times, the last time for the normalisers of its gradient; and the gradient of each
norm is two kernels with a float32 array between them. Temporary memory holds the activations of the
tokenizer and their gradients, [64 x 384 x 64, 64] in bfloat16, 0.2 GB each."""


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the missing commands, each in its own process, and writes the page."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.gpu_table")
    parser.add_argument(
        "--sections", nargs="+", choices=SECTIONS, default=list(SECTIONS), help="what to compile"
    )
    parser.add_argument(
        "--reports", type=pathlib.Path, required=True, help="file of the JSON lines"
    )
    parser.add_argument(
        "--output", type=pathlib.Path, help="page to write; it names rows that are missing"
    )
    options = parser.parse_args(arguments)
    rows = [row for name in options.sections for row in SECTIONS[name]]
    reports = tpu_table.complete(options.reports, rows)
    if options.output:
        options.output.write_text(format_page(reports), encoding="utf-8")
    return 0


def format_page(reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Formats the page: tables, commands and notes on the figures.

    Args:
      reports: reports of all rows by command.
    """
    first = next(iter(reports.values()))
    return f"""\
# The step on GPUs, by the compiler

Written by `python -m benchmarks.gpu_table --reports runs/gpu.jsonl --output docs/gpu_step.md` with
jax {first["jax"]} and {first["cuda_plugin"]}, without a GPU. Each row is the output of one command,
listed below its table; compilation times are of the machine that compiled. [On GPUs](gpus.md)
describes how to train.

{table.CAVEAT_GPU}

## The paper's recipe by topology

`configs/mrd_pointbert.py` (Point-BERT scaling 4, 384 groups of 64 from 10,000 points, bfloat16,
remat), 64 point clouds per GPU.

{_format(SECTIONS["step"], reports)}

### Where the bytes are

{_parts_of(SECTIONS["step"][1], reports)}

## Options

The same on eight H100, with more point clouds; with XLA's attention instead of cuDNN's; without
remat; in micro-batches.

{_format(SECTIONS["options"], reports)}

## The largest batch

The largest number of point clouds per GPU, a multiple of 8, whose program fits into the share of
the memory that JAX allocates at start. On eight GPUs, the losses compare it with the batch of all.

{_format(SECTIONS["largest"], reports)}

## A billion parameters

Uni3D's size g, with parameters and optimizer state sharded over the GPUs (FSDP).

{_format(SECTIONS["giant"], reports)}
"""


def _parts_of(row: tpu_table.Row, reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the traffic of one row by part of the step, beside the minimal traffic."""
    if row.command not in reports:
        return "Not compiled yet."
    report = reports[row.command]
    minimal, kernels = report["minimal_bytes_of"], report["launches_of"]
    lines = [
        f"Of the row {report['topology']} above; a dash stands for what the minimal traffic leaves "
        "out.",
        "",
        "| part | traffic | minimal | kernels |",
        "| --- | ---: | ---: | ---: |",
    ]
    for part, size in sorted(report["bytes_of"].items(), key=lambda item: -item[1]):
        least = _gb(minimal[part]) if part in minimal else "-"
        lines.append(f"| {part} | {_gb(size)} | {least} | {kernels.get(part, 0):,} |")
    return "\n".join([*lines, "", SURPLUS])


def _format(rows: Sequence[tpu_table.Row], reports: Mapping[str, Mapping[str, Any]]) -> str:
    """Returns the table of the rows with a report, their commands, and those of the others."""
    done = [row for row in rows if row.command in reports]
    missing = [row for row in rows if row.command not in reports]
    parts = []
    if done:
        parts += [_table([reports[row.command] for row in done]), tpu_table.format_commands(done)]
    if missing:
        parts += ["Not compiled yet:", tpu_table.format_commands(missing)]
    return "\n\n".join(parts)


def _table(reports: Sequence[Mapping[str, Any]]) -> str:
    """Returns a table with one row per report."""
    lines = [
        "| GPUs | clouds per GPU | fits | allocated | temporary | traffic (ratio to minimal) "
        "| bound by traffic | bound by products | kernels | collectives | compiled in |",
        "| --- " + "| ---: " * 10 + "|",
    ]
    for report in reports:
        minimal = sum(report["minimal_bytes_of"].values())
        sent = report["collectives"].values()
        cells = (
            report["topology"],
            f"{report['batch_per_chip']:,}",
            "yes" if report["fits"] else "no",
            f"{_gb(report['allocated_bytes'])} of {_gb(report['memory_bytes'])}",
            _gb(report["temporary_bytes"]),
            f"{_gb(report['bytes'])} ({report['bytes'] / minimal:.2f})",
            f"{1e3 * report['bytes_s']:,.1f} ms",
            f"{1e3 * report['floor_s']:,.1f} ms",
            f"{report['launches']:,}",
            f"{sum(one['count'] for one in sent)}, {_gb(sum(one['bytes'] for one in sent))}",
            f"{report['compile_s']:.0f} s",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


if __name__ == "__main__":
    sys.exit(main())
