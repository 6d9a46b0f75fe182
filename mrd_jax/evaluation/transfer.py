# SPDX-License-Identifier: Apache-2.0
"""What frozen embeddings are good for, as cells of a table: zero-shot, probes, few-shot, retrieval.

The figures of one encoder on one data set come as a dict: `zero_shot` and `retrieval` as the
functions of those names return, and `linear_probe` and `few_shot` likewise, where they were fitted.
"""

from collections.abc import Mapping
from typing import Any

from mrd_jax.evaluation import few_shot, retrieval, table

Figures = Mapping[str, Mapping[str, float]]

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


def cells(figures: Figures) -> dict[str, str]:
    """The figures of one encoder by the title of their row, in %, but for penalties and ranks.

    What was not measured, and directions that the data lack, have no row.
    """
    found = {
        "zero-shot top-1": table.percent(figures["zero_shot"]["top1"]),
        "zero-shot mean per class": table.percent(figures["zero_shot"]["mean_per_class"]),
    }
    if "linear_probe" in figures:
        probe = figures["linear_probe"]
        found["linear probe top-1"] = table.percent(probe["top1"])
        found["linear probe mean per class"] = table.percent(probe["mean_per_class"])
        found["strength of its penalty"] = f"{probe['strength']:g}"
    if "few_shot" in figures:
        found |= _few_shot_cells(figures["few_shot"])
    return found | _retrieval_cells(figures["retrieval"])


def counts(figures: Figures) -> str:
    """How much there was to learn from and to answer, in sentences; "" where nothing was fitted.

    It is the same for all encoders on a data set.
    """
    sentences = []
    if "linear_probe" in figures:
        probe = figures["linear_probe"]
        sentences.append(
            f"Probes learn from {probe['train']} labelled training shapes of {probe['classes']} "
            f"classes, {probe['held_out']} of which chose the penalty before all were used, and "
            f"answer for {probe['count']} test shapes; {probe['absent']} of these are of no "
            "trained class and count as wrong."
        )
    if "few_shot" in figures:
        shots = figures["few_shot"]
        drawn = "; ".join(
            f"{number}: {shots[f'{number}/train']} and {shots[f'{number}/short_classes']}"
            for number in few_shot.SHOTS
        )
        sentences.append(
            f"Few-shot: mean ± standard deviation over {shots['seeds']} draws; a class with fewer "
            "shapes than shots gives all (shots: shapes drawn and classes with fewer; "
            f"{drawn})."
        )
    found = figures["retrieval"]
    if "points_to_points/map" in found:
        asking, items, lonely = (
            found[f"points_to_points/map_{key}"] for key in ("queries", "gallery", "lonely")
        )
        sentences.append(
            f"mAP: everything of the query's class is a right answer; {asking} shapes look among "
            f"{items} for others, {lonely} more are alone in their class and do not ask."
        )
    return " ".join(sentences)


def _few_shot_cells(shots: Mapping[str, Any]) -> dict[str, str]:
    found = {}
    for number in few_shot.SHOTS:
        spread = table.percent(shots[f"{number}/top1_std"])
        found[f"{number}-shot top-1"] = f"{table.percent(shots[f'{number}/top1'])} ± {spread}"
    return found


def _retrieval_cells(found: Mapping[str, float]) -> dict[str, str]:
    made = {
        f"{title}, mAP": table.percent(found[f"{direction}/map"])
        for direction, title in BY_CLASS.items()
        if f"{direction}/map" in found
    }
    for direction, title in BY_SHAPE.items():
        if f"{direction}/queries" in found:
            recalls = [table.percent(found[f"{direction}/recall@{k}"]) for k in retrieval.RECALL_AT]
            made[f"{title}, R@1, 5, 10"] = " / ".join(recalls)
            made[f"{title}, median rank"] = f"{found[f'{direction}/median_rank']:g}"
    return made
