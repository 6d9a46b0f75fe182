# SPDX-License-Identifier: Apache-2.0
"""The MRD objective: L = L_con + lambda_intra L_intra + lambda_image L_image + lambda_text L_text.

A sample i has a point cloud, image features v_i and text features t_i of one frozen CLIP model;
the student gives p_i. P, V and T are their unit rows. A contrastive term aligns p_i with v_i and
t_i; three distillation terms make the student's relations R^PP, R^PV and R^PT follow the teacher's
R^VV, R^TT, R^VT and R^TV, which `relation` defines together with the divergences between them.
`plan` says which of these a config asks for; `plain` computes them from whole matrices, `blockwise`
in flat memory.

Source: Multi-modal Relation Distillation for Unified 3D Representation Learning, ECCV 2024.
"""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import ml_collections

from mrd_jax.losses import batch_axis, blockwise, loss_plan, mixing, modalities, options, plain

# The parts that `mrd_loss` always returns, 0 where the config switches a term off.
PARTS = (
    "contrastive_image",
    "contrastive_text",
    "contrastive",
    *options.TERMS,
    "entropy",
    "total",
)


def init_loss_params(config: ml_collections.ConfigDict) -> dict[str, Any]:
    """The learnable scalars and vectors of the objective, at their initial values.

    Every term has its mixing logits, also while it is off or static, so that a checkpoint still
    loads when a lambda changes.

    Args:
      config: the loss options, `config.loss` of an experiment.

    Returns:
      "log_scale", the logarithm of the contrastive scale s; "mixing", the logits a of each term,
      [candidates], 0 for equal weights; "student_log_temperature" if that is learnable.

    Raises:
      ValueError: an option has no meaning.
    """
    options.check(config)
    params = {
        "log_scale": jnp.asarray(config.log_scale_init, dtype=jnp.float32),
        "mixing": {
            term: jnp.zeros((len(config.candidates[term]),), dtype=jnp.float32)
            for term in options.TERMS
        },
    }
    if config.learn_student_temperature:
        log_temperature = math.log(config.student_temperature)
        params["student_log_temperature"] = jnp.asarray(log_temperature, dtype=jnp.float32)
    return params


def mixing_weights(
    weights: Mapping[str, Any], config: ml_collections.ConfigDict
) -> dict[str, jax.Array]:
    """The weights w_k of the active terms, for the log: a run that lost a teacher shows here.

    Args:
      weights: as in `mrd_loss`.
      config: the loss options.

    Returns:
      {"weight/term/candidate": scalar}, the same on every device (values, not shares).
    """
    return {
        f"weight/{term}/{name}": weight
        for term in options.active_terms(config)
        for name, weight in zip(
            config.candidates[term],
            jnp.exp(mixing.log_weights(weights, config, term)),
            strict=True,
        )
    }


@jax.named_scope("losses")
def mrd_loss(
    embeddings: Mapping[str, jax.Array],
    weights: Mapping[str, Any],
    config: ml_collections.ConfigDict,
    *,
    axis_name: str | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """This device's share of the objective, and of each of its parts.

      L_con = c_V mean_i InfoNCE(P, V)_i + c_T mean_i InfoNCE(P, T)_i
      L = L_con + sum_term lambda_term L_term + c_H sum_term (log K - H(w_term))

    with c_V, c_T = image_weight, text_weight and c_H = entropy_weight, over the terms with
    lambda > 0. The sum over devices is the value; differentiate the share, `psum` the gradients.

    Args:
      embeddings: points, image, text: [local_batch, dim], normalised here; has_image, has_text:
        [local_batch] bool, samples without a modality are left out wherever it is used;
        log_scale: scalar, s = exp(log_scale), at most exp(log_scale_max).
      weights: "mixing" and "student_log_temperature" as `init_loss_params` makes them.
      config: the loss options, `config.loss` of an experiment.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      The scalar, and a dict of scalars: `PARTS`; for each contrastive term that is on, the
      accuracy_image or accuracy_text of retrieval within the batch; for each candidate whose
      divergence is mixed, that divergence, as in "intra/VV".

    Raises:
      ValueError: an option has no meaning, or the shapes disagree.
    """
    options.check(config)
    batch = modalities.from_embeddings(embeddings, dtype=config.dtype)
    plan = loss_plan.make(config)
    scalars = _scalars(embeddings["log_scale"], weights, config)
    rows = _row_values(plan, batch, scalars, config, axis_name)

    def share(part: str, present: str) -> jax.Array:
        mask = modalities.present(batch, present)
        return batch_axis.share_of_mean(rows[part], mask=mask, axis_name=axis_name)

    parts = dict.fromkeys(PARTS, jnp.zeros((), dtype=next(iter(rows.values())).dtype))
    for name, which, _ in plan.contrasts:
        for part in (f"contrastive_{name}", f"accuracy_{name}"):
            parts[part] = share(part, which.present)
    parts["contrastive"] = (
        config.image_weight * parts["contrastive_image"]
        + config.text_weight * parts["contrastive_text"]
    )
    parts["total"] = parts["contrastive"]
    for term, log_weights in scalars.log_weights.items():
        divergences = {c.part: share(c.part, c.student.present) for c in plan.of(term)}
        if config.mix == "divergences":
            parts |= divergences
            parts[term] = jnp.sum(jnp.exp(log_weights) * jnp.stack(list(divergences.values())))
        else:
            (parts[term],) = divergences.values()
        parts["total"] += config[f"lambda_{term}"] * parts[term]
        # The same on every device: each takes its part, so that the sum counts it once.
        gap = mixing.entropy_gap(log_weights) / batch_axis.size(axis_name)
        parts["entropy"] += config.entropy_weight * gap
    parts["total"] += parts["entropy"]
    return parts["total"], parts


def _scalars(
    log_scale: jax.Array, weights: Mapping[str, Any], config: ml_collections.ConfigDict
) -> loss_plan.Scalars:
    # A select and not a minimum: at the very limit the scale still gets its whole gradient.
    log_scale = jnp.where(log_scale > config.log_scale_max, config.log_scale_max, log_scale)
    if config.learn_student_temperature:
        student = jnp.exp(weights["student_log_temperature"])
    else:
        student = jnp.asarray(config.student_temperature, dtype=log_scale.dtype)
    return loss_plan.Scalars(
        contrast=jnp.exp(-log_scale),
        student=student,
        teacher=jnp.asarray(config.teacher_temperature, dtype=log_scale.dtype),
        log_weights={
            term: mixing.log_weights(weights, config, term) for term in options.active_terms(config)
        },
    )


def _row_values(
    plan: loss_plan.Plan,
    batch: modalities.Batch,
    scalars: loss_plan.Scalars,
    config: ml_collections.ConfigDict,
    axis_name: str | None,
) -> dict[str, jax.Array]:
    local_batch = batch["P"].mask.shape[0]
    global_batch = local_batch * batch_axis.size(axis_name)
    if options.is_blockwise(config, local_batch=local_batch, global_batch=global_batch):
        return blockwise.row_values(plan, batch, scalars, block=config.block, axis_name=axis_name)
    return plain.row_values(plan, batch, scalars, axis_name=axis_name)
