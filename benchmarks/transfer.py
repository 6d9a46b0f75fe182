# SPDX-License-Identifier: Apache-2.0
"""Compares the transfer of frozen embeddings of finished runs: probes, few-shot, retrieval.

python -m benchmarks.transfer --runs runs/contrastive runs/quickstart --output runs/transfer.md

A run must have been evaluated, at the end of training or with `--mode eval`. The fits are small
matrix products: on cores that other processes use, OPENBLAS_NUM_THREADS=1 is many times faster.
"""

import collections
import json
import pathlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mrd_jax.cli import command
from mrd_jax.data import dataset_metadata
from mrd_jax.evaluation import (
    few_shot,
    held_out_split,
    linear_probe,
    results,
    table,
    transfer,
)
from mrd_jax.report import final

# Stages of the measurement of one run, in order.
STAGES = ("reading", "zero-shot and retrieval", "linear probe", "few-shot")


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Measures every run, and prints a table in Markdown and one JSON line."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.transfer")
    add = parser.add_argument
    add("--runs", type=pathlib.Path, nargs="+", required=True, help="workdirs of evaluated runs")
    add("--names", nargs="+", help="a name per run for the table; by default its workdir")
    add("--data", type=pathlib.Path, help="data set of all runs; by default that of their configs")
    add("--output", type=pathlib.Path, help="Markdown file to write")
    options = parser.parse_args(arguments)
    names = options.names or [str(run) for run in options.runs]
    if len(set(names)) != len(options.runs):
        parser.error(f"--names {names} for {len(options.runs)} runs: expected one each, distinct")
    progress = Progress(runs=len(names))
    runs = {
        name: measure(run, data=options.data, progress=progress.of(name))
        for name, run in zip(names, options.runs, strict=True)
    }
    page = markdown(runs)
    if options.output:
        options.output.write_text(page, "utf-8")
    print(page)
    print(json.dumps({"benchmark": "transfer", "runs": runs}))
    return 0


class Progress:
    """Prints a line on stderr per finished stage, with the time left."""

    def __init__(self, *, runs: int):
        """Starts the clock.

        Args:
          runs: number of runs to measure.
        """
        self._left = collections.Counter(dict.fromkeys(STAGES, runs))
        self._seconds: dict[str, float] = {}
        self._started = time.monotonic()

    def of(self, name: str) -> Callable[[str], None]:
        """Returns a function that is called with each stage of a run when the stage is finished.

        Args:
          name: name of the run.
        """
        return lambda stage: self._finish(name, stage)

    def _finish(self, name: str, stage: str) -> None:
        now = time.monotonic()
        self._seconds[stage], self._started = now - self._started, now
        self._left[stage] -= 1
        left = sum(self._left[each] * self._seconds.get(each, 0.0) for each in STAGES)
        # Until each stage was measured once, its time is not known.
        bound = "" if len(self._seconds) == len(STAGES) else "at least "
        print(
            f"{name}: {stage} took {self._seconds[stage]:.0f} s; {bound}{left:.0f} s left",
            file=sys.stderr,
            flush=True,
        )


def measure(
    workdir: pathlib.Path,
    *,
    data: pathlib.Path | None = None,
    progress: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Computes the metrics of one run from the embeddings that its evaluation saved.

    Args:
      workdir: folder of the run.
      data: folder of the data set; None for the one in the config of the run.
      progress: called with the name of each of `STAGES` when it is finished.

    Returns:
      `steps` and `seed` of the run; `data`, the fingerprint of the data set; and `zero_shot`,
      `linear_probe`, `few_shot` and `retrieval` as the functions of those names return them.

    Raises:
      FileNotFoundError: the run has not been evaluated.
      ValueError: the data set has other shapes than those that were embedded, or the training split
        was not embedded.
    """
    path = workdir / final.EMBEDDINGS_FILE
    embeddings = final.load_embeddings(workdir)
    if "train" not in embeddings:
        raise ValueError(
            f"{path} has no embeddings of the training shapes, which the probes are fitted to: the "
            "run was tested on another data set (config.data.test_directory) or its training "
            "split has corrupt records; evaluate it again on intact data without "
            "test_directory, or with configs/benchmarks.py"
        )
    config = json.loads((workdir / final.RESULTS_FILE).read_text("utf-8"))["config"]
    folder = data or config["data"]["directory"]
    splits = {
        name: held_out_split.load_held_out(folder, config["data"][f"{name}_split"])
        for name in ("train", "test")
    }
    for name, split in splits.items():
        if tuple(embeddings[f"{name}_ids"]) != split.ids:
            raise ValueError(
                f"{path} has {len(embeddings[name])} {name} shapes that are not the "
                f"{len(split.ids)} of {folder}: name the data set of the run with --data, or "
                "evaluate the run again"
            )
    progress(STAGES[0])
    student = results.from_embeddings(
        embeddings["test"], name=results.STUDENT, held_out=splits["test"]
    )
    progress(STAGES[1])
    given = {
        "labels": splits["train"].labels,
        "test_features": embeddings["test"],
        "test_labels": splits["test"].labels,
    }
    probe = linear_probe.linear_probe(
        embeddings["train"], **given, test_groups=splits["test"].clusters
    )
    progress(STAGES[2])
    shots = few_shot.few_shot(embeddings["train"], **given)
    progress(STAGES[3])
    return {
        "steps": config["total_steps"],
        "seed": config["seed"],
        "data": dataset_metadata.fingerprint(dataset_metadata.read(folder)),
        "zero_shot": student.metrics,
        "linear_probe": probe,
        "few_shot": shots,
        "retrieval": student.retrieval,
    }


def markdown(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """Formats a page: numbers of shapes, and a table with a column per run.

    Args:
      runs: metrics by name of the run, as `measure` returns them.

    Returns:
      Markdown that ends with a newline.

    Raises:
      ValueError: the runs were measured on different data sets.
    """
    data = {name: run["data"] for name, run in runs.items()}
    if len(set(data.values())) > 1:
        raise ValueError(
            f"the runs have different data sets, {data}: compare only runs on the same data set"
        )
    columns = [transfer.cells(run) for run in runs.values()]
    rows = [["", *runs], *([title, *(cells[title] for cells in columns)] for title in columns[0])]
    description = "; ".join(
        f"{name}: {run['steps']} steps, seed {run['seed']}" for name, run in runs.items()
    )
    return (
        "# Transfer of frozen embeddings\n\n"
        f"Written by `python -m benchmarks.transfer`. {description}. Each run was trained once: "
        "standard deviations are over draws of shots, not over trainings. All values are in %, "
        "except penalties and ranks.\n\n"
        f"{transfer.describe_counts(next(iter(runs.values())))}\n\n{table.format_markdown(rows)}\n"
    )


if __name__ == "__main__":
    sys.exit(main())
