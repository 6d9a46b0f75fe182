# SPDX-License-Identifier: Apache-2.0
"""A divergence of your own between a student's relation and the teacher's: squared Hellinger."""

import jax
import jax.numpy as jnp

from mrd_jax.losses import relation


# --8<-- [start:terms]
def hellinger(log_q: jax.Array, log_r: jax.Array) -> jax.Array:
    """What each pair adds to H^2(Q, R) = sum_j (sqrt Q_ij - sqrt R_ij)^2 / 2.

    Between 0 and 1, and symmetric. Unlike with Jeffrey's divergence a pair that the student takes
    for impossible costs no more than its share of the teacher's probability.

    Args:
      log_q: logarithms of the target's entries, -inf where left out; any shape.
      log_r: logarithms of the student's, with the same entries.

    Returns:
      The terms in that shape; 0 where left out.
    """
    support = log_q > -jnp.inf
    # The inner selects keep an infinity, and with it nan, out of the gradient.
    log_q, log_r = (jnp.where(support, values, 0) for values in (log_q, log_r))
    return jnp.where(support, jnp.square(jnp.exp(log_q / 2) - jnp.exp(log_r / 2)) / 2, 0)


# --8<-- [end:terms]


# --8<-- [start:register]
def register() -> None:
    """Makes `loss.divergence = "hellinger"` known, for relations that are similarities."""
    relation.DIVERGENCES["hellinger"] = hellinger
    relation.FAMILIES["similarity"] += ("hellinger",)


# --8<-- [end:register]
