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

from mrd_jax import evaluation
from mrd_jax.data import source
from mrd_jax.evaluators import few_shot, held_out, linear_probe, results, retrieval, table


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
      ValueError: the data set holds other shapes than were embedded.
    """
    embeddings = evaluation.load_embeddings(workdir)
    config = json.loads((workdir / "results.json").read_text("utf-8"))["config"]
    folder = data or config["data"]["directory"]
    splits = {
        part: held_out.load_held_out(folder, config["data"][f"{part}_split"])
        for part in ("train", "test")
    }
    for part, split in splits.items():
        if tuple(embeddings[f"{part}_ids"]) != split.ids:
            raise ValueError(
                f"{workdir / evaluation.EMBEDDINGS_FILE} has {len(embeddings[part])} {part} shapes "
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


# Direction -> row of the table. By class, and by shape.
BY_CLASS = {
    "points_to_points": "shape to shapes of its class",
    "class_to_points": "class name to its shapes",
    "points_to_text": "shape to names of its class",
    "text_to_points": "name to shapes of its class",
    "points_to_image": "shape to pictures of its class",
    "image_to_points": "picture to shapes of its class",
}
BY_SHAPE = {
    "points_to_text": "shape to its name",
    "text_to_points": "name to its shape",
    "points_to_image": "shape to its picture",
    "image_to_points": "picture to its shape",
}


def column(run: Mapping[str, Any]) -> dict[str, str]:
    """The cells of one run by the title of their row; directions that the data lack have none."""
    probe, shots, found = run["linear_probe"], run["few_shot"], run["retrieval"]
    cells = {
        "zero-shot top-1": table.percent(run["zero_shot"]["top1"]),
        "zero-shot mean per class": table.percent(run["zero_shot"]["mean_per_class"]),
        "linear probe top-1": table.percent(probe["top1"]),
        "linear probe mean per class": table.percent(probe["mean_per_class"]),
        "strength of its penalty": f"{probe['strength']:g}",
    }
    for number in few_shot.SHOTS:
        spread = table.percent(shots[f"{number}/top1_std"])
        cells[f"{number}-shot top-1"] = f"{table.percent(shots[f'{number}/top1'])} ± {spread}"
    for direction, title in BY_CLASS.items():
        if f"{direction}/map" in found:
            cells[f"{title}, mAP"] = table.percent(found[f"{direction}/map"])
    for direction, title in BY_SHAPE.items():
        if f"{direction}/queries" in found:
            recalls = [table.percent(found[f"{direction}/recall@{k}"]) for k in retrieval.RECALL_AT]
            cells[f"{title}, R@1, 5, 10"] = " / ".join(recalls)
            cells[f"{title}, median rank"] = f"{found[f'{direction}/median_rank']:g}"
    return cells


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
    columns = [column(run) for run in runs.values()]
    rows = [
        ["", *runs],
        ["---", *["---:"] * len(runs)],
        *([title, *(cells[title] for cells in columns)] for title in columns[0]),
    ]
    table_lines = "\n".join("| " + " | ".join(row) + " |" for row in rows)
    described = "; ".join(
        f"{name}: {run['steps']} steps, seed {run['seed']}" for name, run in runs.items()
    )
    return (
        "# Transfer of frozen embeddings\n\n"
        f"Written by `python -m benchmarks.transfer`. {described}. One training each: the spreads "
        "are over draws of shots, not over trainings. All but penalties and ranks are in %.\n\n"
        f"{_counts(next(iter(runs.values())))}\n\n{table_lines}\n"
    )


def _counts(run: Mapping[str, Any]) -> str:
    """How much there was to learn from and to answer, the same for all runs on a data set."""
    probe, shots, found = run["linear_probe"], run["few_shot"], run["retrieval"]
    drawn = "; ".join(
        f"{number}: {shots[f'{number}/train']} and {shots[f'{number}/short_classes']}"
        for number in few_shot.SHOTS
    )
    text = (
        f"Probes learn from {probe['train']} labelled training shapes of {probe['classes']} "
        f"classes, {probe['held_out']} of which chose the penalty before all were used, and answer "
        f"for {probe['count']} test shapes; {probe['absent']} of these are of no trained class and "
        f"count as wrong. Few-shot: mean ± standard deviation over {shots['seeds']} draws; a class "
        "with fewer shapes than shots gives all (shots: shapes drawn and classes with fewer; "
        f"{drawn})."
    )
    if "points_to_points/map" in found:
        asking, items, lonely = (
            found[f"points_to_points/map_{key}"] for key in ("queries", "gallery", "lonely")
        )
        text += (
            f" mAP: everything of the query's class is a right answer; {asking} shapes look among "
            f"{items} for others, {lonely} more are alone in their class and do not ask."
        )
    return text


if __name__ == "__main__":
    main()
