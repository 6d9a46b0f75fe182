# SPDX-License-Identifier: Apache-2.0
"""Modalities of a local batch: unit rows of P, V and T, and masks of the samples that have them."""

import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from mrd_jax.losses import relation

# Letters of the features that contrastive terms use, by those of the features that relations use,
# where the two differ.
DRAWN = {"V": "v", "T": "t"}
# Field of the embeddings for each teacher modality.
_NAMES = {"V": "image", "T": "text"}


class Modality(NamedTuple):
    """One modality of a local batch.

    Attributes:
      rows: [local_batch, dim], unit norm; [local_batch, positives, dim] for several features.
      mask: [local_batch] or [local_batch, positives] bool, True for the features that exist.
    """

    rows: jax.Array
    mask: jax.Array


Batch = Mapping[str, Modality]

# Key of the embeddings by a head of their own for the relations, if the student has one: they take
# the place of P in the distillation terms.
RELATION_POINTS = "relation_points"


def from_embeddings(
    embeddings: Mapping[str, jax.Array], *, dtype: str, relation_features: str = "drawn"
) -> dict[str, Modality]:
    """Normalises embeddings to P, V and T, and those of a relation head; V and T have no gradient.

    Args:
      embeddings: as in `losses.mrd_loss`.
      dtype: dtype of the unit rows, float32 or bfloat16; the normalisation is in float32 or better.
      relation_features: V and T are the features that are "drawn", the first of several, or their
        "mean".

    Returns:
      Modalities by letter: P, V, T; and v or t, the drawn features, if they are not V or T.

    Raises:
      ValueError: the shapes disagree, or the means are missing.
    """
    _check_shapes(embeddings)

    def unit(values: jax.Array) -> jax.Array:
        rows = relation.unit_rows(values)
        return rows.astype(dtype) if dtype == "bfloat16" else rows

    def constant(values: jax.Array, mask: jax.Array) -> Modality:
        # Rows of a missing modality may have any value, nan included.
        rows = unit(jnp.where(mask[..., None], values, 0))
        return Modality(jax.lax.stop_gradient(rows), mask)

    batch = {
        key: Modality(unit(embeddings[name]), jnp.ones(embeddings[name].shape[:1], dtype=bool))
        for key, name in (("P", "points"), (RELATION_POINTS, RELATION_POINTS))
        if name in embeddings
    }
    for letter, name in _NAMES.items():
        drawn = constant(embeddings[name], embeddings[f"has_{name}"].astype(bool))
        values, mask = of_relations(embeddings, name, relation_features=relation_features)
        if values is embeddings[name]:
            batch[letter] = drawn
        else:
            batch[letter] = constant(values, mask.astype(bool))
            batch[DRAWN[letter]] = drawn
    return batch


def of_relations(
    embeddings: Mapping[str, Any], name: str, *, relation_features: str
) -> tuple[Any, Any]:
    """Returns the features of a teacher modality that relations use, and their mask.

    Args:
      embeddings: embeddings or a batch; jax or numpy arrays.
      name: image or text.
      relation_features: "drawn" or "mean", as in `from_embeddings`.

    Returns:
      [local_batch, dim] and [local_batch].

    Raises:
      ValueError: the means are missing.
    """
    values, mask = embeddings[name], embeddings[f"has_{name}"]
    if values.ndim == 3:
        values, mask = values[:, 0], mask[:, 0]
    if relation_features == "drawn":
        return values, mask
    if f"{name}_mean" not in embeddings:
        raise ValueError(
            f"config.loss.relation_features is {relation_features!r}, but there is no "
            f"{name}_mean beside {name}; load batches with the same config"
        )
    return embeddings[f"{name}_mean"], mask


def _check_shapes(embeddings: Mapping[str, jax.Array]) -> None:
    """Checks that all features have the shape of the points, and masks that of their features."""
    shape = embeddings["points"].shape
    for name in ("points", *({RELATION_POINTS} & embeddings.keys()), *_NAMES.values()):
        found = embeddings[name].shape
        one_each = (
            (*found[:1], *found[2:]) if name in _NAMES.values() and len(found) == 3 else found
        )
        if len(shape) != 2 or one_each != shape:
            raise ValueError(
                f"embeddings[{name!r}] has shape {found} and embeddings['points'] {shape}; "
                "expected [local_batch, dim]; features may be [local_batch, positives, dim]"
            )
    for name in _NAMES.values():
        mask, expected = embeddings[f"has_{name}"].shape, embeddings[name].shape[:-1]
        if mask != expected:
            raise ValueError(
                f"embeddings['has_{name}'] has shape {mask}; expected {expected}, one mask per "
                f"feature of embeddings[{name!r}]"
            )
        mean = f"{name}_mean"
        if mean in embeddings and embeddings[mean].shape != shape:
            raise ValueError(
                f"embeddings[{mean!r}] has shape {embeddings[mean].shape}; expected {shape}"
            )


def present(batch: Batch, letters: str) -> jax.Array:
    """Returns the mask of the samples that have all these modalities, [local_batch] bool."""
    return functools.reduce(jnp.logical_and, (batch[letter].mask for letter in letters))
