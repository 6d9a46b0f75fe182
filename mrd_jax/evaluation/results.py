# SPDX-License-Identifier: Apache-2.0
"""Results: the rows of the results table, each one method on one held-out split."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mrd_jax.evaluation import held_out_split, retrieval, zero_shot
from mrd_jax.evaluation.metrics import classification, statistics

# Names of the rows, see `mrd_jax.evaluation.baselines`.
STUDENT = "student"
CHANCE = "chance"
MAJORITY = "majority"
NEAREST = "nearest neighbour"
HAND_CRAFTED = "hand-crafted"
TEACHER = "teacher"
# Row names of earlier versions, which their `results.json` files have -> current names.
_RENAMED = {"floor": HAND_CRAFTED, "histogram": HAND_CRAFTED, "ceiling": TEACHER}


@dataclasses.dataclass(frozen=True)
class Result:
    """Result of one method on a held-out split.

    Attributes:
      name: name of the row, such as `STUDENT`.
      summary: one or two sentences that describe the method to a reader of the table.
      metrics: accuracies and counts as `zero_shot.zero_shot` returns them; and, unless they are
        expected values, `top1_low` and `top1_high`, the 95% interval of `top1`, and `groups`, the
        number of groups it was computed over, see `statistics.accuracy_interval`.
      correct: bool [labelled], whether the method classifies each labelled shape correctly; None
        for an expected value.
      retrieval: metrics as `retrieval.retrieval` returns them; empty for a method without
        embeddings.
      embeddings: [count, dim], one per shape, in any space; None for a method without embeddings.
        They are not stored.
    """

    name: str
    summary: str
    metrics: dict[str, float]
    correct: np.ndarray | None = None
    retrieval: dict[str, float] = dataclasses.field(default_factory=dict)
    embeddings: np.ndarray | None = None

    def as_dict(self) -> dict[str, Any]:
        """Returns the stored fields as JSON values, which `from_dict` reads."""
        fields = dataclasses.asdict(dataclasses.replace(self, embeddings=None))
        del fields["embeddings"]
        return fields | {"correct": None if self.correct is None else self.correct.tolist()}


def from_dict(fields: Mapping[str, Any]) -> Result:
    """Returns the result that `Result.as_dict` wrote, under the current name of its row."""
    correct = fields["correct"]
    return Result(
        **{
            **fields,
            "name": current_name(fields["name"]),
            "correct": None if correct is None else np.asarray(correct, bool),
        }
    )


def current_name(name: str) -> str:
    """Returns the current name of a row that an earlier version may have written."""
    return _RENAMED.get(name, name)


def from_embeddings(
    embeddings: np.ndarray,
    *,
    name: str,
    held_out: held_out_split.HeldOut,
    summary: str = "",
    by_class: bool = True,
) -> Result:
    """Computes the result of a method from its embeddings of the held-out shapes.

    Args:
      embeddings: [count, dim], one per shape of `held_out`, in its order.
      name: name of the row, such as `STUDENT`.
      held_out: held-out split.
      summary: sentences that describe the method to a reader of the table.
      by_class: compute retrieval by class too, see `retrieval.retrieval`.
    """
    ranks = zero_shot.class_ranks(embeddings, held_out)
    return Result(
        name,
        summary,
        _metrics(ranks, held_out),
        ranks == 1,
        retrieval.retrieval(embeddings, held_out, by_class=by_class),
        embeddings,
    )


def from_scores(
    scores: np.ndarray, *, name: str, held_out: held_out_split.HeldOut, summary: str = ""
) -> Result:
    """Computes the result, without retrieval, of a method that scores classes directly.

    Args:
      scores: [count, classes], larger is better.
      name: name of the row, such as `MAJORITY`.
      held_out: held-out split.
      summary: sentences that describe the method to a reader of the table.
    """
    ranks = classification.label_ranks(scores[held_out.labelled], labels=held_out.labelled_classes)
    return Result(name, summary, _metrics(ranks, held_out), ranks == 1)


def _metrics(ranks: np.ndarray, held_out: held_out_split.HeldOut) -> dict[str, float]:
    """Returns accuracies, counts and the interval of the top-1 accuracy."""
    metrics = zero_shot.from_ranks(ranks, held_out)
    interval = statistics.accuracy_interval(ranks == 1, groups=held_out.labelled_clusters)
    ends = {"top1_low": interval.low, "top1_high": interval.high}
    return metrics | ends | {"groups": interval.groups}


def compare_with_student(results: list[Result]) -> dict[str, statistics.Comparison]:
    """Compares the student with every other method of one split by a paired test.

    Args:
      results: results on one held-out split; without the student's, nothing is compared.

    Returns:
      By the name of the other method, a comparison whose first model is the student.
    """
    measured = [(result.name, result.correct) for result in results if result.correct is not None]
    return {
        name: statistics.mcnemar([student_correct], [correct])
        for student, student_correct in measured
        for name, correct in measured
        if student == STUDENT != name
    }
