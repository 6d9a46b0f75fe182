# SPDX-License-Identifier: Apache-2.0
"""AdamW as the field uses it: warm-up, cosine, clipping, no decay on vectors."""

from typing import Any

import jax
import optax
from ml_collections import ConfigDict

# Names of the parameters that multiply activations.
DECAYED = ("kernel", "qkv")


def learning_rate_schedule(config: ConfigDict, *, total_steps: int) -> optax.Schedule:
    """Linear warm-up to the peak, then cosine decay to `final_learning_rate` times the peak.

    Raises:
      ValueError: a warm-up that does not end before the run does.
    """
    if not 0 <= config.warmup_steps < total_steps:
        raise ValueError(
            f"config.optimizer.warmup_steps is {config.warmup_steps}; "
            f"it must be at least 0 and less than config.total_steps ({total_steps})"
        )
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if config.warmup_steps else config.learning_rate,
        peak_value=config.learning_rate,
        warmup_steps=config.warmup_steps,
        decay_steps=total_steps,
        end_value=config.learning_rate * config.final_learning_rate,
    )


def decay_mask(params: Any) -> Any:
    """True for the student's matrices; False for biases, norms, tokens and the loss's scalars.

    Blocks stacked by the layer scan carry a leading layer dimension, so a parameter's name decides
    rather than its rank.
    """

    def is_decayed(path: tuple, _: jax.Array) -> bool:
        return path[0].key == "student" and path[-1].key in DECAYED

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def build_optimizer(config: ConfigDict, *, total_steps: int) -> optax.GradientTransformation:
    """Clipping (where `clip_norm` > 0), then AdamW; `config` is `config.optimizer` of a run."""
    steps = []
    if config.clip_norm > 0:
        steps.append(optax.clip_by_global_norm(config.clip_norm))
    steps.append(
        optax.adamw(
            learning_rate_schedule(config, total_steps=total_steps),
            b1=config.b1,
            b2=config.b2,
            weight_decay=config.weight_decay,
            mask=decay_mask,
        )
    )
    return optax.chain(*steps)
