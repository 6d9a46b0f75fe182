# SPDX-License-Identifier: Apache-2.0
"""Schedule of the lambdas: one factor of all distillation terms, by the step of a run.

Distillation can begin late, so that early contrastive steps shape the embeddings first, and end
early, so that the last steps sharpen single instances. The contrastive terms do not change.
"""

import jax
import jax.numpy as jnp
import ml_collections


def is_constant(config: ml_collections.ConfigDict) -> bool:
    """Returns whether the factor is 1 at every step.

    Args:
      config: loss options, `config.loss` of a run.
    """
    return not (config.lambda_warmup or config.lambda_anneal)


def factor(
    config: ml_collections.ConfigDict, step: jax.typing.ArrayLike, *, total_steps: int
) -> jax.Array | float:
    """Returns the factor of all lambdas at a step.

      min(1, t / lambda_warmup) min(1, (1 - t) / lambda_anneal),  t = step / total_steps

    A fraction of 0 disables its part.

    Args:
      config: loss options, `config.loss` of a run.
      step: number of updates before this one, from 0.
      total_steps: number of steps of the run.

    Returns:
      A scalar from 0 to 1; the number 1.0 for a constant schedule, which leaves the program of the
      step unchanged.
    """
    if is_constant(config):
        return 1.0
    step = jnp.asarray(step, jnp.float32)
    value = jnp.ones((), jnp.float32)
    if config.lambda_warmup:
        value *= jnp.minimum(1, step / (config.lambda_warmup * total_steps))
    if config.lambda_anneal:
        value *= jnp.minimum(1, (total_steps - step) / (config.lambda_anneal * total_steps))
    return value
