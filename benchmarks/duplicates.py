# SPDX-License-Identifier: Apache-2.0
"""Measures how many planted copies of furniture models `mrd_jax.tools.duplicates` finds.

python -m benchmarks.duplicates --catalogues data/sweethome3d --checkpoint runs/quickstart \
    --teacher data/teachers/lit_furniture --work /tmp/duplicates

Copies of randomly chosen models are turned by a random rotation, scaled, recoloured, re-meshed, or
all of these. The folder is embedded and indexed by the commands of the project, and searched as by
`mrd_jax.tools.duplicates`. Two shapes are copies of each other if they come from one model; pairs
of different models that are found are listed, for catalogues hold variants of one model.
"""

import argparse
import itertools
import json
import os
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks import planted_copies
from mrd_jax.cli import command
from mrd_jax.library import duplicates
from mrd_jax.search import shape_index
from mrd_jax.tools import embed, search


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the pairs of different models that were found, and one JSON line."""
    options = parse_options(arguments)
    work = options.work
    truth = _plant(options)
    os.chdir(work)
    place = ["--checkpoint", str(options.checkpoint), "--output", "shapes.npz", "--up", "y"]
    embed.main([*place, "models", "copies"])
    index = ["build", "--embeddings", "shapes.npz", "--output", "index"]
    if search.main([*index, "--teacher", str(options.teacher)]):
        return 1
    opened = shape_index.read("index")
    shapes = [item.id for item in opened.items]
    started = time.perf_counter()
    copies = duplicates.compare(opened, max_distance=max(options.max_distances))
    seconds = time.perf_counter() - started
    results = {}
    for limit in options.max_distances:
        groups = duplicates.group(copy for copy in copies if copy.distance <= limit)
        ids = [[shapes[copy.number] for copy in group] for group in groups]
        results[limit] = score(ids, shapes, truth)
        for pair in results[limit].pop("other_pairs"):
            print(f"different models at {limit}:", *pair)
    summary = {"shapes": len(shapes), "copies": len(truth), "seconds": round(seconds, 1)}
    print(json.dumps({"benchmark": "duplicates", **summary, "max_distance": results}))
    return 0


def score(groups: Sequence[Sequence[str]], shapes: Sequence[str], truth: dict[str, str]) -> dict:
    """Computes precision and recall of groups.

    Args:
      groups: ids of the shapes of each group.
      shapes: ids of all shapes of the index.
      truth: model of each copy; all other shapes are models.

    Returns:
      `precision`: of the pairs of shapes in one group, the fraction from one model. `recall`: of
      the copies, the fraction that is in the group of their model, and `recall_by_kind`.
      `other_pairs`: pairs of different models in one group.
    """
    group_of = {shape: number for number, ids in enumerate(groups) for shape in ids}
    model_of = {shape: truth.get(shape, shape) for shape in shapes}
    pairs = [
        (model_of[first], model_of[second])
        for ids in groups
        for first, second in itertools.combinations(ids, 2)
    ]
    hits: dict[str, list[bool]] = {kind: [] for kind in planted_copies.KINDS}
    for copy, model in truth.items():
        number = group_of.get(copy)
        hits[Path(copy).parts[1]].append(number is not None and number == group_of.get(model))
    right = sum(first == second for first, second in pairs)
    return {
        "groups": len(groups),
        "pairs": len(pairs),
        "precision": round(right / max(len(pairs), 1), 4),
        "recall": round(float(np.mean([hit for each in hits.values() for hit in each])), 4),
        "recall_by_kind": {kind: round(float(np.mean(each)), 4) for kind, each in hits.items()},
        "other_pairs": sorted({tuple(sorted(pair)) for pair in pairs if pair[0] != pair[1]}),
    }


def _plant(options: argparse.Namespace) -> dict[str, str]:
    """Extracts the models, keeps some of them, and plants the copies; returns their models."""
    options.work.mkdir(parents=True, exist_ok=False)
    everything, kept = options.work / "catalogues", options.work / "models"
    models = planted_copies.extract(options.catalogues, everything)
    rng = np.random.default_rng(options.seed)
    if options.models:
        chosen = np.sort(rng.choice(len(models), min(options.models, len(models)), replace=False))
        models = [models[number] for number in chosen]
    for folder in {model.parent for model in models}:
        shutil.copytree(everything / folder, kept / folder, dirs_exist_ok=True)
    truth = planted_copies.plant(
        everything, models, output=options.work / "copies", count=options.copied, seed=options.seed
    )
    truth = {f"copies/{copy}": f"models/{model}" for copy, model in truth.items()}
    (options.work / "truth.json").write_text(json.dumps(truth, indent=1) + "\n")
    return truth


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m benchmarks.duplicates")
    add = parser.add_argument
    add("--catalogues", type=Path, default=Path("data/sweethome3d"), help="folder of .sh3f files")
    add("--checkpoint", type=Path, required=True, help="run or encoder that embeds the shapes")
    add("--teacher", type=Path, required=True, help="folder of its teacher")
    add("--work", type=Path, required=True, help="folder to create for meshes and results")
    add("--models", type=int, default=0, help="number of models (default: all)")
    add("--copied", type=int, default=40, help="number of models to copy (default: 40)")
    add(
        "--max_distances",
        type=float,
        nargs="+",
        default=[1.05, 1.1, 1.2, 1.3],
        help="values of --max_distance of mrd_jax.tools.duplicates (default: 1.05 1.1 1.2 1.3)",
    )
    add("--seed", type=int, default=0, help="seed of the choice and of the changes (default: 0)")
    options = parser.parse_args(arguments)
    for name in ("catalogues", "checkpoint", "teacher", "work"):
        setattr(options, name, getattr(options, name).resolve())
    return options


if __name__ == "__main__":
    sys.exit(main())
