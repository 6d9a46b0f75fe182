# SPDX-License-Identifier: Apache-2.0
"""Retention: which checkpoints are the best ones, by the evaluations of the run."""

import math
from collections.abc import Iterable, Mapping, Sequence

import orbax.checkpoint as ocp

_Infos = Sequence[ocp.checkpoint_managers.PolicyCheckpointInfo]
# Suffix of the only metrics whose smaller values are better.
_LOWER_IS_BETTER = "median_rank"


class BestCheckpoints:
    """Preservation policy of Orbax that keeps the best steps of a run.

    Orbax can rank by metrics that it stores with each checkpoint. A checkpoint that is saved at a
    graceful shutdown has no metrics yet, and a corrupt metrics file would stop the run. Every
    evaluation is in `metrics.jsonl` anyway.
    """

    def __init__(self, metric: str, *, count: int):
        """Starts without evaluations.

        Args:
          metric: name of the metric, such as "test/top1".
          count: number of best checkpoints to keep.
        """
        self.metric = metric
        self._count = count
        self._values: dict[int, float] = {}

    def recall(self, evaluations: Mapping[int, Mapping[str, float]]) -> None:
        """Adds the evaluations of earlier processes; those without the metric are ignored.

        Args:
          evaluations: metric values by step, see `mrd_jax.evaluation.history.evaluations`.
        """
        for step, values in evaluations.items():
            if self.metric in values:
                self._add(step, values[self.metric])

    def note(self, step: int, values: Mapping[str, float]) -> None:
        """Adds one evaluation.

        Args:
          step: step that was evaluated.
          values: metric values by name.

        Raises:
          ValueError: the metric is not among them; lists those that are.
        """
        if self.metric not in values:
            raise ValueError(
                f"config.best_metric is {self.metric!r}, which no evaluation of this run reports; "
                f"expected one of {', '.join(sorted(values))}"
            )
        self._add(step, values[self.metric])

    def _add(self, step: int, value: float) -> None:
        if math.isfinite(value):
            self._values[step] = value

    def ranked(self, steps: Iterable[int]) -> list[int]:
        """Returns the evaluated ones of the steps, best first; of ties, the later step first."""
        sign = -1 if self.metric.endswith(_LOWER_IS_BETTER) else 1
        evaluated = [step for step in steps if step in self._values]
        return sorted(evaluated, key=lambda step: (sign * self._values[step], step), reverse=True)

    def should_preserve(
        self,
        checkpoints: _Infos,
        *,
        context: ocp.checkpoint_managers.PreservationContext,
    ) -> list[bool]:
        """Implements Orbax's `PreservationPolicy`."""
        del context
        kept = self.ranked(info.step for info in checkpoints)[: self._count]
        return [info.step in kept for info in checkpoints]
