# SPDX-License-Identifier: Apache-2.0
"""What training changes from step to step, as one plain tree."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from mrd_jax import losses


class TrainState(flax.struct.PyTreeNode):
    """Everything a step reads and writes; everything a checkpoint holds.

    Attributes:
      step: int32 scalar, updates done so far; also the position in the data stream.
      params: {"student": ..., "loss": ...}; the second holds the contrastive scale, the mixing
        weights and, where it is learnt, the student's temperature.
      batch_stats: running statistics of the student's batch norms.
      opt_state: optax state over `params`.
      ema: moving average of params["student"]; None where `optimizer.ema_decay` is 0.
    """

    step: jax.Array
    params: Any
    batch_stats: Any
    opt_state: optax.OptState
    ema: Any

    def variables(self) -> dict[str, Any]:
        """The student as evaluated: the moving average where there is one."""
        student = self.params["student"] if self.ema is None else self.ema
        return {"params": student, "batch_stats": self.batch_stats}


def create_state(
    config: ConfigDict,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    shardings: Callable[[TrainState], Any] | None = None,
) -> TrainState:
    """Initialises every leaf from `config.seed` alone.

    Args:
      config: of the run.
      model: the student.
      optimizer: of the run.
      shardings: gives the place of every leaf of a state of shapes, see
        `mrd_jax.sharding.Runner.state_shardings`; no device ever holds more than that. None makes
        the whole state on one device.
    """
    points = jnp.zeros((1, config.model.points, 3), jnp.float32)

    def init(key: jax.Array) -> TrainState:
        variables = model.init(key, points, points)
        params = {"student": variables["params"], "loss": losses.init_loss_params(config.loss)}
        return TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(params),
            ema=jax.tree.map(jnp.copy, params["student"]) if config.optimizer.ema_decay else None,
        )

    key = jax.random.key(config.seed)
    places = None if shardings is None else shardings(jax.eval_shape(init, key))
    return jax.jit(init, out_shardings=places)(key)
