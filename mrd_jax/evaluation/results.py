# SPDX-License-Identifier: Apache-2.0
"""A line of the results table: one method on one held-out split, comparable shape by shape."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mrd_jax.evaluation import held_out_split, retrieval, zero_shot
from mrd_jax.evaluation.metrics import classification as metrics
from mrd_jax.evaluation.metrics import statistics

STUDENT = "student"


@dataclasses.dataclass(frozen=True)
class Result:
    """What one method reached on the held-out shapes.

    Attributes:
      name: short, such as `STUDENT`.
      summary: one sentence for the reader of the table.
      metrics: as `zero_shot.zero_shot` returns.
      correct: bool [labelled], which labelled shapes were right; None for an expected value.
      retrieval: as `retrieval.retrieval` returns; empty for a method without embeddings.
    """

    name: str
    summary: str
    metrics: dict[str, float]
    correct: np.ndarray | None = None
    retrieval: dict[str, float] = dataclasses.field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The fields as JSON can hold them; `from_dict` reads them."""
        correct = None if self.correct is None else self.correct.tolist()
        return dataclasses.asdict(self) | {"correct": correct}


def from_dict(fields: Mapping[str, Any]) -> Result:
    """The line that `Result.as_dict` described."""
    correct = fields["correct"]
    return Result(**{**fields, "correct": None if correct is None else np.asarray(correct, bool)})


def from_embeddings(
    embeddings: np.ndarray,
    *,
    name: str,
    held_out: held_out_split.HeldOut,
    summary: str = "",
    by_class: bool = True,
) -> Result:
    """Measures embeddings of the held-out shapes.

    Args:
      embeddings: [count, dim], one per shape of held_out and in its order.
      name: short, such as `STUDENT`.
      held_out: the shapes.
      summary: one sentence for the reader of the table.
      by_class: as of `retrieval.retrieval`.

    Returns:
      The `Result`.
    """
    ranks = zero_shot.class_ranks(embeddings, held_out)
    return Result(
        name,
        summary,
        zero_shot.from_ranks(ranks, held_out),
        ranks == 1,
        retrieval.retrieval(embeddings, held_out, by_class=by_class),
    )


def from_scores(
    scores: np.ndarray, *, name: str, held_out: held_out_split.HeldOut, summary: str = ""
) -> Result:
    """Measures a method that scores the classes without an embedding.

    Args:
      scores: [count, classes], larger is better.
      name: short, such as "majority".
      held_out: the shapes.
      summary: one sentence for the reader of the table.

    Returns:
      The `Result`, without retrieval.
    """
    ranks = metrics.label_ranks(scores[held_out.labelled], labels=held_out.labelled_classes)
    return Result(name, summary, zero_shot.from_ranks(ranks, held_out), ranks == 1)


def compare_with_student(results: list[Result]) -> dict[str, statistics.Comparison]:
    """Paired test of the student against every other method of one split.

    Args:
      results: lines of one held-out split, `STUDENT` among them or not.

    Returns:
      By the name of the other method, the comparison whose first model is the student.
    """
    measured = [(line.name, line.correct) for line in results if line.correct is not None]
    return {
        name: statistics.mcnemar([ours], [theirs])
        for student, ours in measured
        for name, theirs in measured
        if student == STUDENT != name
    }
