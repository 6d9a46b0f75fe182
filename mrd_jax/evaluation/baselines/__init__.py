# SPDX-License-Identifier: Apache-2.0
"""Baselines of a data set: chance, majority class, histogram regression, and the teacher itself."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from mrd_jax import evaluation, storage
from mrd_jax.data import source
from mrd_jax.evaluation import held_out_split, results
from mrd_jax.evaluation.baselines import histogram

# Kernel ridge regression takes time cubic and memory quadratic in this number.
MAX_HISTOGRAM_SHAPES = 2_000


def measure(
    dataset_dir: storage.PathLike,
    *,
    held_out: evaluation.HeldOut,
    train_split: str | None = "train",
    test_split: str = "test",
    by_class: bool = True,
) -> list[results.Result]:
    """Measures every baseline on a prepared data set.

    Args:
      dataset_dir: folder of one version of the data set.
      held_out: test split of the data set.
      train_split: split that the majority and histogram baselines learn from; None for a data set
        without a training split, which has neither.
      test_split: name of the split that `held_out` was loaded from.
      by_class: compute retrieval by class too, see `retrieval.retrieval`.

    Returns:
      Rows of the results table: chance; majority, if there is a training split; histogram, if that
      split has enough named shapes to fit it; and the teacher, if there are pictures.
    """
    rows = [measure_chance(held_out)]
    if train_split is not None:
        rows += _measure_fitted(
            dataset_dir,
            held_out,
            train_split=train_split,
            test_split=test_split,
            by_class=by_class,
        )
    if np.any(held_out.image_features):
        rows.append(measure_teacher(held_out, by_class=by_class))
    return rows


def with_student(rows: Sequence[results.Result], student: results.Result) -> list[results.Result]:
    """Returns the rows of the results table, with the student after the baselines, teacher last."""
    teacher = [row for row in rows if row.name == results.TEACHER]
    return [*(row for row in rows if row.name != results.TEACHER), student, *teacher]


def _measure_fitted(
    dataset_dir: storage.PathLike,
    held_out: evaluation.HeldOut,
    *,
    train_split: str,
    test_split: str,
    by_class: bool,
) -> list[results.Result]:
    """Measures the baselines that learn from a training split: majority and histogram."""
    records = source.open_split(dataset_dir, train_split)
    indices = held_out_split.training_subset(len(records))
    train = held_out_split.load_held_out(dataset_dir, train_split, indices=indices)
    rows = [measure_majority(held_out, train_labels=train.labels)]
    # ModelNet40 and ScanObjectNN have no names, which the histogram baseline learns from.
    if histogram.can_fit(train.labels[train.name_index >= 0]):
        rows.append(
            measure_histogram(
                held_out,
                test_records=source.open_split(dataset_dir, test_split),
                train=train,
                train_records=records,
                train_indices=indices,
                by_class=by_class,
            )
        )
    return rows


def measure_chance(held_out: evaluation.HeldOut) -> results.Result:
    """Computes the expected accuracy of classes drawn at random.

    Args:
      held_out: held-out split.

    Returns:
      A row without `correct`, because its accuracies are expected values.
    """
    classes = len(held_out.class_names)
    expected = {f"top{k}": min(k / classes, 1.0) for k in (1, 3, 5)}
    expected |= {
        "mean_per_class": 1 / classes,
        "count": len(held_out.labelled),
        "classes": classes,
    }
    return results.Result(results.CHANCE, "Expected accuracy of a random class.", expected)


def measure_majority(held_out: evaluation.HeldOut, *, train_labels: np.ndarray) -> results.Result:
    """Measures a classifier that always predicts the most frequent classes of the training split.

    Args:
      held_out: held-out split.
      train_labels: int [train], -1 for an unknown class; of equally frequent classes, the first is
        preferred.
    """
    classes = len(held_out.class_names)
    counts = np.bincount(train_labels[train_labels >= 0], minlength=classes)
    scores = np.empty(classes)
    scores[np.argsort(-counts, kind="stable")] = np.arange(classes, 0, -1)
    return results.from_scores(
        np.tile(scores, (len(held_out.ids), 1)),
        name=results.MAJORITY,
        held_out=held_out,
        summary="Always predicts the most frequent classes of the training split.",
    )


def measure_teacher(held_out: evaluation.HeldOut, *, by_class: bool = True) -> results.Result:
    """Measures the teacher's image features of the held-out shapes.

    The accuracy is a reference for copying the teacher's image features. It is not an upper bound:
    a student and the histogram baseline also learn from text features, which may hold more.

    Args:
      held_out: held-out split.
      by_class: compute retrieval by class too, see `retrieval.retrieval`.

    Returns:
      A row without image retrieval, in which pictures would retrieve themselves.
    """
    row = results.from_embeddings(
        held_out.image_features,
        name=results.TEACHER,
        held_out=held_out,
        summary=(
            "The teacher on the pictures of the held-out shapes, not on their points. A student "
            "that only copies these image features can at best match it; one that also learns from "
            "names can exceed it."
        ),
        by_class=by_class,
    )
    kept = {key: value for key, value in row.retrieval.items() if "image" not in key}
    return dataclasses.replace(row, retrieval=kept)


def measure_histogram(
    held_out: evaluation.HeldOut,
    *,
    test_records: source.RecordSource,
    train: evaluation.HeldOut,
    train_records: source.RecordSource,
    train_indices: np.ndarray,
    by_class: bool = True,
) -> results.Result:
    """Measures kernel ridge regression from histograms, which has no learned 3D encoder.

    Args:
      held_out: held-out split.
      test_records: records of the held-out split, in its order.
      train: training split; of more than `MAX_HISTOGRAM_SHAPES` named shapes, a random subset is
        used.
      train_records: records of the training split.
      train_indices: position in the training split of each shape of `train`.
      by_class: compute retrieval by class too, see `retrieval.retrieval`.

    Returns:
      A row whose summary gives the settings that cross-validation chose.

    Raises:
      ValueError: the training split is too small, see `histogram.can_fit`.
    """
    used = np.flatnonzero(train.name_index >= 0)
    if len(used) > MAX_HISTOGRAM_SHAPES:
        used = np.sort(np.random.default_rng(0).choice(used, MAX_HISTOGRAM_SHAPES, replace=False))
    fit = histogram.fit(
        _histograms(train_records, train_indices[used]),
        targets=train.text_features[train.name_index[used]],
        labels=train.labels[used],
        class_features=held_out.class_features,
        queries=_histograms(test_records, np.arange(len(held_out.ids))),
    )
    settings = fit.settings
    return results.from_embeddings(
        fit.embeddings,
        name=results.HISTOGRAM,
        held_out=held_out,
        summary=(
            "Kernel ridge regression from hand-made histograms of points and colours to the "
            "teacher's text features of names, without a learned 3D encoder. Settings from "
            f"{histogram.FOLDS}-fold cross-validation on the training split: width "
            f"{settings.width:g}, colour {settings.colour_weight:g}, ridge {settings.ridge:g}."
        ),
        by_class=by_class,
    )


def _histograms(records: source.RecordSource, indices: np.ndarray) -> histogram.Histograms:
    """Computes the histograms of records, in the order of their positions in the split."""
    clouds = (records.read(index, ("xyz", "rgb")) for index in indices.tolist())
    shape, colour = zip(
        *(histogram.describe(cloud["xyz"], cloud["rgb"]) for cloud in clouds), strict=True
    )
    return histogram.Histograms(np.stack(shape), np.stack(colour))
