# SPDX-License-Identifier: Apache-2.0
"""Trains the longer run on both folds of the furniture data and tests it against the baselines.

python -m benchmarks.furniture --data data --runs runs/furniture
"""

import json
import pathlib
import sys
from collections.abc import Sequence

import numpy as np

from benchmarks import sweep
from mrd_jax.cli import command
from mrd_jax.evaluation import held_out_split, results
from mrd_jax.evaluation.metrics import statistics

FOLDS = ("furniture", "furniture_ccby")
CONFIG = "configs/furniture.py"


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Trains unfinished runs, and prints a table and one JSON line."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.furniture")
    add = parser.add_argument
    add("--data", type=pathlib.Path, default=pathlib.Path("data"), help="folder of the data sets")
    add(
        "--runs",
        type=pathlib.Path,
        default=pathlib.Path("runs/furniture"),
        help="folder of the workdirs",
    )
    add("--parallel", type=int, default=2, help="number of runs at a time")
    options = parser.parse_args(arguments)
    jobs = [
        sweep.Job(
            fold, CONFIG, options.runs / fold, {"data.directory": options.data / fold / "1.0.0"}
        )
        for fold in FOLDS
    ]
    folds = sweep.run_jobs(jobs, parallel=options.parallel)
    summary = pool_folds(folds, groups=_pooled_groups(folds))
    print(f"intervals over {summary['groups']} groups" if summary["groups"] else "Wilson intervals")
    for name, pooled in summary["methods"].items():
        low, high = pooled["interval"]
        print(
            f"{name:17s} top-1 {100 * pooled['top1']:5.1f}  ({100 * low:.1f} to {100 * high:.1f})"
            f"  per fold {' '.join(f'{100 * top1:.1f}' for top1 in pooled['folds'])}"
        )
    print(json.dumps(summary))
    return 0


def pool_folds(folds: list[dict], *, groups: np.ndarray | None = None) -> dict:
    """Computes top-1 over the shapes of all folds, and tests the student against every method.

    Args:
      folds: content of `results.json` of each fold.
      groups: [labelled shapes of all folds], name of the group of each shape; None for shapes that
        are independent.

    Returns:
      `methods`: by name, top-1 accuracy, its 95% interval, and top-1 per fold. `groups`: number of
      groups that the intervals were computed over, 0 for Wilson intervals. `against`: by name, the
      exact McNemar test of the student against the method.
    """
    measured = [
        results.current_name(row["name"])
        for row in folds[0]["results"]
        if row["correct"] is not None
    ]
    correct = {
        name: [np.array(sweep.row_of(fold, name)["correct"]) for fold in folds] for name in measured
    }
    methods = {}
    for name, by_fold in correct.items():
        pooled = np.concatenate(by_fold)
        interval = statistics.accuracy_interval(pooled, groups=groups)
        methods[name] = {
            "top1": float(pooled.mean()),
            "interval": (interval.low, interval.high),
            "folds": [float(fold.mean()) for fold in by_fold],
        }
    against = {}
    for name in measured:
        if name != results.STUDENT:
            test = statistics.mcnemar(correct[results.STUDENT], correct[name])
            against[name] = {
                "shapes": test.count,
                "student_only": test.only_first,
                "other_only": test.only_second,
                "p_value": test.p_value,
            }
    return {
        "benchmark": "furniture",
        "methods": methods,
        "groups": interval.groups,
        "against": against,
    }


def _pooled_groups(folds: list[dict]) -> np.ndarray | None:
    """Returns the group of every labelled shape of all folds; None if a data set has no groups."""
    names = []
    for fold in folds:
        data = fold["config"]["data"]
        held_out = held_out_split.load_held_out(data["directory"], data["test_split"])
        if held_out.groups is None:
            return None
        pairs = zip(held_out.groups, held_out.ids, strict=True)
        # A shape without a group is a group of its own; "=" keeps its id apart from names.
        every = np.asarray([group or f"={shape_id}" for group, shape_id in pairs])
        names.append(every[held_out.labelled])
    return np.concatenate(names)


if __name__ == "__main__":
    sys.exit(main())
