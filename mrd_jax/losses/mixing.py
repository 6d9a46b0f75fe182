# SPDX-License-Identifier: Apache-2.0
"""Dynamic distillation: learnable weights of the targets of a term, and of the terms themselves."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from mrd_jax.losses import options

# Loss parameter of the dynamic weights of the terms.
TERM_LOGITS = "term_mixing"


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


def init_term_params(config: ml_collections.ConfigDict) -> dict[str, jax.Array]:
    """Initialises the logits of the weights of the terms, by loss parameter; {} if static.

    There is one for every term, so that a checkpoint still loads when a lambda changes.
    """
    if config.term_weights == "static":
        return {}
    return {TERM_LOGITS: jnp.zeros((len(options.TERMS),), dtype=jnp.float32)}


def log_term_weights(weights: Mapping[str, Any], config: ml_collections.ConfigDict) -> jax.Array:
    """Returns log w of dynamic weights of the K active terms, w = f / K + (1 - f) softmax(b).

    A term is multiplied by K w, which is 1 for equal weights. The gradient of b_t is proportional
    to the softmax times the amount by which the weighted divergence of term t exceeds its mean, so
    weights move to the term that is matched best. With the floor f = `term_weight_floor`, K w stays
    in [f, f + (1 - f) K] *(ours)*.

    Args:
      weights: loss parameters; `weights["term_mixing"]` is b, one number for each of
        `options.TERMS`, of which those of the active terms are used.
      config: loss options, `config.loss` of a run, with dynamic `term_weights`.

    Returns:
      [terms] float32, in the order of `options.active_terms`.
    """
    terms = options.active_terms(config)
    logits = weights[TERM_LOGITS][jnp.array([options.TERMS.index(term) for term in terms])]
    floor = config.term_weight_floor
    return jnp.log(floor / len(terms) + (1 - floor) * jax.nn.softmax(logits))


def entropy_gap(log_w: jax.Array) -> jax.Array:
    """Computes the regulariser log K - H(w): 0 for equal weights, log K for a single target.

    Without it, weights that follow the gradient collapse onto the target that is easiest to match,
    which need not be the one that teaches most *(ours)*.

    Args:
      log_w: [candidates], logarithms of the weights.
    """
    entropy = -jnp.sum(jnp.exp(log_w) * log_w)
    return math.log(log_w.shape[0]) - entropy
