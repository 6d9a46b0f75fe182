# SPDX-License-Identifier: Apache-2.0
"""Ablation of the terms of the objective on the furniture data, over several seeds.

python -m benchmarks.ablation --data data --runs runs/ablation --output docs/ablation.md
"""

import itertools
import json
import os
import pathlib
import platform
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from benchmarks import sweep
from mrd_jax.cli import command
from mrd_jax.evaluation import results, table

CONFIG = "configs/quickstart.py"
OFF = {"loss.lambda_intra": 0.0, "loss.lambda_image": 0.0, "loss.lambda_text": 0.0}
CROSS_OFF = {"loss.lambda_image": 0.0, "loss.lambda_text": 0.0}

VARIANTS: dict[str, dict[str, Any]] = {
    "contrastive": OFF,
    "contrastive + intra": CROSS_OFF,
    "contrastive + cross": {"loss.lambda_intra": 0.0},
    "full MRD, dynamic": {},
    "full MRD, static": {"loss.weights": "static"},
}

# Column of the table -> metric of the student's row.
METRICS = {
    "top-1": lambda row: row["metrics"]["top1"],
    "top-5": lambda row: row["metrics"]["top5"],
    "shape to name R@5": lambda row: row["retrieval"]["points_to_text/recall@5"],
    "shape to picture R@5": lambda row: row["retrieval"]["points_to_image/recall@5"],
    "picture to shape R@5": lambda row: row["retrieval"]["image_to_points/recall@5"],
}


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Trains unfinished runs, writes the page and prints one JSON line."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.ablation")
    add = parser.add_argument
    add("--data", type=pathlib.Path, default=pathlib.Path("data"), help="folder of the data sets")
    add(
        "--runs",
        type=pathlib.Path,
        default=pathlib.Path("runs/ablation"),
        help="folder of the workdirs",
    )
    add("--output", type=pathlib.Path, help="Markdown file to write")
    add("--seeds", type=int, default=3, help="number of runs per variant")
    add("--steps", type=int, default=300, help="steps per run; the default is the quickstart's")
    add("--fold", default="furniture", help="data set in the folder --data")
    add("--parallel", type=int, default=2, help="number of runs at a time")
    options = parser.parse_args(arguments)
    directory = options.data / options.fold / "1.0.0"
    jobs = [
        sweep.Job(
            name,
            CONFIG,
            options.runs / options.fold / name.replace(" ", "_").replace(",", "") / str(seed),
            {"data.directory": directory, "total_steps": options.steps, "seed": seed, **overrides},
        )
        # The outer loop is over seeds, so that an interrupted ablation has about the same number
        # of runs of every variant.
        for seed, (name, overrides) in itertools.product(range(options.seeds), VARIANTS.items())
    ]
    rows = {name: [] for name in VARIANTS}
    for job, content in zip(jobs, sweep.run_jobs(jobs, parallel=options.parallel), strict=True):
        rows[job.name].append(sweep.row_of(content, results.STUDENT))
    summary = summarise(rows)
    if options.output:
        options.output.write_text(
            markdown(summary, seeds=options.seeds, fold=options.fold, steps=options.steps)
        )
    print(json.dumps({"benchmark": "ablation", "seeds": options.seeds, "variants": summary}))
    return 0


def summarise(rows: dict[str, list[dict]]) -> dict[str, dict[str, tuple[float, float]]]:
    """Computes mean and standard deviation over seeds of every metric of every variant."""
    return {
        name: {
            title: sweep.mean_and_deviation([metric(row) for row in seeds])
            for title, metric in METRICS.items()
        }
        for name, seeds in rows.items()
    }


def markdown(summary: dict, *, seeds: int, fold: str, steps: int) -> str:
    """Formats the page of the documentation: a description of the runs, and the table."""
    rows = [["variant", *METRICS]]
    for name, metrics in summary.items():
        cells = [
            f"{100 * mean:.1f} ± {100 * deviation:.1f}" for mean, deviation in metrics.values()
        ]
        rows.append([name, *cells])
    deviation = np.median([100 * metrics["top-1"][1] for metrics in summary.values()])
    return (
        "# Ablation on the furniture data\n\n"
        f"Written by `make ablation` on {os.cpu_count()} CPU cores ({platform.machine()}): "
        f"`{CONFIG}` with {steps} steps, evaluated on the held-out catalogue of "
        f"`{fold}`; mean ± standard deviation over {seeds} seeds, in %. The runs differ only in "
        "the seed and in the named terms; no setting was chosen on this table.\n\n"
        + table.format_markdown(rows)
        + f"\n\nThe median standard deviation of top-1 is {deviation:.1f} points; differences of "
        "that size are within the noise.\n"
    )


if __name__ == "__main__":
    sys.exit(main())
