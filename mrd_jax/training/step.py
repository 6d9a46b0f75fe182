# SPDX-License-Identifier: Apache-2.0
"""The per-device training step: loss, gradients and optimizer update.

Every function is pure. `axis_name` names the mesh axis that the batch is split over; None means
that this device holds the whole batch, which is the reference for every other device count.
"""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from ml_collections import ConfigDict

from mrd_jax import losses
from mrd_jax.checkpoints.train_state import TrainState
from mrd_jax.data import augment, batch_spec
from mrd_jax.distributed import fsdp
from mrd_jax.training import nonfinite

Metrics = dict[str, jax.Array]


def loss_and_gradients(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    config: ConfigDict,
    axis_name: str | None = None,
    layout: fsdp.Layout | None = None,
) -> tuple[Any, Metrics, Any]:
    """Gradients of the global loss, its parts, and the new batch-norm statistics.

    Each device differentiates its own share of the loss; `all_gather` and the synchronised batch
    norm carry gradients across devices, and the sum over devices comes last, here.

    Args:
      state: replicated, its parameters as `layout.gather` gives them.
      batch: this device's rows, see `mrd_jax.data.batch_spec`.
      model: the student.
      config: of the whole run.
      axis_name: axis that the batch is split over; None for one device.
      layout: of the gradients; by default every device gets all of them.

    Returns:
      Gradients like `state.params`, by `layout`; scalar parts of the loss and statistics like
      `state.batch_stats`, the same on every device.
    """
    layout = layout or fsdp.Replicated(axis_name)
    keys = batch_spec.sample_keys(config.seed, batch["index"], batch["epoch"])
    augment_keys, model_keys = jnp.unstack(jax.vmap(jax.random.split)(keys), axis=1)
    xyz, rgb = augment.augment(
        batch, config.augment, keys=augment_keys, num_points=config.model.points
    )

    def share_of_loss(params: Any) -> tuple[jax.Array, tuple[Metrics, Any]]:
        points, updates = model.apply(
            {"params": params["student"], "batch_stats": state.batch_stats},
            xyz,
            rgb,
            train=True,
            axis_name=axis_name,
            keys=model_keys,
            mutable=["batch_stats"],
        )
        embeddings = {
            "points": points,
            "log_scale": params["loss"]["log_scale"],
            **{name: batch[name] for name in ("image", "text", "has_image", "has_text")},
        }
        loss, parts = losses.mrd_loss(embeddings, params["loss"], config.loss, axis_name=axis_name)
        # A student without batch norm has none.
        return loss, (parts, updates.get("batch_stats", {}))

    gradients, (parts, batch_stats) = jax.grad(share_of_loss, has_aux=True)(state.params)
    return layout.sum(gradients), fsdp.psum(parts, axis_name), batch_stats


def train_step(
    state: TrainState,
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
    axis_name: str | None = None,
    layout: fsdp.Layout | None = None,
) -> tuple[TrainState, Metrics]:
    """One update from one global batch; arguments as for `loss_and_gradients`.

    An update whose loss or gradient is not finite is left out: only the step advances.

    Args:
      state: parameters, the optimizer's memory and moving average by `layout`.
      batch: this device's rows.
      model: the student.
      optimizer: its `update` may take `grad_norm`, the global norm of the whole gradient.
      config: of the whole run.
      axis_name: axis that the batch is split over; None for one device.
      layout: what this device holds of the parameters; all by default.

    Returns:
      The next state, by `layout`, and scalar metrics, the same on every device.
    """
    model, layout = (layout or fsdp.Replicated(axis_name)).adapt(model)
    whole = layout.gather(state.params)
    gradients, parts, batch_stats = loss_and_gradients(
        state.replace(params=whole),
        batch,
        model=model,
        config=config,
        axis_name=axis_name,
        layout=layout,
    )
    grad_norm = layout.norm(gradients)
    finite = jnp.isfinite(parts["total"]) & jnp.isfinite(grad_norm)
    with jax.named_scope("optimizer"):
        updated = _update(
            state, gradients, grad_norm=grad_norm, optimizer=optimizer, config=config
        ).replace(batch_stats=batch_stats)
        new = nonfinite.keep_finite(updated, state, finite=finite)
    metrics = {
        "loss": parts["total"],
        **{name: value for name, value in parts.items() if name != "total"},
        **losses.mixing_weights(whole["loss"], config.loss),
        "scale": jnp.exp(whole["loss"]["log_scale"]),
        "grad_norm": grad_norm,
        nonfinite.SKIPPED: 1.0 - finite,
    }
    if "student_log_temperature" in whole["loss"]:
        metrics["student_temperature"] = jnp.exp(whole["loss"]["student_log_temperature"])
    # A step that is left out still counts: its batch is behind us.
    return new.replace(step=state.step + 1), metrics


def _update(
    state: TrainState,
    gradients: Any,
    *,
    grad_norm: jax.Array,
    optimizer: optax.GradientTransformation,
    config: ConfigDict,
) -> TrainState:
    """The state with updated parameters, optimizer's memory and moving average."""
    updates, opt_state = optax.with_extra_args_support(optimizer).update(
        gradients, state.opt_state, state.params, grad_norm=grad_norm
    )
    params = optax.apply_updates(state.params, updates)
    # CLIP bounds the parameter itself: a bound inside the loss alone would leave it stuck outside.
    params["loss"]["log_scale"] = jnp.minimum(
        params["loss"]["log_scale"], config.loss.log_scale_max
    )
    ema = moving_average(state.ema, params["student"], config.optimizer.ema_decay, state.step)
    return state.replace(params=params, opt_state=opt_state, ema=ema)


def moving_average(ema: Any, params: Any, decay: float, step: jax.Array) -> Any:
    """Exponential moving average that starts as a plain mean, so early steps do not linger.

    The weight of the past is min(decay, (1 + step) / (10 + step)), as in TensorFlow's
    `ExponentialMovingAverage` with a step count.
    """
    if ema is None:
        return None
    done = step.astype(jnp.float32)
    kept = jnp.minimum(decay, (1 + done) / (10 + done))
    return jax.tree.map(lambda old, new: kept * old + (1 - kept) * new, ema, params)
