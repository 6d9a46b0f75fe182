# SPDX-License-Identifier: Apache-2.0
"""Baselines: chance, majority class, nearest neighbour, hand-crafted features, and the teacher."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from mrd_jax import evaluation, storage
from mrd_jax.data import source
from mrd_jax.evaluation import held_out_split, results, retrieval
from mrd_jax.evaluation.baselines import histogram, nearest

# Kernel ridge regression takes time cubic and memory quadratic in this number.
MAX_HISTOGRAM_SHAPES = 2_000


@dataclasses.dataclass(frozen=True)
class Training:
    """Training shapes that baselines are fitted to.

    Attributes:
      shapes: annotations and teacher features of the shapes.
      records: records of the training split.
      indices: int [shapes], position in `records` of each of the shapes.
    """

    shapes: evaluation.HeldOut
    records: source.RecordSource
    indices: np.ndarray

    def clouds(self, chosen: np.ndarray) -> Iterator[dict[str, Any]]:
        """Reads the points and colours of some of the shapes.

        Args:
          chosen: int [chosen], indices of `shapes`.
        """
        return _clouds(self.records, self.indices[chosen])


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
      train_split: split that the baselines learn from, except chance and the teacher; None for a
        data set without a training split, which has these two only.
      test_split: name of the split that `held_out` was loaded from.
      by_class: compute retrieval by class too, see `retrieval.retrieval`.

    Returns:
      Rows of the results table: chance; majority, if there is a training split; nearest neighbour,
      if that split has labels; hand-crafted, if it has enough named shapes to fit it; and the
      teacher, if there are pictures.
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
    """Measures the baselines that learn from a training split."""
    records = source.open_split(dataset_dir, train_split)
    indices = held_out_split.training_subset(len(records))
    train = held_out_split.load_held_out(dataset_dir, train_split, indices=indices)
    rows = [measure_majority(held_out, train_labels=train.labels)]
    training = Training(train, records, indices)
    test_records = source.open_split(dataset_dir, test_split)
    if len(train.labelled):
        rows.append(
            measure_nearest(held_out, test_records=test_records, train=training, by_class=by_class)
        )
    # ModelNet40 and ScanObjectNN have no names, which the hand-crafted baseline learns from.
    if histogram.can_fit(train.labels[train.name_index >= 0]):
        rows.append(
            measure_hand_crafted(
                held_out, test_records=test_records, train=training, by_class=by_class
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
    a student and the hand-crafted baseline also learn from text features, which may hold more.

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


def measure_nearest(
    held_out: evaluation.HeldOut,
    *,
    test_records: source.RecordSource,
    train: Training,
    by_class: bool = True,
) -> results.Result:
    """Measures a lookup of the training shape with the most similar geometry and colours.

    Args:
      held_out: held-out split.
      test_records: records of the held-out split, in its order.
      train: training shapes; those without a class are not used.
      by_class: compute the mean average precision among the shapes too.

    Returns:
      A row whose retrieval is among shapes only, since its descriptors are in no space of texts.
    """
    known = train.shapes.labelled
    labels, clusters = train.shapes.labels[known], train.shapes.clusters
    described = nearest.describe(train.clouds(known))
    weight = nearest.choose_weight(
        described, labels=labels, groups=None if clusters is None else clusters[known]
    )
    queries = nearest.describe(_clouds(test_records, np.arange(len(held_out.ids))))
    vectors = queries.vectors(colour_weight=weight)
    scores = nearest.class_scores(
        vectors,
        described.vectors(colour_weight=weight),
        labels=labels,
        classes=len(held_out.class_names),
    )
    row = results.from_scores(
        scores,
        name=results.NEAREST,
        held_out=held_out,
        summary=(
            "The class of the training shape with the most similar geometry and colours: cosine of "
            f"occupancy grids of {nearest.CELLS} cells per side and of colour histograms, with "
            f"weight {weight:g} for the colours, chosen on the training split. It is strong where "
            "test shapes have near-duplicates in training."
        ),
    )
    found = retrieval.among_shapes(vectors, held_out) if by_class else {}
    return dataclasses.replace(row, retrieval=found, embeddings=vectors)


def measure_hand_crafted(
    held_out: evaluation.HeldOut,
    *,
    test_records: source.RecordSource,
    train: Training,
    by_class: bool = True,
) -> results.Result:
    """Measures kernel ridge regression from histograms, which has no learned 3D encoder.

    Args:
      held_out: held-out split.
      test_records: records of the held-out split, in its order.
      train: training shapes; of more than `MAX_HISTOGRAM_SHAPES` named ones, a random subset is
        used.
      by_class: compute retrieval by class too, see `retrieval.retrieval`.

    Returns:
      A row whose summary gives the settings that cross-validation chose.

    Raises:
      ValueError: the training split is too small, see `histogram.can_fit`.
    """
    shapes = train.shapes
    used = np.flatnonzero(shapes.name_index >= 0)
    if len(used) > MAX_HISTOGRAM_SHAPES:
        used = np.sort(np.random.default_rng(0).choice(used, MAX_HISTOGRAM_SHAPES, replace=False))
    fit = histogram.fit(
        _histograms(train.clouds(used)),
        targets=shapes.text_features[shapes.name_index[used]],
        labels=shapes.labels[used],
        class_features=held_out.class_features,
        queries=_histograms(_clouds(test_records, np.arange(len(held_out.ids)))),
    )
    settings = fit.settings
    return results.from_embeddings(
        fit.embeddings,
        name=results.HAND_CRAFTED,
        held_out=held_out,
        summary=(
            "Kernel ridge regression from hand-crafted histograms of points and colours to the "
            "teacher's text features of names, without a learned 3D encoder. It is strong where "
            "proportions and colours tell the class and many test shapes resemble training shapes; "
            "a student below it has learned no more than that. Settings from "
            f"{histogram.FOLDS}-fold cross-validation on the training split: width "
            f"{settings.width:g}, colour {settings.colour_weight:g}, ridge {settings.ridge:g}."
        ),
        by_class=by_class,
    )


def _clouds(records: source.RecordSource, indices: np.ndarray) -> Iterator[dict[str, Any]]:
    """Reads points and colours of records, in the order of the indices."""
    return (records.read(index, ("xyz", "rgb")) for index in indices.tolist())


def _histograms(clouds: Iterable[dict[str, Any]]) -> histogram.Histograms:
    """Computes the histograms of point clouds."""
    shape, colour = zip(
        *(histogram.describe(cloud["xyz"], cloud["rgb"]) for cloud in clouds), strict=True
    )
    return histogram.Histograms(np.stack(shape), np.stack(colour))
