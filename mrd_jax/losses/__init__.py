# SPDX-License-Identifier: Apache-2.0
"""The MRD objective: L = L_con + lambda_intra L_intra + lambda_image L_image + lambda_text L_text.

Sample i has a point cloud, image features v_i and text features t_i of one frozen CLIP model; the
student encoder embeds its points as p_i. P, V and T are matrices of these as unit rows. A
contrastive term aligns p_i with v_i and t_i; three distillation terms align the student's relations
R^PP, R^PV and R^PT with the teacher's R^VV, R^TT, R^VT and R^TV. `relation` defines the relations
and the divergences between them, `loss_plan` lists those that a config needs, `plain` computes them
from whole matrices, and `blockwise` in memory that does not grow with the global batch.

Source: Multi-modal Relation Distillation for Unified 3D Representation Learning, ECCV 2024.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from mrd_jax.losses import (
    batch_axis,
    blockwise,
    loss_plan,
    mixing,
    modalities,
    options,
    plain,
    temperatures,
)

# Parts that `mrd_loss` always returns; 0 for a term that the config disables.
PARTS = (
    "contrastive_image",
    "contrastive_text",
    "contrastive",
    *options.TERMS,
    "entropy",
    "total",
)


def init_loss_params(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """Initialises the learnable scalars and vectors of the objective.

    Every term has mixing logits, even if it is disabled or static, so that a checkpoint still loads
    when a lambda changes.

    Args:
      config: loss options, `config.loss` of a run.

    Returns:
      A dict with "log_scale", the logarithm of the contrastive scale s; "mixing", the logits a of
      each term, [candidates], 0 for equal weights; and, if they are learnable, "term_mixing", the
      logits b of the terms, "student_log_temperature" and "student_log_temperature_cross".

    Raises:
      ValueError: an option is invalid.
    """
    options.check(config)
    params = {
        "log_scale": jnp.asarray(config.log_scale_init, dtype=jnp.float32),
        "mixing": {
            term: jnp.zeros((len(config.candidates[term]),), dtype=jnp.float32)
            for term in options.TERMS
        },
    }
    return params | mixing.init_term_params(config) | temperatures.init_params(config)


def mixing_weights(
    weights: Mapping[str, Any], config: ml_collections.ConfigDict
) -> dict[str, jax.Array]:
    """Returns the weights of the targets of the active terms, and of the terms, for the metrics.

    A weight near 0 means that the run no longer learns from that target.

    Args:
      weights: as in `mrd_loss`.
      config: loss options, `config.loss` of a run.

    Returns:
      {"weight/term/candidate": scalar}, which sum to 1 over the candidates of a term, and, for
      dynamic weights of the terms, {"weight/term": scalar}, which sum to 1 over the terms; the same
      on every device, not contributions.
    """
    result = {
        f"weight/{term}/{name}": weight
        for term in options.active_terms(config)
        for name, weight in zip(
            config.candidates[term],
            jnp.exp(mixing.log_weights(weights, config, term)),
            strict=True,
        )
    }
    if config.term_weights == "dynamic":
        shares = jnp.exp(mixing.log_term_weights(weights, config))
        names = (f"weight/{term}" for term in options.active_terms(config))
        result |= dict(zip(names, shares, strict=True))
    return result


@jax.named_scope("losses")
def mrd_loss(
    embeddings: Mapping[str, jax.Array],
    weights: Mapping[str, Any],
    config: ml_collections.ConfigDict,
    *,
    lambda_factor: jax.typing.ArrayLike = 1.0,
    axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Computes this device's contribution to the objective and to each of its parts.

      L_con = c_V mean_i InfoNCE(P, V)_i + c_T mean_i InfoNCE(P, T)_i
      L = L_con + lambda_factor sum_term lambda_term v_term L_term + c_H sum_w (log K - H(w))

    with c_V, c_T = image_weight, text_weight and c_H = entropy_weight, over the terms with
    lambda > 0. v is 1, or K times the dynamic weights of the terms; the last sum is over the
    weights of the targets of each term and, if they are dynamic, those of the terms. The sum over
    devices is the value of the objective: differentiate the contribution, then `psum` the
    gradients.

    Args:
      embeddings: points, image, text: [local_batch, dim], normalised here; relation_points, if the
        student has a relation head: its embeddings, of the same shape, which take the place of the
        points in the distillation terms; has_image, has_text:
        [local_batch] bool, samples without a modality are masked in every term that uses it;
        log_scale: scalar, s = exp(log_scale), at most exp(log_scale_max). With several positives,
        image or text is [local_batch, positives, dim] and its mask [local_batch, positives], filled
        slots first; relations use the first. With `config.relation_features` = "mean", image_mean
        and text_mean: [local_batch, dim], which relations use instead.
      weights: loss parameters, those of `init_loss_params` without "log_scale".
      config: loss options, `config.loss` of a run.
      lambda_factor: scalar that multiplies every lambda, see `lambda_schedule`.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      The contribution to the objective, a scalar, and a dict of scalars: `PARTS`; accuracy_image
      and accuracy_text, retrieval accuracy within the batch, for the active contrastive terms; and,
      with `config.mix` = "divergences", the divergence of each candidate, such as "intra/VV".

    Raises:
      ValueError: an option is invalid, or the shapes disagree.
    """
    options.check(config)
    batch = modalities.from_embeddings(
        embeddings, dtype=config.dtype, relation_features=config.relation_features
    )
    plan = loss_plan.make(config, letters=batch)
    scalars = _scalars(embeddings["log_scale"], weights, config)
    rows = _row_values(plan, batch, scalars, config, axis_name)

    def contribution(part: str, required: str) -> jax.Array:
        mask = modalities.present(batch, required)
        return batch_axis.mean_contribution(rows[part], mask=mask, axis_name=axis_name)

    parts = dict.fromkeys(PARTS, jnp.zeros((), dtype=next(iter(rows.values())).dtype))
    for contrast in plan.contrasts:
        for part in (f"contrastive_{contrast.name}", f"accuracy_{contrast.name}"):
            # The upper-case modality has one mask per sample, whatever the number of positives.
            parts[part] = contribution(part, contrast.points_to_teacher.required.upper())
    parts["contrastive"] = (
        config.image_weight * parts["contrastive_image"]
        + config.text_weight * parts["contrastive_text"]
    )
    parts["total"] = parts["contrastive"]
    coefficients = _coefficients(weights, config, lambda_factor)
    for term, log_weights in scalars.log_weights.items():
        divergences = {
            c.part: contribution(c.part, c.student.required) for c in plan.comparisons_of(term)
        }
        if config.mix == "divergences":
            parts |= divergences
            parts[term] = jnp.sum(jnp.exp(log_weights) * jnp.stack(list(divergences.values())))
        else:
            (parts[term],) = divergences.values()
        parts["total"] += coefficients[term] * parts[term]
        parts["entropy"] += _entropy(log_weights, config, axis_name)
    if config.term_weights == "dynamic":
        parts["entropy"] += _entropy(mixing.log_term_weights(weights, config), config, axis_name)
    parts["total"] += parts["entropy"]
    return parts["total"], parts


def _coefficients(
    weights: Mapping[str, Any],
    config: ml_collections.ConfigDict,
    lambda_factor: jax.typing.ArrayLike,
) -> dict[str, Any]:
    """Returns lambda v of each active term, times the factor of the schedule."""
    terms = options.active_terms(config)
    lambdas = {term: config[f"lambda_{term}"] * lambda_factor for term in terms}
    if config.term_weights == "static":
        return lambdas
    shares = jnp.exp(mixing.log_term_weights(weights, config))
    return {
        term: len(terms) * share * lambdas[term] for term, share in zip(terms, shares, strict=True)
    }


def _entropy(
    log_weights: jax.Array, config: ml_collections.ConfigDict, axis_name: str | None
) -> jax.Array:
    """Returns this device's contribution to the regulariser of some weights."""
    # Every device has the same gap, so it is divided by their number.
    return config.entropy_weight * (mixing.entropy_gap(log_weights) / batch_axis.size(axis_name))


def _scalars(
    log_scale: jax.Array, weights: Mapping[str, Any], config: ml_collections.ConfigDict
) -> loss_plan.Scalars:
    terms = options.active_terms(config)
    return loss_plan.Scalars(
        temperatures=temperatures.values(config, weights, log_scale=log_scale, terms=terms),
        log_weights={term: mixing.log_weights(weights, config, term) for term in terms},
    )


def _row_values(
    plan: loss_plan.Plan,
    batch: modalities.Batch,
    scalars: loss_plan.Scalars,
    config: ml_collections.ConfigDict,
    axis_name: str | None,
) -> dict[str, jax.Array]:
    if modalities.RELATION_POINTS in batch:
        # The two heads have no product in common, so the halves of the plan are computed apart.
        relations = {**batch, "P": batch[modalities.RELATION_POINTS]}
        halves = [(plan._replace(comparisons=()), batch), (plan._replace(contrasts=()), relations)]
    else:
        halves = [(plan, batch)]
    local_batch = batch["P"].mask.shape[0]
    global_batch = local_batch * batch_axis.size(axis_name)
    # The largest matrix has a column for each feature that is drawn.
    columns = global_batch * max(m.mask.size // local_batch for m in batch.values())
    run: Callable[..., dict[str, jax.Array]] = plain.row_values
    if options.is_blockwise(config, local_batch=local_batch, global_batch=columns):
        run = functools.partial(blockwise.row_values, block=config.block)
    rows: dict[str, jax.Array] = {}
    for part, samples in halves:
        if part.contrasts or part.comparisons:
            rows |= run(part, samples, scalars, axis_name=axis_name)
    return rows
