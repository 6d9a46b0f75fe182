# SPDX-License-Identifier: Apache-2.0
"""Dynamic distillation: the learnable weights of a term's candidate targets."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections


def log_weights(
    weights: Mapping[str, Any], config: ml_collections.ConfigDict, term: str
) -> jax.Array:
    """The logarithm of w = softmax(a) when dynamic, of 1 / K when static.

    Args:
      weights: loss parameters; `weights["mixing"][term]` holds a, [candidates].
      config: the loss options.
      term: intra, image or text.

    Returns:
      [candidates] float32.

    Raises:
      ValueError: the parameters were made for another list of candidates.
    """
    candidates = tuple(config.candidates[term])
    if config.weights == "static":
        return jnp.full((len(candidates),), -math.log(len(candidates)), dtype=jnp.float32)
    logits = weights["mixing"][term]
    if logits.shape != (len(candidates),):
        raise ValueError(
            f"weights['mixing'][{term!r}] has shape {logits.shape}; loss.candidates.{term} is "
            f"{candidates} and needs ({len(candidates)},): initialise the weights anew"
        )
    return jax.nn.log_softmax(logits)


def entropy_gap(log_w: jax.Array) -> jax.Array:
    """The regulariser log K - H(w): 0 for equal weights, log K for a single one.

    Weights free to follow the gradient fall towards the target that is easiest to match, not the
    one that teaches most; this pulls them apart again *(ours)*.
    """
    entropy = -jnp.sum(jnp.exp(log_w) * log_w)
    return math.log(log_w.shape[0]) - entropy
