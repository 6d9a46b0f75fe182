# SPDX-License-Identifier: Apache-2.0
"""Which checkpoints of a run are its best, by the evaluations in its metrics."""

import math
from collections.abc import Iterable, Mapping, Sequence

import orbax.checkpoint as ocp
from etils import epath
from ml_collections import ConfigDict

from mrd_jax.workdir import history

_Infos = Sequence[ocp.checkpoint_managers.PolicyCheckpointInfo]
# Of all measures, the one whose smaller values are better.
_LOWER_IS_BETTER = "median_rank"


def check(config: ConfigDict, *, metrics: Iterable[str]) -> None:
    """Refuses what cannot be kept, or not be told.

    Args:
      config: of the run.
      metrics: names that its evaluations may report.

    Raises:
      ValueError: names the field, what was found and what was expected.
    """
    for name, least in (("checkpoints_kept", 1), ("checkpoints_best", 0)):
        if config[name] < least:
            raise ValueError(f"config.{name} is {config[name]}; expected {least} or more")
    if config.checkpoints_best and not config.data.test_split:
        raise ValueError(
            f"config.checkpoints_best is {config.checkpoints_best}, but without "
            "config.data.test_split nothing tells which checkpoints are best: name one, or keep 0"
        )
    _require(config.best_metric, metrics)


class Best:
    """Ranks the steps of a run, and tells Orbax to keep the best of them.

    Orbax could rank by numbers that it stores in each checkpoint. It would lack those of a
    checkpoint that was saved in haste, before the evaluation that it owes, and would stop the run
    where one of those small files is damaged. Every evaluation is in the metrics anyway.
    """

    def __init__(self, metric: str, *, count: int):
        """Knows of no evaluation yet.

        Args:
          metric: name in the metrics, such as "test/top1".
          count: best checkpoints to keep.
        """
        self.metric = metric
        self._count = count
        self._values: dict[int, float] = {}

    def recall(self, path: epath.Path) -> None:
        """Takes in the evaluations of a file of metrics, where there is one.

        Raises:
          ValueError: the file is damaged; names the line.
        """
        if path.exists():
            steps, values = history.read_metrics(path).get(self.metric, ((), ()))
            for step, value in zip(steps, values, strict=True):
                self._note(int(step), float(value))

    def see(self, step: int, values: Mapping[str, float]) -> None:
        """Takes in one evaluation.

        Args:
          step: that was evaluated.
          values: name -> value.

        Raises:
          ValueError: the metric is not among them; names those that are.
        """
        _require(self.metric, values)
        self._note(step, values[self.metric])

    def _note(self, step: int, value: float) -> None:
        # A number that is not finite ranks nowhere.
        if math.isfinite(value):
            self._values[step] = value

    def ranked(self, steps: Iterable[int]) -> list[int]:
        """Those of the steps that were evaluated, the best first; of equals, the later first."""
        sign = -1 if self.metric.endswith(_LOWER_IS_BETTER) else 1
        known = [step for step in steps if step in self._values]
        return sorted(known, key=lambda step: (sign * self._values[step], step), reverse=True)

    def should_preserve(
        self,
        checkpoints: _Infos,
        *,
        context: ocp.checkpoint_managers.PreservationContext,
    ) -> list[bool]:
        """Orbax's question: which of these to keep."""
        del context
        kept = self.ranked(info.step for info in checkpoints)[: self._count]
        return [info.step in kept for info in checkpoints]


def _require(metric: str, names: Iterable[str]) -> None:
    """Refuses a metric that is not among the names."""
    names = sorted(names)
    if metric not in names:
        raise ValueError(
            f"config.best_metric is {metric!r}, which no evaluation of this run reports; expected "
            f"one of {', '.join(names)}"
        )
