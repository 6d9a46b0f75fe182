# SPDX-License-Identifier: Apache-2.0
"""Transfer of frozen embeddings, as rows of a table: zero-shot, probes, few-shot, retrieval.

The metrics of one encoder on one data set are a dict: `zero_shot` and `retrieval` as the functions
of those names return them, `linear_probe` and `few_shot` likewise if they were fitted, and
`fine_tuned` for the class head of an encoder that was fine-tuned on these classes.
"""

from collections.abc import Mapping
from typing import Any

from mrd_jax.evaluation import few_shot, retrieval, table

Metrics = Mapping[str, Mapping[str, float]]

# Metrics that an encoder may lack.
FITTED = ("linear_probe", "few_shot", "fine_tuned")

# Direction -> title of its row, for retrieval by class and by shape.
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


def cells(metrics: Metrics) -> dict[str, str]:
    """Formats the metrics of one encoder, by the title of their row.

    All are in per cent, except penalties and ranks. Metrics that were not computed, and directions
    that the data set does not have, have no row.
    """
    rows = {
        "zero-shot top-1": table.percent(metrics["zero_shot"]["top1"]),
        **_interval_cells("zero-shot top-1", metrics["zero_shot"], "top1"),
        "zero-shot mean per class": table.percent(metrics["zero_shot"]["mean_per_class"]),
    }
    if "linear_probe" in metrics:
        probe = metrics["linear_probe"]
        rows["linear probe top-1"] = table.percent(probe["top1"])
        rows |= _interval_cells("linear probe top-1", probe, "top1")
        rows["linear probe mean per class"] = table.percent(probe["mean_per_class"])
        rows["linear probe penalty"] = f"{probe['strength']:g}"
    if "few_shot" in metrics:
        rows |= _few_shot_cells(metrics["few_shot"])
    if "fine_tuned" in metrics:
        tuned = metrics["fine_tuned"]
        rows["fine-tuned top-1"] = table.percent(tuned["top1"])
        rows |= _interval_cells("fine-tuned top-1", tuned, "top1")
        rows["fine-tuned mean per class"] = table.percent(tuned["mean_per_class"])
    return rows | _retrieval_cells(metrics["retrieval"])


def describe_counts(metrics: Metrics) -> str:
    """Describes the numbers of shapes that probes are fitted to and tested on, in sentences.

    They are the same for all encoders on a data set. Returns "" if nothing was fitted and there is
    no retrieval by class.
    """
    sentences = []
    if "top1_low" in metrics["zero_shot"]:
        groups = metrics["zero_shot"]["groups"]
        how = f"bootstrap over {groups} groups" if groups else "Wilson"
        sentences.append(f"95% intervals: {how}.")
    if "linear_probe" in metrics:
        probe = metrics["linear_probe"]
        sentences.append(
            f"Probes are fitted to {probe['train']} labelled training shapes of "
            f"{probe['classes']} classes; {probe['held_out']} of these are held out first to "
            f"choose the penalty. They are tested on {probe['count']} shapes; {probe['absent']} of "
            "these have a class without training shapes and count as wrong."
        )
    if "few_shot" in metrics:
        shots = metrics["few_shot"]
        drawn = "; ".join(
            f"{number}: {shots[f'{number}/train']} and {shots[f'{number}/short_classes']}"
            for number in few_shot.SHOTS
        )
        sentences.append(
            f"Few-shot: mean ± standard deviation over {shots['seeds']} draws; a class with fewer "
            "shapes than shots contributes all of them (shots: shapes drawn and classes with "
            f"fewer; {drawn})."
        )
    recalls = metrics["retrieval"]
    if "points_to_points/map" in recalls:
        queries, items, lonely = (
            recalls[f"points_to_points/map_{key}"] for key in ("queries", "gallery", "lonely")
        )
        sentences.append(
            "mAP: everything of the query's class is a correct answer; shape to shapes has "
            f"{queries} queries in a gallery of {items}, and {lonely} more shapes are no queries "
            "because they are the only ones of their class."
        )
    return " ".join(sentences)


def _few_shot_cells(shots: Mapping[str, Any]) -> dict[str, str]:
    rows = {}
    for number in few_shot.SHOTS:
        deviation = table.percent(shots[f"{number}/top1_std"])
        rows[f"{number}-shot top-1"] = f"{table.percent(shots[f'{number}/top1'])} ± {deviation}"
    return rows


def _interval_cells(title: str, metrics: Mapping[str, float], key: str) -> dict[str, str]:
    """Returns the row of a 95% interval; {} without one, as in results of earlier versions."""
    if f"{key}_low" not in metrics:
        return {}
    return {f"{title}, 95%": table.between(metrics[f"{key}_low"], metrics[f"{key}_high"])}


def _retrieval_cells(metrics: Mapping[str, float]) -> dict[str, str]:
    rows = {}
    for direction, title in BY_CLASS.items():
        if f"{direction}/map" in metrics:
            rows[f"{title}, mAP"] = table.percent(metrics[f"{direction}/map"])
            rows |= _interval_cells(f"{title}, mAP", metrics, f"{direction}/map")
    for direction, title in BY_SHAPE.items():
        if f"{direction}/queries" in metrics:
            recalls = [
                table.percent(metrics[f"{direction}/recall@{k}"]) for k in retrieval.RECALL_AT
            ]
            rows[f"{title}, R@1, 5, 10"] = " / ".join(recalls)
            rows[f"{title}, median rank"] = f"{metrics[f'{direction}/median_rank']:g}"
    return rows
