# SPDX-License-Identifier: Apache-2.0
"""Modalities of a local batch: unit rows of P, V and T, and masks of the samples that have them."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrd_jax.losses import relation


class Modality(NamedTuple):
    """One modality of a local batch.

    Attributes:
      rows: [local_batch, dim], unit norm.
      mask: [local_batch] bool, True for the samples that have this modality.
    """

    rows: jax.Array
    mask: jax.Array


Batch = Mapping[str, Modality]

# Key of the embeddings by a head of their own for the relations, if the student has one: they take
# the place of P in the distillation terms.
RELATION_POINTS = "relation_points"


def from_embeddings(embeddings: Mapping[str, jax.Array], *, dtype: str) -> dict[str, Modality]:
    """Normalises embeddings to P, V and T, and those of a relation head; V and T have no gradient.

    Args:
      embeddings: as in `losses.mrd_loss`.
      dtype: dtype of the unit rows, float32 or bfloat16; the normalisation is in float32 or better.

    Raises:
      ValueError: the shapes disagree.
    """
    shape = embeddings["points"].shape
    names = ("points", "image", "text", *({RELATION_POINTS} & embeddings.keys()))
    for name in names:
        if len(shape) != 2 or embeddings[name].shape != shape:
            raise ValueError(
                f"embeddings[{name!r}] has shape {embeddings[name].shape} and embeddings['points'] "
                f"{shape}; expected [local_batch, dim] for both"
            )

    def unit(values: jax.Array) -> jax.Array:
        rows = relation.unit_rows(values)
        return rows.astype(dtype) if dtype == "bfloat16" else rows

    batch = {
        key: Modality(unit(embeddings[name]), jnp.ones(shape[:1], dtype=bool))
        for key, name in (("P", "points"), (RELATION_POINTS, RELATION_POINTS))
        if name in embeddings
    }
    for letter, name in (("V", "image"), ("T", "text")):
        mask = embeddings[f"has_{name}"].astype(bool)
        # Rows of a missing modality may have any value, nan included.
        rows = unit(jnp.where(mask[:, None], embeddings[name], 0))
        batch[letter] = Modality(jax.lax.stop_gradient(rows), mask)
    return batch


def present(batch: Batch, letters: str) -> jax.Array:
    """Returns the mask of the samples that have all these modalities, [local_batch] bool."""
    return functools.reduce(jnp.logical_and, (batch[letter].mask for letter in letters))
