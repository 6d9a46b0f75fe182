# SPDX-License-Identifier: Apache-2.0
"""Example of a divergence between relations: the squared Hellinger distance."""

import jax
import jax.numpy as jnp

from mrd_jax.losses import relation


# --8<-- [start:terms]
def hellinger(log_q: jax.Array, log_r: jax.Array) -> jax.Array:
    """Computes the summands of H^2(Q, R) = sum_j (sqrt Q_ij - sqrt R_ij)^2 / 2.

    The distance is symmetric and between 0 and 1. Unlike in Jeffrey's divergence, the summand of a
    pair to which the student assigns probability 0 is bounded: half the teacher's probability.

    Args:
      log_q: logarithms of the target's entries, -inf where masked; any shape.
      log_r: logarithms of the student's entries, with the same masked entries.

    Returns:
      The summands, in the shape of the inputs; 0 where masked.
    """
    support = log_q > -jnp.inf
    # The inner selects keep infinities, which become nan, out of the gradient.
    log_q, log_r = (jnp.where(support, values, 0) for values in (log_q, log_r))
    return jnp.where(support, jnp.square(jnp.exp(log_q / 2) - jnp.exp(log_r / 2)) / 2, 0)


# --8<-- [end:terms]


# --8<-- [start:register]
def register() -> None:
    """Registers `config.loss.divergence = "hellinger"` for similarity relations."""
    relation.DIVERGENCES["hellinger"] = hellinger
    relation.FAMILIES["similarity"] += ("hellinger",)


# --8<-- [end:register]
