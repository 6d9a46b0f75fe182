# SPDX-License-Identifier: Apache-2.0
"""Per-query values of an encoder on a held-out split, small enough to commit, and what they mean.

A value belongs to a query: a shape that is classified, or a shape, name or picture that searches.
Every metric of the study is a mean of a function of such values, and a query belongs to the group
of its shape, so that intervals and paired tests need the values alone.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from mrd_jax.evaluation import few_shot, held_out_split, linear_probe, retrieval, zero_shot
from mrd_jax.evaluation.metrics import classification, logistic

DIRECTIONS = {
    "points_to_text": "shape to name",
    "text_to_points": "name to shape",
    "points_to_image": "shape to picture",
    "image_to_points": "picture to shape",
}
SHOTS, DRAWS = (1, 4, 16), 5
# Average precisions and means over draws are stored in units of 1 / SCALE.
SCALE = 10_000


class Queries(NamedTuple):
    """Values of the queries of one kind.

    Attributes:
      values: int [queries].
      shapes: int [queries], index of the shape that each belongs to.
    """

    values: np.ndarray
    shapes: np.ndarray


def measure(
    embeddings: np.ndarray,
    held_out: held_out_split.HeldOut,
    *,
    train: tuple[np.ndarray, np.ndarray] | None = None,
) -> dict[str, Queries]:
    """Computes the values of all queries.

    Args:
      embeddings: [count, dim], one per shape of `held_out`.
      held_out: held-out split.
      train: embeddings [train, dim] and labels [train] of the training split, which probes are
        fitted to; None for no probes.

    Returns:
      By kind: `top1`, the rank of the true class, of each labelled shape; `map`, the average
      precision of the shapes of its class; for each of `DIRECTIONS`, the rank of the own answer;
      and with `train`, `probe`, whether the linear probe is correct, and `few_shot/SHOTS`, in how
      many draws the probe on few shapes is.
    """
    labelled, labels = held_out.labelled, held_out.labelled_classes
    found = {"top1": Queries(zero_shot.class_ranks(embeddings, held_out), labelled)}
    precisions = retrieval.class_precisions(embeddings, held_out).get("points_to_points")
    if precisions is not None:
        found["map"] = Queries(scale(precisions.precisions), precisions.shapes)
    for direction, ranks in retrieval.own_ranks(embeddings, held_out).items():
        found[direction] = Queries(ranks.ranks, ranks.shapes)
    if train is not None:
        known = train[1] >= 0
        given = {"test": embeddings[labelled], "test_labels": labels}
        features, classes = train[0][known], train[1][known]
        found["probe"] = Queries(_probe(features, classes, seed=0, **given).astype(int), labelled)
        for shots in SHOTS:
            correct = np.zeros(len(labels), dtype=int)
            for seed in range(DRAWS):
                drawn = few_shot.draw(classes, shots=shots, seed=seed)
                correct += _probe(features[drawn], classes[drawn], seed=seed, **given)
            found[f"few_shot/{shots}"] = Queries(correct, labelled)
    return found


def scale(fractions: np.ndarray) -> np.ndarray:
    """Returns fractions between 0 and 1 as they are stored, int, in units of 1 / SCALE."""
    return np.rint(SCALE * fractions).astype(int)


def _probe(
    features: np.ndarray,
    labels: np.ndarray,
    *,
    seed: int,
    test: np.ndarray,
    test_labels: np.ndarray,
) -> np.ndarray:
    """Returns whether a linear probe classifies each test shape correctly, bool [test]."""
    features = classification.normalise(features)
    held_out = linear_probe.hold_out(labels, seed=seed)
    strength = linear_probe.choose_strength(features, labels=labels, held_out=held_out)
    return logistic.fit(features, labels=labels, strength=strength).correct(
        test, labels=test_labels
    )


@dataclasses.dataclass(frozen=True)
class Metric:
    """A metric of the tables: a mean of a function of the values of queries.

    Attributes:
      title: heading.
      terms: kinds of queries and functions of their stored values, elementwise. Each has the same
        weight; one that is named twice has twice the weight.
      per_class: average over the classes of the shapes instead of over queries.
    """

    title: str
    terms: tuple[tuple[str, Callable[[np.ndarray], np.ndarray]], ...]
    per_class: bool = False

    @property
    def kinds(self) -> tuple[str, ...]:
        """Kind of queries of each term."""
        return tuple(kind for kind, _ in self.terms)

    def present(self, values: Mapping[str, Any]) -> bool:
        """Returns whether a run has the values of all kinds."""
        return set(self.kinds) <= values.keys()

    def per_query(
        self, values: Mapping[str, Sequence[int]], layout: "Layout"
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Returns value, group and class of every query, to average with equal class weights.

        Args:
          values: stored values by kind.
          layout: shapes that the queries belong to.

        Returns:
          float64 [queries]; text [queries]; and int [queries], the class of a query's shape for a
          metric per class, else the position of the query's kind.
        """
        shapes = [np.asarray(layout.queries[kind]) for kind in self.kinds]
        numbers = [function(np.asarray(values[kind])) for kind, function in self.terms]
        classes = (
            np.asarray(layout.labels)[np.concatenate(shapes)]
            if self.per_class
            else np.repeat(np.arange(len(self.kinds)), [len(each) for each in shapes])
        )
        return (
            np.concatenate(numbers).astype(np.float64),
            np.asarray(layout.groups)[np.concatenate(shapes)],
            classes,
        )

    def mean(self, values: Mapping[str, Sequence[int]], layout: "Layout") -> float:
        """Returns the metric of one run, between 0 and 1."""
        numbers, _, classes = self.per_query(values, layout)
        return classification.mean_per_class(numbers, labels=classes)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Shapes of a held-out split, as far as statistics depend on them.

    Attributes:
      groups: group of each shape.
      labels: class of each shape, -1 if unknown.
      queries: by kind, the index of the shape that each query belongs to.
    """

    groups: tuple[str, ...]
    labels: tuple[int, ...]
    queries: Mapping[str, Sequence[int]]


def recall(k: int) -> Callable[[np.ndarray], np.ndarray]:
    """Returns the function of ranks that is 1 for a rank of k or better, else 0."""
    return lambda ranks: ranks <= k


def _scaled(values: np.ndarray) -> np.ndarray:
    return values / SCALE


TOP1 = Metric("top-1", (("top1", recall(1)),))
MEAN_PER_CLASS = Metric("mean per class", TOP1.terms, per_class=True)
MAP = Metric("mAP, shape to its class", (("map", _scaled),))
RETRIEVAL = Metric(
    "retrieval R@5, mean of directions", tuple((direction, recall(5)) for direction in DIRECTIONS)
)
# Classes by name, neighbourhoods of classes, and single instances.
AIMS = (TOP1, MAP, RETRIEVAL)
# Settings are ranked by the mean of the three: what gains in one and loses as much in another gains
# nothing.
CRITERION = Metric("criterion", (*4 * TOP1.terms, *4 * MAP.terms, *RETRIEVAL.terms))
METRICS = (
    CRITERION,
    TOP1,
    MEAN_PER_CLASS,
    MAP,
    *(
        Metric(f"{title} R@{k}", ((direction, recall(k)),))
        for direction, title in DIRECTIONS.items()
        for k in (1, 5)
    ),
    RETRIEVAL,
    Metric("linear probe top-1", (("probe", lambda correct: correct),)),
    *(
        Metric(f"{shots}-shot top-1", ((f"few_shot/{shots}", lambda draws: draws / DRAWS),))
        for shots in SHOTS
    ),
)
