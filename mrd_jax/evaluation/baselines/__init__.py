# SPDX-License-Identifier: Apache-2.0
"""What a student is measured against: chance, majority, the floor and the ceiling."""

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mrd_jax import evaluation
from mrd_jax.data import source
from mrd_jax.evaluation import results
from mrd_jax.evaluation.baselines import histogram

CEILING = "ceiling"

# Kernel ridge regression takes the cube of this in time and its square in memory.
MAX_FLOOR_SHAPES = 2_000


def measure(
    dataset_dir: str | pathlib.Path,
    *,
    held_out: evaluation.HeldOut,
    train_split: str | None = "train",
    test_split: str = "test",
    by_class: bool = True,
) -> list[results.Result]:
    """Measures every baseline on a prepared dataset.

    Args:
      dataset_dir: the folder of one version of the dataset.
      held_out: its test split.
      train_split: the split that the majority class and the floor are learnt from; None for a
        data set that is only for testing, which has neither.
      test_split: the split that held_out was loaded from.
      by_class: as of `retrieval.retrieval`.

    Returns:
      Lines of the results table: chance; majority, where there is a training split; the floor,
      where that names shapes enough to fit it; and the ceiling, where there are pictures.
    """
    lines = [chance(held_out)]
    if train_split is not None:
        lines += _learnt(
            dataset_dir,
            held_out,
            train_split=train_split,
            test_split=test_split,
            by_class=by_class,
        )
    if np.any(held_out.image_features):
        lines.append(ceiling(held_out, by_class=by_class))
    return lines


def with_student(lines: Sequence[results.Result], student: results.Result) -> list[results.Result]:
    """The whole table: the student below what it should beat, above the ceiling."""
    ceilings = [line for line in lines if line.name == CEILING]
    return [*(line for line in lines if line.name != CEILING), student, *ceilings]


def _learnt(
    dataset_dir: str | pathlib.Path,
    held_out: evaluation.HeldOut,
    *,
    train_split: str,
    test_split: str,
    by_class: bool,
) -> list[results.Result]:
    """The baselines that learn from a training split: majority and floor."""
    train = evaluation.load_held_out(dataset_dir, train_split)
    lines = [majority(held_out, train_labels=train.labels)]
    # ModelNet40 and ScanObjectNN name no shape, and the floor learns from names.
    if histogram.can_fit(train.labels[train.name_index >= 0]):
        lines.append(
            measure_floor(
                held_out,
                test_records=source.open_split(dataset_dir, test_split),
                train=train,
                train_records=source.open_split(dataset_dir, train_split),
                by_class=by_class,
            )
        )
    return lines


def chance(held_out: evaluation.HeldOut) -> results.Result:
    """Accuracy to expect of classes drawn at random.

    Args:
      held_out: the shapes.

    Returns:
      The line of the table; an expected value, so without `correct`.
    """
    classes = len(held_out.class_names)
    expected = {f"top{k}": min(k / classes, 1.0) for k in (1, 3, 5)}
    expected |= {
        "mean_per_class": 1 / classes,
        "count": len(held_out.labelled),
        "classes": classes,
    }
    return results.Result("chance", "Expected of a class drawn at random.", expected)


def majority(held_out: evaluation.HeldOut, *, train_labels: np.ndarray) -> results.Result:
    """Accuracy of always naming the most frequent classes of the training split.

    Args:
      held_out: the shapes.
      train_labels: int [train], -1 where unknown; of equally frequent classes the first counts.

    Returns:
      The line of the table.
    """
    classes = len(held_out.class_names)
    counts = np.bincount(train_labels[train_labels >= 0], minlength=classes)
    scores = np.empty(classes)
    scores[np.argsort(-counts, kind="stable")] = np.arange(classes, 0, -1)
    return results.from_scores(
        np.tile(scores, (len(held_out.ids), 1)),
        name="majority",
        held_out=held_out,
        summary="Always the most frequent classes of the training split.",
    )


def ceiling(held_out: evaluation.HeldOut, *, by_class: bool = True) -> results.Result:
    """Accuracy of the teacher itself, looking at the pictures of the held-out shapes.

    A ceiling for copying the teacher's image features, not a bound: the text features that a
    student and the floor learn from may hold more.

    Args:
      held_out: the shapes.
      by_class: as of `retrieval.retrieval`.

    Returns:
      The line of the table, without image retrieval, where pictures would look for themselves.
    """
    line = results.from_embeddings(
        held_out.image_features,
        name=CEILING,
        held_out=held_out,
        summary=(
            "The teacher looking at pictures of the held-out shapes, not at points. What a student "
            "that only copies the teacher can reach; one that learns from names too may pass it."
        ),
        by_class=by_class,
    )
    kept = {key: value for key, value in line.retrieval.items() if "image" not in key}
    return dataclasses.replace(line, retrieval=kept)


def measure_floor(
    held_out: evaluation.HeldOut,
    *,
    test_records: source.RecordSource | Sequence[Mapping[str, Any]],
    train: evaluation.HeldOut,
    train_records: source.RecordSource | Sequence[Mapping[str, Any]],
    by_class: bool = True,
) -> results.Result:
    """Accuracy of histograms and kernel ridge regression, without any deep 3D encoder.

    Args:
      held_out: the shapes.
      test_records: their records, in the same order, for the points.
      train: the training split; of more than `MAX_FLOOR_SHAPES` named shapes a random part is used.
      train_records: its records, in the same order.
      by_class: as of `retrieval.retrieval`.

    Returns:
      The line of the table; its summary says which settings were chosen.

    Raises:
      ValueError: where the training split is too small to learn from.
    """
    used = np.flatnonzero(train.name_index >= 0)
    if len(used) > MAX_FLOOR_SHAPES:
        used = np.sort(np.random.default_rng(0).choice(used, MAX_FLOOR_SHAPES, replace=False))
    fit = histogram.fit(
        _histograms(train_records, used),
        targets=train.text_features[train.name_index[used]],
        labels=train.labels[used],
        class_features=held_out.class_features,
        queries=_histograms(test_records, np.arange(len(held_out.ids))),
    )
    chosen = fit.settings
    return results.from_embeddings(
        fit.embeddings,
        name="floor",
        held_out=held_out,
        summary=(
            "Kernel ridge regression from histograms of points and colours to the teacher's "
            "features of names, no deep encoder. Settings from "
            f"{histogram.FOLDS}-fold cross-validation on the training split: width {chosen.width:g}, "
            f"colour {chosen.colour_weight:g}, ridge {chosen.ridge:g}."
        ),
        by_class=by_class,
    )


def _histograms(
    records: source.RecordSource | Sequence[Mapping[str, Any]], used: np.ndarray
) -> histogram.Histograms:
    """Describes the used records, in their order."""
    clouds = (records[int(i)] for i in used)
    shape, colour = zip(
        *(histogram.describe(cloud["xyz"], cloud["rgb"]) for cloud in clouds), strict=True
    )
    return histogram.Histograms(np.stack(shape), np.stack(colour))
