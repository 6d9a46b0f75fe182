# SPDX-License-Identifier: Apache-2.0
"""What frozen embeddings of finished runs are good for, side by side: probes, few-shot, retrieval.

python -m benchmarks.transfer --runs runs/contrastive runs/quickstart --output docs/transfer.md

A run is evaluated first, by training to the end or by `--mode eval`. The fits are small matrix
products: on cores that others use, OPENBLAS_NUM_THREADS=1 is many times faster.
"""

import argparse
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from mrd_jax.data import source
from mrd_jax.evaluation import (
    few_shot,
    held_out_split,
    linear_probe,
    results,
    table,
    transfer,
)
from mrd_jax.report import final


def main() -> None:
    """Measures every run, prints a table in Markdown and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--runs", type=pathlib.Path, nargs="+", required=True, help="workdirs of evaluated runs"
    )
    parser.add_argument("--names", nargs="+", help="of the runs, for the table; else their folders")
    parser.add_argument(
        "--data", type=pathlib.Path, help="data set of all runs; else where they were evaluated on"
    )
    parser.add_argument("--output", type=pathlib.Path, help="Markdown file to write")
    options = parser.parse_args()
    names = options.names or [str(run) for run in options.runs]
    if len(set(names)) != len(options.runs):
        parser.error(f"--names {names} for {len(options.runs)} runs: expected one each, distinct")
    runs = {
        name: measure(run, data=options.data) for name, run in zip(names, options.runs, strict=True)
    }
    page = markdown(runs)
    if options.output:
        options.output.write_text(page, "utf-8")
    print(page)
    print(json.dumps({"benchmark": "transfer", "runs": runs}))


def measure(workdir: pathlib.Path, *, data: pathlib.Path | None = None) -> dict[str, Any]:
    """Every figure of one run, from the embeddings that its evaluation saved.

    Args:
      workdir: of the run.
      data: folder of the data set; None for the one that the run was evaluated on.

    Returns:
      steps and seed of the run; data, the data set's fingerprint; and zero_shot, linear_probe,
      few_shot and retrieval, as the functions of that name return.

    Raises:
      FileNotFoundError: the run has not been evaluated.
      ValueError: the data set holds other shapes than were embedded, or no training shape was.
    """
    embeddings = final.load_embeddings(workdir)
    if "train" not in embeddings:
        raise ValueError(
            f"{workdir / final.EMBEDDINGS_FILE} has no training shapes to learn from: the run "
            "was tested on another data set (config.data.test_directory); evaluate it again "
            "without that, or with configs/benchmarks.py"
        )
    config = json.loads((workdir / "results.json").read_text("utf-8"))["config"]
    folder = data or config["data"]["directory"]
    splits = {
        part: held_out_split.load_held_out(folder, config["data"][f"{part}_split"])
        for part in ("train", "test")
    }
    for part, split in splits.items():
        if tuple(embeddings[f"{part}_ids"]) != split.ids:
            raise ValueError(
                f"{workdir / final.EMBEDDINGS_FILE} has {len(embeddings[part])} {part} shapes "
                f"that are not the {len(split.ids)} of {folder}: name the data set of the run with "
                "--data, or evaluate the run again"
            )
    student = results.from_embeddings(
        embeddings["test"], name=results.STUDENT, held_out=splits["test"]
    )
    given = {
        "labels": splits["train"].labels,
        "test_features": embeddings["test"],
        "test_labels": splits["test"].labels,
    }
    return {
        "steps": config["total_steps"],
        "seed": config["seed"],
        "data": source.fingerprint(source.read_metadata(folder)),
        "zero_shot": student.metrics,
        "linear_probe": linear_probe.linear_probe(embeddings["train"], **given),
        "few_shot": few_shot.few_shot(embeddings["train"], **given),
        "retrieval": student.retrieval,
    }


def markdown(runs: Mapping[str, Mapping[str, Any]]) -> str:
    """The page for the docs: how much there was to learn from and to test, and the table.

    Args:
      runs: name -> what `measure` returned.

    Returns:
      Markdown that ends with a newline.

    Raises:
      ValueError: where the runs were measured on different data sets.
    """
    data = {name: run["data"] for name, run in runs.items()}
    if len(set(data.values())) > 1:
        raise ValueError(f"the runs have different data sets, {data}: compare runs of one")
    columns = [transfer.cells(run) for run in runs.values()]
    rows = [["", *runs], *([title, *(cells[title] for cells in columns)] for title in columns[0])]
    described = "; ".join(
        f"{name}: {run['steps']} steps, seed {run['seed']}" for name, run in runs.items()
    )
    return (
        "# Transfer of frozen embeddings\n\n"
        f"Written by `python -m benchmarks.transfer`. {described}. One training each: the spreads "
        "are over draws of shots, not over trainings. All but penalties and ranks are in %.\n\n"
        f"{transfer.counts(next(iter(runs.values())))}\n\n{table.format_markdown(rows)}\n"
    )


if __name__ == "__main__":
    main()
