# SPDX-License-Identifier: Apache-2.0
"""AdamW with warm-up, learning-rate decay, gradient clipping and layer-wise decay."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from ml_collections import ConfigDict

# Names of the parameters that weight decay applies to: those that multiply activations.
DECAYED = ("kernel", "qkv")
# Values of `config.optimizer.schedule`.
SCHEDULES = ("cosine", "steps")
# Names of the student's parameters between the transformer blocks and the embedding.
AFTER_BLOCKS = ("norm", "projection", "relation_projection")


def learning_rate_schedule(config: ConfigDict, *, total_steps: int) -> optax.Schedule:
    """Builds a schedule of linear warm-up followed by the decay that `schedule` names.

    "cosine" ends at `final_learning_rate` times the peak. "steps" is OpenShape's decay: times
    `decay_rate` after every `decay_every` steps, counted from the start of the run.

    Args:
      config: `config.optimizer` of a run, as `validation.validate` accepts it.
      total_steps: number of steps of the run; more than `warmup_steps`.
    """
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
    """Returns True for the student's matrices, False for biases, norms, tokens and loss scalars.

    The name of a parameter decides, not its rank: blocks stacked for the layer scan have a leading
    layer dimension.

    Args:
      params: {"student": ..., "loss": ...}.

    Returns:
      Tree like `params`, of bool.
    """

    def is_decayed(path: tuple, _: jax.Array) -> bool:
        return path[0].key == "student" and path[-1].key in DECAYED

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def layer_scales(params: Any, layer_decay: float) -> Any:
    """Computes the factor of each parameter's learning rate under layer-wise decay.

    Block i of `depth`, counted from 0, gets layer_decay ** (depth - i); everything else gets 1.
    Source: BEiT (Bao et al., ICLR 2022), as Uni3D's code applies it.

    Args:
      params: {"student": ..., "loss": ...}, or their shapes.
      layer_decay: factor between consecutive blocks, in (0, 1].

    Returns:
      Tree like `params`: floats, and [depth - 1, 1, ...] arrays for the stacked blocks.
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


def trainable_scales(params: Any, blocks: int) -> Any:
    """Returns 1 for parameters that are trained and 0 for those that are frozen.

    With `blocks` > 0, the last transformer blocks are trained, with what follows them: norm,
    projections and the parameters of the objective. What precedes them is frozen.

    Args:
      params: {"student": ..., "loss": ...}, or their shapes.
      blocks: number of transformer blocks to train; 0 trains everything.

    Returns:
      Tree like `params`: floats, and [depth - 1, 1, ...] arrays for the stacked blocks.
    """
    stacked = jax.tree.leaves(params["student"].get("transformer", {}).get("blocks", {}))
    depth = 1 + (stacked[0].shape[0] if stacked else 0)
    of_blocks = (jnp.arange(depth - 1) >= depth - blocks).astype(jnp.float32)

    def scale(path: tuple, leaf: jax.Array) -> jax.Array | float:
        names = tuple(key.key for key in path)
        if not blocks or names[0] == "loss":
            return 1.0
        if names[:3] == ("student", "transformer", "blocks"):
            return of_blocks.reshape(-1, *[1] * (leaf.ndim - 1))
        if names[:3] == ("student", "transformer", "last_block"):
            return 1.0
        return 1.0 if names[1] in AFTER_BLOCKS else 0.0

    return jax.tree_util.tree_map_with_path(scale, params)


def freeze(blocks: int) -> optax.GradientTransformation:
    """Multiplies updates by `trainable_scales`; follows AdamW, whose decay needs no gradient."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda update, scale: update * scale, updates, trainable_scales(params, blocks)
        )
    )


def scale_by_layer(layer_decay: float) -> optax.GradientTransformation:
    """Multiplies updates by `layer_scales`; follows AdamW, so it scales the learning rate."""
    return optax.stateless(
        lambda updates, params: jax.tree.map(
            lambda update, scale: update * scale, updates, layer_scales(params, layer_decay)
        )
    )


def clip(largest_norm: float) -> optax.GradientTransformationExtraArgs:
    """Clips the gradient by its global norm.

    `update` takes the norm as `grad_norm`, because under FSDP a device holds only a shard of the
    gradient.

    Args:
      largest_norm: norm that larger gradients are scaled down to.
    """

    def update(updates, state, params=None, *, grad_norm, **_):
        del params
        factor = jnp.minimum(1.0, largest_norm / grad_norm)
        return jax.tree.map(lambda update: update * factor, updates), state

    return optax.GradientTransformationExtraArgs(lambda _: optax.EmptyState(), update)


def build_optimizer(config: ConfigDict, *, total_steps: int) -> optax.GradientTransformation:
    """Chains clipping (if `clip_norm` > 0), AdamW, and layer decay (if `layer_decay` < 1).

    Everything after clipping is element-wise, so shards of the parameters are updated like the
    whole arrays. `update` takes `grad_norm`, see `clip`.

    Args:
      config: `config.optimizer` of a run, as `validation.validate` accepts it.
      total_steps: number of steps of the run.
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
