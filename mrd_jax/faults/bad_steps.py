# SPDX-License-Identifier: Apache-2.0
"""Updates that are not finite: left out on the devices, counted and explained on the host."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

# Metric of a step: 1 where its update was left out, else 0.
SKIPPED = "skipped"


class NotFiniteError(FloatingPointError):
    """Too many updates in a row were not finite; the state is that before the first of them."""


def keep_finite(new: Any, old: Any, *, finite: jax.Array) -> Any:
    """The new tree where the update is finite, else the old one, leaf by leaf.

    Args:
      new: tree of arrays after the update.
      old: the same before it.
      finite: bool scalar.
    """
    return jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, old)


class BadSteps:
    """Counts skipped updates and writes down what they were computed from.

    `optax.apply_if_finite` would apply a bad update once it has seen too many; here the run stops.
    """

    def __init__(self, workdir: str, *, limit: int, names: Callable[[Sequence[int]], list[str]]):
        """Begins with none.

        Args:
          workdir: of the run; `skipped.PROCESS.jsonl` is written there.
          limit: skipped updates in a row at which the run stops; 0 never stops.
          names: ids of the samples at these positions of the training split.
        """
        self._path = epath.Path(workdir) / f"skipped.{jax.process_index()}.jsonl"
        self._limit = limit
        self._names = names
        self._row: list[int] = []

    def see(self, step: int, metrics: Mapping[str, jax.Array], index: np.ndarray) -> None:
        """Looks at one finished step.

        Args:
          step: its number, from 0.
          metrics: of the step, on the devices; only `SKIPPED` is fetched where all is well.
          index: [local_batch], positions of this process's samples.

        Raises:
          NotFiniteError: the limit is reached; says what to look at.
        """
        if not float(metrics[SKIPPED]):
            self._row = []
            return
        self._row.append(step)
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        bad = sorted(name for name, value in values.items() if not np.isfinite(value))
        line = {"step": step, "not_finite": bad, "ids": self._names(index.tolist())}
        with self._path.open("a") as file:
            file.write(json.dumps(line) + "\n")
        if self._limit and len(self._row) >= self._limit:
            raise NotFiniteError(
                f"{len(self._row)} updates in a row were not finite, steps {self._row[0]} to "
                f"{step}: {', '.join(bad)}. They were left out and the last checkpoint is good. "
                f"{self._path} names the samples. Look for a learning rate that is too high, "
                "activations that overflow (model.dtype), or damaged features (python -m "
                "data_prep.verify)."
            )
