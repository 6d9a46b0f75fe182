# SPDX-License-Identifier: Apache-2.0
"""Dynamic distillation: learnable weights of a term's candidate targets, and their regulariser."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections


def log_weights(
    weights: Mapping[str, Any], config: ml_collections.ConfigDict, term: str
) -> jax.Array:
    """Returns log w: w = softmax(a) for dynamic weights, w = 1 / K for static ones.

    Args:
      weights: loss parameters; `weights["mixing"][term]` is a, [candidates].
      config: loss options, `config.loss` of a run.
      term: intra, image or text.

    Returns:
      [candidates] float32.

    Raises:
      ValueError: the parameters belong to another list of candidates.
    """
    candidates = tuple(config.candidates[term])
    if config.weights == "static":
        return jnp.full((len(candidates),), -math.log(len(candidates)), dtype=jnp.float32)
    logits = weights["mixing"][term]
    if logits.shape != (len(candidates),):
        raise ValueError(
            f"weights['mixing'][{term!r}] has shape {logits.shape}; config.loss.candidates.{term} "
            f"is {candidates} and needs ({len(candidates)},): reinitialise the weights"
        )
    return jax.nn.log_softmax(logits)


def entropy_gap(log_w: jax.Array) -> jax.Array:
    """Computes the regulariser log K - H(w): 0 for equal weights, log K for a single target.

    Without it, weights that follow the gradient collapse onto the target that is easiest to match,
    which need not be the one that teaches most *(ours)*.

    Args:
      log_w: [candidates], logarithms of the weights.
    """
    entropy = -jnp.sum(jnp.exp(log_w) * log_w)
    return math.log(log_w.shape[0]) - entropy
