# SPDX-License-Identifier: Apache-2.0
"""Dynamic distillation: one student relation against a learnable mixture of teacher relations."""

import functools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import ml_collections

from mrd_jax.losses import batch_axis, options, relation


class Modality(NamedTuple):
    """One modality of the local batch: [local_batch, dim] unit rows, and which rows exist."""

    rows: jax.Array
    mask: jax.Array


def log_mixing_weights(
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


def entropy_gap(log_weights: jax.Array) -> jax.Array:
    """The regulariser log K - H(w): 0 for equal weights, log K for a single one.

    Weights free to follow the gradient fall towards the target that is easiest to match, not the
    one that teaches most; this pulls them apart again *(ours)*.
    """
    entropy = -jnp.sum(jnp.exp(log_weights) * log_weights)
    return math.log(log_weights.shape[0]) - entropy


def distillation_term(
    batch: Mapping[str, Modality],
    *,
    term: str,
    log_weights: jax.Array,
    student_temperature: jax.typing.ArrayLike,
    config: ml_collections.ConfigDict,
    axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """L_term, the divergence of a student relation R from its candidate targets Q_k.

      mix = "divergences"   sum_k w_k mean_i D(Q_k, R)_i
      mix = "targets"       mean_i D(sum_k w_k Q_k, R)_i

    With R = R^PP (intra), R^PV (image) or R^PT (text). A sample counts where it has every
    modality that the student and the candidate use; mixed targets need the same entries, so there
    it must have the modalities of all candidates.

    Args:
      batch: P, V and T; the teacher's V and T come without gradient.
      term: intra, image or text.
      log_weights: [candidates], log w_k in the order of `config.candidates[term]`.
      student_temperature: tau of R; the targets use `config.teacher_temperature`.
      config: the loss options.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      This device's share of the term, and of each candidate's divergence as "term/candidate" when
      these are what is mixed.
    """
    student, candidates = options.STUDENT[term], tuple(config.candidates[term])
    exclude_self = config.exclude_self_intra if term == "intra" else config.exclude_self_cross
    relate = functools.partial(
        _relate, batch, family=config.relation, exclude_self=exclude_self, axis_name=axis_name
    )

    def share(target: jax.Array, mask: jax.Array) -> jax.Array:
        student_relation = relate(student, temperature=student_temperature, mask=mask)
        rows = relation.divergence(target, student_relation, kind=config.divergence)
        return batch_axis.share_of_mean(rows, mask=mask, axis_name=axis_name)

    if config.mix == "targets":
        mask = _present(batch, student, *candidates)
        targets = [
            relate(name, temperature=config.teacher_temperature, mask=mask) for name in candidates
        ]
        mixture = relation.mix(jnp.stack(targets), log_weights, family=config.relation)
        return share(mixture, mask), {}

    shares = {}
    for name in candidates:
        mask = _present(batch, student, name)
        target = relate(name, temperature=config.teacher_temperature, mask=mask)
        shares[f"{term}/{name}"] = share(target, mask)
    mixed = jnp.sum(jnp.exp(log_weights) * jnp.stack(list(shares.values())))
    return mixed, shares


def _present(batch: Mapping[str, Modality], *relations: str) -> jax.Array:
    """[local_batch] bool, the samples that have every modality of these relations."""
    modalities = sorted(set("".join(relations)))
    return functools.reduce(jnp.logical_and, (batch[modality].mask for modality in modalities))


def _relate(
    batch: Mapping[str, Modality],
    name: str,
    *,
    family: str,
    temperature: jax.typing.ArrayLike,
    exclude_self: bool,
    mask: jax.Array,
    axis_name: str | None,
) -> jax.Array:
    """[local_batch, global_batch], the relation R^XY called `name` = "XY"."""
    rows, columns = (batch[modality].rows for modality in name)
    pairs = {"exclude_self": exclude_self, "mask": mask, "axis_name": axis_name}
    if family == "similarity":
        return relation.log_relation(rows, columns, temperature=temperature, **pairs)
    return relation.distance_relation(rows, columns, metric=family, **pairs)
