# SPDX-License-Identifier: Apache-2.0
"""Softness of the relations of a held-out split: the teacher's, and the student's that follow them.

A student whose rows are much flatter or sharper than their targets has the wrong temperature, and a
target whose rows are one-hot is a second contrastive loss.
"""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from mrd_jax.evaluation import held_out_split
from mrd_jax.evaluation.metrics import classification, neighbourhood
from mrd_jax.losses import loss_plan, options, temperatures

# Shapes that are measured, at most; batches are as large as in training where the split allows it.
SHAPES = 2_048


def measure(
    embeddings: np.ndarray,
    held_out: held_out_split.HeldOut,
    config: ConfigDict,
    *,
    weights: Mapping[str, Any],
    batch_size: int,
) -> dict[str, float]:
    """Measures the relations of every comparison of the objective.

    Images are the mean of a shape's image features, texts its name; training draws one of each, or
    uses the means of both (`config.relation_features`).

    Args:
      embeddings: [count, dim], embeddings of the split that the relations are computed from.
      held_out: held-out split.
      config: loss options, `config.loss` of a run, with the teacher's temperatures solved for.
      weights: loss parameters; reads log_scale and the temperatures.
      batch_size: number of samples of a relation matrix.

    Returns:
      "relation/TERM/TARGET/WHAT": WHAT is teacher_neighbours, teacher_diagonal, student_neighbours
      or student_diagonal, see `mrd_jax.evaluation.metrics.neighbourhood`. Comparisons whose
      modalities fewer than two shapes have are left out, as are relations without a temperature.
    """
    if config.relation != "similarity":
        return {}
    rows = {
        "P": embeddings,
        "V": held_out.image_features,
        "T": _name_features(held_out),
    }
    rows = {letter: classification.normalise(values) for letter, values in rows.items()}
    terms = options.active_terms(config)
    learned = {name: weights[name] for name in temperatures.LEARNED.values() if name in weights}
    log_scale = jnp.asarray(jax.device_get(weights["log_scale"]))
    scales = temperatures.values(config, learned, log_scale=log_scale, terms=terms)
    result = {}
    for comparison in loss_plan.make(config).comparisons:
        letters = {"P"} & set(comparison.student.name) | set(comparison.student.required)
        batches = _batches(rows, letters, batch_size=batch_size)
        for target in comparison.targets:
            for side, relation in (("teacher", target), ("student", comparison.student)):
                if not batches:
                    continue
                left, right = (rows[letter] for letter in relation.name)
                soft = neighbourhood.softness(
                    [left[batch] @ right[batch].T for batch in batches],
                    temperature=float(scales[relation.temperature]),
                    exclude_self=relation.exclude_self,
                )
                name = f"relation/{comparison.term}/{target.name}/{side}"
                result[f"{name}_neighbours"] = soft.neighbours
                result[f"{name}_diagonal"] = soft.diagonal
    return result


def _name_features(held_out: held_out_split.HeldOut) -> np.ndarray:
    """Returns the text feature of each shape's name, [count, dim]; zeros for one without a name."""
    features = held_out.text_features[np.maximum(held_out.name_index, 0)]
    return np.where(held_out.name_index[:, None] >= 0, features, 0)


def _batches(
    rows: Mapping[str, np.ndarray], letters: set[str], *, batch_size: int
) -> list[np.ndarray]:
    """Returns indices of batches of the shapes that have these modalities, in random order."""
    valid = np.logical_and.reduce([rows[letter].any(axis=1) for letter in letters])
    order = np.random.default_rng(0).permutation(np.flatnonzero(valid))[:SHAPES]
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    # A smaller last batch has fewer neighbours to offer.
    return [batch for batch in batches if len(batch) == min(batch_size, len(order)) > 1]
