# SPDX-License-Identifier: Apache-2.0
"""The per-device training step: loss, gradients and optimizer update.

Every function is pure. `axis_name` is the mesh axis that the batch is split over; None means that
one device holds the whole batch, the reference result for every other number of devices.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from mrd_jax.checkpoints.train_state import TrainState
from mrd_jax.data import augment, batch_spec
from mrd_jax.distributed import fsdp
from mrd_jax.training import nonfinite, objectives

Metrics = dict[str, jax.Array]


def loss_and_gradients(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    config: ConfigDict,
    objective: objectives.Objective | None = None,
    axis_name: str | None = None,
    param_sharding: fsdp.ParameterSharding | None = None,
) -> tuple[Any, Metrics, Any]:
    """Computes gradients of the global loss, its parts, and updated batch-norm statistics.

    Each device differentiates the loss of its own rows; `all_gather` and synchronised batch norm
    carry gradients across devices. The sum over devices is taken last.

    Args:
      state: train state with whole parameters, see `ParameterSharding.gather_params`.
      batch: this device's rows, see `mrd_jax.data.batch_spec`.
      model: student encoder.
      config: config of the run.
      objective: loss of the run; distillation by default.
      axis_name: mesh axis that the batch is split over; None for one device.
      param_sharding: how the gradients are sharded; replicated by default.

    Returns:
      Gradients like `state.params`, sharded by `param_sharding`; scalar parts of the loss, and
      statistics like `state.batch_stats`, both replicated.
    """
    param_sharding = param_sharding or fsdp.Replicated(axis_name)
    keys = batch_spec.sample_keys(config.seed, batch["index"], batch["epoch"])
    augment_keys, model_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    xyz, rgb = augment.augment(
        batch, config.augment, keys=augment_keys, num_points=config.model.points
    )

    objective = objective or objectives.Distillation(config)
    model = objective.adapt(model)

    def local_loss(params: Any) -> tuple[jax.Array, tuple[Metrics, Any]]:
        params = objective.trainable(params)
        rows, updates = model.apply(
            {"params": params["student"], "batch_stats": state.batch_stats},
            xyz,
            rgb,
            train=True,
            axis_name=axis_name,
            keys=model_keys,
            mutable=["batch_stats"],
        )
        loss, parts = objective.loss(
            rows, params["loss"], batch, step=state.step, axis_name=axis_name
        )
        # A student without batch norm has no statistics.
        return loss, (parts, updates.get("batch_stats", {}))

    gradients, (parts, batch_stats) = jax.grad(local_loss, has_aux=True)(state.params)
    gradients = param_sharding.reduce_gradients(gradients)
    return gradients, fsdp.psum(parts, axis_name), batch_stats


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    objective: objectives.Objective | None = None,
    axis_name: str | None = None,
    param_sharding: fsdp.ParameterSharding | None = None,
) -> tuple[TrainState, Metrics]:
    """Updates the train state from one global batch.

    A non-finite update is skipped: only `step` advances.

    Args:
      state: train state; parameters, optimizer state and moving average by `param_sharding`.
      batch: this device's rows, see `mrd_jax.data.batch_spec`.
      model: student encoder.
      optimizer: its `update` may take `grad_norm`, the global norm of the gradients.
      config: config of the run.
      objective: loss of the run; distillation by default.
      axis_name: mesh axis that the batch is split over; None for one device.
      param_sharding: how the parameters are sharded; replicated by default.

    Returns:
      The new train state, sharded like `state`, and scalar metrics, replicated.
    """
    objective = objective or objectives.Distillation(config)
    model, param_sharding = (param_sharding or fsdp.Replicated(axis_name)).adapt(model)
    params = param_sharding.gather_params(state.params)
    gradients, parts, batch_stats = loss_and_gradients(
        state.replace(params=params),
        batch,
        model=model,
        config=config,
        objective=objective,
        axis_name=axis_name,
        param_sharding=param_sharding,
    )
    grad_norm = param_sharding.global_norm(gradients)
    finite = jnp.isfinite(parts["total"]) & jnp.isfinite(grad_norm)
    with jax.named_scope("optimizer"):
        updated = _update(
            state,
            gradients,
            grad_norm=grad_norm,
            optimizer=optimizer,
            objective=objective,
            ema_decay=config.optimizer.ema_decay,
        ).replace(batch_stats=batch_stats)
        new = nonfinite.keep_finite(updated, state, finite=finite)
    metrics = {
        "loss": parts["total"],
        **{name: value for name, value in parts.items() if name != "total"},
        **objective.metrics(params["loss"], step=state.step),
        "grad_norm": grad_norm,
        nonfinite.SKIPPED: 1.0 - finite,
    }
    # Skipped updates still advance `step`: the next one reads the next batch.
    return new.replace(step=state.step + 1), metrics


def _update(
    state: TrainState,
    gradients: Any,
    *,
    grad_norm: jax.Array,
    optimizer: optax.GradientTransformation,
    objective: objectives.Objective,
    ema_decay: float,
) -> TrainState:
    """Returns the state with updated parameters, optimizer state and moving average."""
    updates, opt_state = optax.with_extra_args_support(optimizer).update(
        gradients, state.opt_state, state.params, grad_norm=grad_norm
    )
    params = optax.apply_updates(state.params, updates)
    params = params | {"loss": objective.constrain(params["loss"])}
    ema = moving_average(state.ema, params["student"], ema_decay, state.step)
    return state.replace(params=params, opt_state=opt_state, ema=ema)


def moving_average(ema: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """Updates an exponential moving average of parameters.

    ema <- d * ema + (1 - d) * params with d = min(decay, (1 + step) / (10 + step)), as TensorFlow's
    `ExponentialMovingAverage` with a step count: early parameters are forgotten quickly.

    Args:
      ema: moving average, a tree like `params`; None to keep none.
      params: new parameters.
      decay: upper limit of d.
      step: int32 scalar, number of updates before this one.

    Returns:
      The new moving average; None if `ema` is None.
    """
    if ema is None:
        return None
    count = step.astype(jnp.float32)
    kept = jnp.minimum(decay, (1 + count) / (10 + count))
    return jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, ema, params)
