# SPDX-License-Identifier: Apache-2.0
"""Non-finite updates: skipped on the devices, counted and reported on the host."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax import storage

# Metric of a step: 1 if its update was skipped, otherwise 0.
SKIPPED = "skipped"


class NonFiniteError(FloatingPointError):
    """Too many consecutive updates were not finite; the state is that before the first of them."""


def keep_finite(new: Any, old: Any, *, finite: jax.Array) -> Any:
    """Selects the new tree if the update is finite, otherwise the old one.

    Args:
      new: tree of arrays after the update.
      old: the same before it.
      finite: bool scalar.
    """
    return jax.tree.map(lambda after, before: jnp.where(finite, after, before), new, old)


class NonFiniteUpdates:
    """Counts skipped updates, and records the samples that they were computed from.

    `optax.apply_if_finite` applies a non-finite update once it has seen too many; here the run
    stops. An update is checked when the next one has been dispatched, so that the host does not
    wait for the devices at every step.
    """

    def __init__(
        self, workdir: storage.PathLike, *, limit: int, names: Callable[[Sequence[int]], list[str]]
    ):
        """Initialises the count to 0.

        Args:
          workdir: folder of the run; `skipped.PROCESS.jsonl` is written there.
          limit: consecutive skipped updates after which the run stops; 0 never stops it.
          names: returns the ids of the samples at given positions of the training split.
        """
        self._path = storage.path(workdir) / f"skipped.{jax.process_index()}.jsonl"
        self._limit = limit
        self._names = names
        self._consecutive: list[int] = []
        self._pending: tuple[int, Mapping[str, jax.Array], np.ndarray] | None = None

    def add(self, step: int, metrics: Mapping[str, jax.Array], index: np.ndarray) -> None:
        """Adds an update to check.

        Args:
          step: number of the update, from 0.
          metrics: metrics of the update, on the devices.
          index: [local_batch], positions of this process's samples in the training split.
        """
        self._pending = step, metrics, index

    def check(self) -> None:
        """Waits for the update that was added last, and checks it.

        Only the metric `SKIPPED` is copied to the host if the update is finite.

        Raises:
          NonFiniteError: the limit is reached; names the metrics and steps.
        """
        if self._pending is None:
            return
        (step, metrics, index), self._pending = self._pending, None
        if not float(metrics[SKIPPED]):
            self._consecutive = []
            return
        self._consecutive.append(step)
        values = {name: float(value) for name, value in jax.device_get(dict(metrics)).items()}
        bad = sorted(name for name, value in values.items() if not np.isfinite(value))
        line = {"step": step, "not_finite": bad, "ids": self._names(index.tolist())}
        storage.append_text(self._path, json.dumps(line) + "\n")
        if self._limit and len(self._consecutive) >= self._limit:
            raise NonFiniteError(
                f"{len(self._consecutive)} consecutive updates were not finite, steps "
                f"{self._consecutive[0]} to {step}: {', '.join(bad)}. They were skipped, and the "
                f"last checkpoint is finite. {self._path} names the samples. Check for a learning "
                "rate that is too high, activations that overflow (model.dtype) and corrupt "
                "features (python -m data_prep.verify)."
            )
