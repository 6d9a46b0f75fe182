# SPDX-License-Identifier: Apache-2.0
"""AdamW as the field uses it: warm-up, decay, clipping, no weight decay on vectors."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

# Names of the parameters that multiply activations.
DECAYED = ("kernel", "qkv")


# What `optimizer.schedule` may say.
SCHEDULES = ("cosine", "steps")


def check(config: ConfigDict, *, total_steps: int) -> None:
    """Refuses fields without a meaning; arguments as for `learning_rate_schedule`.

    Raises:
      ValueError: names the field, what it holds and what it may hold.
    """
    if not 0 <= config.warmup_steps < total_steps:
        raise ValueError(
            f"config.optimizer.warmup_steps is {config.warmup_steps}; "
            f"it must be at least 0 and less than config.total_steps ({total_steps})"
        )
    if config.schedule not in SCHEDULES:
        raise ValueError(
            f"config.optimizer.schedule is {config.schedule!r}; expected one of {SCHEDULES}"
        )
    if config.decay_every < 1:
        raise ValueError(
            f"config.optimizer.decay_every is {config.decay_every}; expected at least 1 step"
        )
    for field in ("decay_rate", "layer_decay"):
        if not 0 < config[field] <= 1:
            raise ValueError(
                f"config.optimizer.{field} is {config[field]}; it must be above 0 and at most 1"
            )


def learning_rate_schedule(config: ConfigDict, *, total_steps: int) -> optax.Schedule:
    """Linear warm-up to the peak, then the decay that `schedule` names.

    "cosine" ends at `final_learning_rate` times the peak. "steps" is OpenShape's: times
    `decay_rate` after every `decay_every` steps, counted from the start of the run.

    Args:
      config: `config.optimizer` of a run.
      total_steps: of the run.

    Raises:
      ValueError: a field has no meaning, or the warm-up does not end before the run does.
    """
    check(config, total_steps=total_steps)
    peak = config.learning_rate
    if config.schedule == "cosine":
        return optax.warmup_cosine_decay_schedule(
            init_value=0.0 if config.warmup_steps else peak,
            peak_value=peak,
            warmup_steps=config.warmup_steps,
            decay_steps=total_steps,
            end_value=peak * config.final_learning_rate,
        )
    stairs = optax.exponential_decay(
        peak, config.decay_every, decay_rate=config.decay_rate, staircase=True
    )
    if not config.warmup_steps:
        return stairs
    warm_up = optax.linear_schedule(0.0, 1.0, config.warmup_steps)
    return lambda step: warm_up(step) * stairs(step)


def decay_mask(params: Any) -> Any:
    """True for the student's matrices; False for biases, norms, tokens and the loss's scalars.

    Blocks stacked by the layer scan carry a leading layer dimension, so a parameter's name decides
    rather than its rank.
    """

    def is_decayed(path: tuple, _: jax.Array) -> bool:
        return path[0].key == "student" and path[-1].key in DECAYED

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def layer_scales(params: Any, layer_decay: float) -> Any:
    """The share of the learning rate that each parameter gets: less for earlier blocks.

    Block i of `depth` gets layer_decay ** (depth - i), counted from 0; what is not a block of the
    student gets 1. Source: BEiT (Bao et al., ICLR 2022), as Uni3D's code applies it.

    Args:
      params: of a run, {"student": ..., "loss": ...}, or their shapes.
      layer_decay: share per block.

    Returns:
      Like params: floats, or [depth - 1, 1, ...] where the leading axis stacks the blocks.
    """
    stacked = jax.tree.leaves(params["student"].get("transformer", {}).get("blocks", {}))
    depth = 1 + (stacked[0].shape[0] if stacked else 0)
    of_blocks = layer_decay ** jnp.arange(depth, 1, -1, dtype=jnp.float32)

    def scale(path: tuple, leaf: jax.Array) -> jax.Array | float:
        names = tuple(key.key for key in path[:3])
        if names == ("student", "transformer", "blocks"):
            return of_blocks.reshape(-1, *[1] * (leaf.ndim - 1))
        return layer_decay if names == ("student", "transformer", "last_block") else 1.0

    return jax.tree_util.tree_map_with_path(scale, params)


def scale_by_layer(layer_decay: float) -> optax.GradientTransformation:
    """Multiplies updates by `layer_scales`; after AdamW it scales the learning rate."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda update, scale: update * scale, updates, layer_scales(params, layer_decay)
        )
    )


def clip(largest_norm: float) -> optax.GradientTransformationExtraArgs:
    """Scales the gradient down where its global norm is larger.

    The norm is given to `update` as `grad_norm`: a device may hold a share of the gradient only.
    """

    def update(updates, state, params=None, *, grad_norm, **_):
        del params
        factor = jnp.minimum(1.0, largest_norm / grad_norm)
        return jax.tree.map(lambda update: update * factor, updates), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def build_optimizer(config: ConfigDict, *, total_steps: int) -> optax.GradientTransformation:
    """Clipping (where `clip_norm` > 0), AdamW, layer decay (where `layer_decay` < 1).

    What follows the clipping works on every number by itself, so a share of the parameters is
    updated as the whole would be. `update` takes `grad_norm`, see `clip`.

    Args:
      config: `config.optimizer` of a run.
      total_steps: of the run.

    Raises:
      ValueError: as `learning_rate_schedule`.
    """
    steps = []
    if config.clip_norm > 0:
        steps.append(clip(config.clip_norm))
    steps.append(
        optax.adamw(
            learning_rate_schedule(config, total_steps=total_steps),
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=decay_mask,
        )
    )
    if config.layer_decay < 1:
        steps.append(scale_by_layer(config.layer_decay))
    return optax.chain(*steps)
