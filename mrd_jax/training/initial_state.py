# SPDX-License-Identifier: Apache-2.0
"""Initialises the train state from the seed of a config."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from mrd_jax.checkpoints import train_state
from mrd_jax.training import objectives


def create_state(
    config: ConfigDict,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    objective: objectives.Objective | None = None,
    shardings: Callable[[train_state.TrainState], Any] | None = None,
) -> train_state.TrainState:
    """Initialises every leaf from `config.seed`.

    Args:
      config: config of the run.
      model: the student.
      optimizer: optimizer of the run.
      objective: loss of the run; distillation by default.
      shardings: function from the shapes of a train state to the sharding of every leaf, such as
        `mrd_jax.distributed.backends.Backend.state_shardings`. No device ever holds more than its
        shard. None places the whole state on one device.

    Returns:
      The train state at step 0.
    """
    objective = objective or objectives.Distillation(config)
    points = jnp.zeros((1, config.model.points, 3), jnp.float32)

    def init(key: jax.Array) -> train_state.TrainState:
        variables = model.init(key, points, points)
        params = {"student": variables["params"], "loss": objective.init_params()}
        return train_state.TrainState(
            step=jnp.zeros((), jnp.int32),
            params=params,
            batch_stats=variables.get("batch_stats", {}),
            opt_state=optimizer.init(params),
            ema=jax.tree.map(jnp.copy, params["student"]) if config.optimizer.ema_decay else None,
        )

    key = jax.random.key(config.seed)
    places = None if shardings is None else shardings(jax.eval_shape(init, key))
    return jax.jit(init, out_shardings=places)(key)
