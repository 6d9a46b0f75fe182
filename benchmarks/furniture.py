# SPDX-License-Identifier: Apache-2.0
"""The longer run on both folds of the furniture data, pooled and tested against the floor.

python -m benchmarks.furniture --data data --runs runs/furniture
"""

import argparse
import json
import pathlib

import numpy as np

from benchmarks import sweep
from mrd_jax.evaluation.metrics import statistics

FOLDS = ("furniture", "furniture_ccby")
CONFIG = "configs/furniture.py"


def main() -> None:
    """Trains what is missing, prints a table for people and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=pathlib.Path, default=pathlib.Path("data"))
    parser.add_argument("--runs", type=pathlib.Path, default=pathlib.Path("runs/furniture"))
    parser.add_argument("--parallel", type=int, default=2, help="runs side by side")
    options = parser.parse_args()
    jobs = [
        sweep.Job(
            fold, CONFIG, options.runs / fold, {"data.directory": options.data / fold / "1.0.0"}
        )
        for fold in FOLDS
    ]
    folds = sweep.run_jobs(jobs, parallel=options.parallel)
    summary = pooled(folds)
    for name, line in summary["methods"].items():
        low, high = line["interval"]
        print(
            f"{name:10s} top-1 {100 * line['top1']:5.1f}  ({100 * low:.1f} to {100 * high:.1f})"
            f"  per fold {' '.join(f'{100 * top1:.1f}' for top1 in line['folds'])}"
        )
    print(json.dumps(summary))


def pooled(folds: list[dict]) -> dict:
    """Top-1 over the shapes of all folds, and the student paired with every other method.

    Args:
      folds: `results.json` of each.

    Returns:
      methods: name -> top1, 95% interval, top-1 per fold; against: name -> exact McNemar test.
    """
    measured = [line["name"] for line in folds[0]["results"] if line["correct"] is not None]
    correct = {
        name: [np.array(sweep.line_of(fold, name)["correct"]) for fold in folds]
        for name in measured
    }
    methods = {}
    for name, vectors in correct.items():
        every = np.concatenate(vectors)
        methods[name] = {
            "top1": float(every.mean()),
            "interval": statistics.wilson_interval(int(every.sum()), count=len(every)),
            "folds": [float(vector.mean()) for vector in vectors],
        }
    against = {}
    for name in measured:
        if name != "student":
            test = statistics.mcnemar(correct["student"], correct[name])
            against[name] = {
                "shapes": test.count,
                "student_only": test.only_first,
                "other_only": test.only_second,
                "p_value": test.p_value,
            }
    return {"benchmark": "furniture", "methods": methods, "against": against}


if __name__ == "__main__":
    main()
