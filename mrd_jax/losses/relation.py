# SPDX-License-Identifier: Apache-2.0
"""Relation matrices, and the divergences between a student relation and its target.

Row i of a relation R^XY holds the similarities or distances of sample i in modality X to every
sample of the global batch in modality Y. Masked entries of a relation matrix are -inf.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from mrd_jax.losses import batch_axis

# Families of relations, and the divergences that are defined for each.
FAMILIES = {
    "similarity": ("kl", "jeffrey", "js"),
    "cosine": ("l2", "smooth_l1"),
    "euclidean": ("l2", "smooth_l1"),
}

# Divergences that are a mean over the valid entries of a row; the others are a sum.
MEANS = ("l2", "smooth_l1")

# In float32, a squared distance between unit vectors is uncertain by about 4e-7. Closer pairs are
# treated as duplicates, with distance 0 and gradient 0, since the gradient of a root is unbounded.
_DUPLICATE_SQUARE = 1e-6


def unit_rows(values: jax.Array) -> jax.Array:
    """Scales [batch, dim] rows to norm 1 in float32 or better; a row of zeros stays zero."""
    values = _at_least_float32(values)
    square = jnp.sum(values * values, axis=-1, keepdims=True)
    return values * jax.lax.rsqrt(jnp.maximum(square, 1e-24))


def products(rows: jax.Array, columns: jax.Array) -> jax.Array:
    """Returns the products x_i . y_j, [rows, columns], accumulated in float32 or better."""
    dtype = jnp.promote_types(jnp.promote_types(rows.dtype, columns.dtype), jnp.float32)
    highest = jax.lax.Precision.HIGHEST
    return jnp.matmul(rows, columns.T, precision=highest, preferred_element_type=dtype)


def inner_products(rows: jax.Array, columns: jax.Array, *, axis_name: str | None) -> jax.Array:
    """Returns the products of local rows and gathered columns, [local_batch, global_batch]."""
    return products(rows, batch_axis.gather(columns, axis_name))


def valid_pairs(
    local_batch: int,
    *,
    exclude_self: bool = False,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Returns the mask of the valid entries of a relation matrix.

    Args:
      local_batch: number of rows on this device.
      exclude_self: exclude the diagonal, the relation of each sample to itself.
      mask: [local_batch] bool; a False sample is excluded as a row and as a column.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      [local_batch, global_batch] bool.
    """
    global_batch = local_batch * batch_axis.size(axis_name)
    valid = jnp.ones((local_batch, global_batch), dtype=bool)
    if mask is not None:
        mask = mask.astype(bool)
        valid = mask[:, None] & batch_axis.gather(mask, axis_name)[None, :]
    if exclude_self:
        positions = batch_axis.global_positions(local_batch, axis_name)
        valid &= positions[:, None] != jnp.arange(global_batch)[None, :]
    return valid


def log_relation(
    rows: jax.Array,
    columns: jax.Array,
    *,
    temperature: jax.typing.ArrayLike,
    exclude_self: bool = False,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes normalised similarities, log R^XY_ij = log softmax_j(x_i . y_j / tau).

    This is the paper's preferred relation: a distribution over the batch for each sample, so that
    only differences between similarities matter and modalities need not share a range.

    Args:
      rows: [local_batch, dim], the x_i, unit norm.
      columns: [local_batch, dim], this device's y_j, unit norm; gathered over `axis_name`.
      temperature: tau > 0; a small value concentrates a row on the nearest samples.
      exclude_self: exclude the diagonal.
      mask: [local_batch] bool; a False sample is excluded as a row and as a column.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      [local_batch, global_batch] log-probabilities, -inf where masked (whole rows included).
    """
    valid = valid_pairs(rows.shape[0], exclude_self=exclude_self, mask=mask, axis_name=axis_name)
    logits = jnp.where(
        valid, inner_products(rows, columns, axis_name=axis_name) / temperature, -jnp.inf
    )
    # A row without a valid entry has no softmax; zeros keep `jax_debug_nans` usable.
    logits = jnp.where(valid.any(axis=-1, keepdims=True), logits, 0)
    return jnp.where(valid, jax.nn.log_softmax(logits, axis=-1), -jnp.inf)


def distance_relation(
    rows: jax.Array,
    columns: jax.Array,
    *,
    metric: str,
    exclude_self: bool = False,
    mask: jax.Array | None = None,
    axis_name: str | None = None,
) -> jax.Array:
    """Computes distances or cosines in units of their mean, R^XY_ij = d(x_i, y_j) / mean |d|.

    The mean is over the valid pairs of different samples in the global batch. It is a mean of
    magnitudes because cosines of both signs can cancel to a mean near 0; distances have no sign.
    Follows relational knowledge distillation (Park et al. 2019).

    Args:
      rows: [local_batch, dim], the x_i, unit norm.
      columns: [local_batch, dim], this device's y_j, unit norm; gathered over `axis_name`.
      metric: "euclidean", |x_i - y_j|, or "cosine", x_i . y_j.
      exclude_self: exclude the diagonal.
      mask: [local_batch] bool; a False sample is excluded as a row and as a column.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      [local_batch, global_batch], -inf where masked; 0 if there is no valid pair for the mean.

    Raises:
      ValueError: the metric is unknown.
    """
    if metric == "cosine":
        values = inner_products(rows, columns, axis_name=axis_name)
    elif metric == "euclidean":
        row_norms = squared_norms(rows)
        column_norms = batch_axis.gather(squared_norms(columns), axis_name)
        values = euclidean_distances(
            inner_products(rows, columns, axis_name=axis_name),
            row_norms=row_norms[:, None],
            column_norms=column_norms[None, :],
        )
    else:
        raise ValueError(f"metric is {metric!r}; expected 'euclidean' or 'cosine'")
    pairs = valid_pairs(rows.shape[0], exclude_self=True, mask=mask, axis_name=axis_name)
    total = batch_axis.psum(jnp.sum(jnp.where(pairs, jnp.abs(values), 0)), axis_name)
    count = batch_axis.psum(jnp.sum(pairs, dtype=values.dtype), axis_name)
    scaled = divide_by_mean(values, total / jnp.maximum(count, 1))
    valid = valid_pairs(rows.shape[0], exclude_self=exclude_self, mask=mask, axis_name=axis_name)
    return jnp.where(valid, scaled, -jnp.inf)


def squared_norms(rows: jax.Array) -> jax.Array:
    """Returns the squared norms |x_i|^2, [rows], in float32 or better."""
    return jnp.sum(jnp.square(_at_least_float32(rows)), axis=-1)


def euclidean_distances(
    inner: jax.Array, *, row_norms: jax.Array, column_norms: jax.Array
) -> jax.Array:
    """Returns |x_i - y_j| from the products x_i . y_j and the squared norms, which broadcast."""
    square = row_norms + column_norms - 2 * inner
    distinct = square > _DUPLICATE_SQUARE
    return jnp.where(distinct, jnp.sqrt(jnp.where(distinct, square, 1)), 0)


def divide_by_mean(values: jax.Array, mean: jax.Array) -> jax.Array:
    """Divides distances or cosines by their mean magnitude; returns 0 if the mean is 0."""
    return jnp.where(mean > 0, values / jnp.where(mean > 0, mean, 1), 0)


def divergence(log_target: jax.Array, log_student: jax.Array, *, kind: str) -> jax.Array:
    """Computes the divergence of the student relation R from the target relation Q, per row.

      kl         KL(Q||R) = sum_j Q_ij (log Q_ij - log R_ij)
      jeffrey    KL(Q||R) + KL(R||Q), the paper's preferred form
      js         KL(Q||M) / 2 + KL(R||M) / 2 with M = (Q + R) / 2; at most log 2
      l2         mean_j (R_ij - Q_ij)^2
      smooth_l1  mean_j of e^2 / 2 where |e| < 1 and |e| - 1/2 elsewhere, e = R_ij - Q_ij

    Args:
      log_target: [local_batch, global_batch], Q: the output of `log_relation` for kl, jeffrey and
        js, of `distance_relation` (without logarithm) for l2 and smooth_l1; -inf where masked.
      log_student: [local_batch, global_batch], R in the same form, with the same masked entries.
      kind: one of the names above.

    Returns:
      [local_batch]; 0 for a row without a valid entry.

    Raises:
      ValueError: the kind is unknown.
    """
    terms = divergence_terms(log_target, log_student, kind=kind)
    if kind not in MEANS:
        return jnp.sum(terms, axis=-1)
    valid = (log_target > -jnp.inf) & (log_student > -jnp.inf)
    return jnp.sum(terms, axis=-1) / jnp.maximum(jnp.sum(valid, axis=-1), 1)


def divergence_terms(log_target: jax.Array, log_student: jax.Array, *, kind: str) -> jax.Array:
    """Computes the summand of a divergence for each pair of samples.

    Args:
      log_target: Q in the form that `divergence` takes; any shape.
      log_student: R in the same form and shape, with the same masked entries.
      kind: a key of `DIVERGENCES`; for those in `MEANS`, `divergence` divides the sum by the number
        of valid entries.

    Returns:
      The summands, in the shape of the inputs; 0 where masked.

    Raises:
      ValueError: the kind is unknown.
    """
    if kind not in DIVERGENCES:
        raise ValueError(f"divergence kind is {kind!r}; expected one of {sorted(DIVERGENCES)}")
    return DIVERGENCES[kind](log_target, log_student)


def mix(targets: jax.Array, log_weights: jax.Array, *, family: str) -> jax.Array:
    """Computes the convex mixture sum_k w_k Q_k of target relations.

    Args:
      targets: [candidates, local_batch, global_batch], relations of one family with the same masked
        entries.
      log_weights: [candidates], log w_k.
      family: a key of `FAMILIES`; similarities are mixed as probabilities, not as logarithms.

    Returns:
      [local_batch, global_batch] in the form of one target, -inf where masked.
    """
    valid = jnp.isfinite(targets[0])
    targets = jnp.where(valid[None], targets, 0)
    log_weights = log_weights[:, None, None]
    if family == "similarity":
        mixture = jax.nn.logsumexp(log_weights + targets, axis=0)
    else:
        mixture = jnp.sum(jnp.exp(log_weights) * targets, axis=0)
    return jnp.where(valid, mixture, -jnp.inf)


def _at_least_float32(values: jax.Array) -> jax.Array:
    # bfloat16 loses the tail of a softmax over thousands of columns.
    return values.astype(jnp.promote_types(values.dtype, jnp.float32))


def _kl(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    # 0 log 0 = 0. The inner selects keep inf - inf, which is nan, out of the gradient.
    support = log_p > -jnp.inf
    log_p, log_q = (jnp.where(support, values, 0) for values in (log_p, log_q))
    return jnp.where(support, jnp.exp(log_p) * (log_p - log_q), 0)


def _jeffrey(log_q: jax.Array, log_r: jax.Array) -> jax.Array:
    # Both directions in one sum: sum_j (Q_ij - R_ij) (log Q_ij - log R_ij).
    support = (log_q > -jnp.inf) | (log_r > -jnp.inf)
    log_q, log_r = (jnp.where(support, values, 0) for values in (log_q, log_r))
    return (jnp.exp(log_q) - jnp.exp(log_r)) * (log_q - log_r)


def _js(log_q: jax.Array, log_r: jax.Array) -> jax.Array:
    support = (log_q > -jnp.inf) | (log_r > -jnp.inf)
    log_q_or_0, log_r_or_0 = (jnp.where(support, values, 0) for values in (log_q, log_r))
    log_m = jnp.logaddexp(log_q_or_0, log_r_or_0) - math.log(2)
    return (_kl(log_q, log_m) + _kl(log_r, log_m)) / 2


def _penalise_error(penalty: Callable[[jax.Array], jax.Array]) -> Callable[..., jax.Array]:
    def terms(target: jax.Array, student: jax.Array) -> jax.Array:
        valid = (target > -jnp.inf) & (student > -jnp.inf)
        return penalty(jnp.where(valid, student, 0) - jnp.where(valid, target, 0))

    return terms


def _smooth_l1(error: jax.Array) -> jax.Array:
    magnitude = jnp.abs(error)
    return jnp.where(magnitude < 1, 0.5 * jnp.square(error), magnitude - 0.5)


# Summand of each divergence, see `divergence_terms`; used by both forms of the losses. See
# docs/add_divergence.md for how to add one.
DIVERGENCES = {
    "kl": _kl,
    "jeffrey": _jeffrey,
    "js": _js,
    "l2": _penalise_error(jnp.square),
    "smooth_l1": _penalise_error(_smooth_l1),
}
