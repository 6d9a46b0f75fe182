# SPDX-License-Identifier: Apache-2.0
"""The local batch as the losses see it: P, V and T, each with the rows that exist."""

import functools
from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp

from mrd_jax.losses import relation


class Modality(NamedTuple):
    """One modality of the local batch: [local_batch, dim] unit rows, and which rows exist."""

    rows: jax.Array
    mask: jax.Array


Batch = Mapping[str, Modality]


def from_embeddings(embeddings: Mapping[str, jax.Array], *, dtype: str) -> dict[str, Modality]:
    """P, V and T with unit rows; the teacher's without gradient.

    Args:
      embeddings: as in `losses.mrd_loss`.
      dtype: of the unit rows, float32 or bfloat16; they are normalised in float32 or better.

    Raises:
      ValueError: the shapes disagree.
    """
    shape = embeddings["points"].shape
    for name in ("points", "image", "text"):
        if len(shape) != 2 or embeddings[name].shape != shape:
            raise ValueError(
                f"embeddings[{name!r}] has shape {embeddings[name].shape}, embeddings['points'] "
                f"{shape}; expected [local_batch, dim] for both"
            )

    def unit(values: jax.Array) -> jax.Array:
        rows = relation.unit_rows(values)
        return rows.astype(dtype) if dtype == "bfloat16" else rows

    batch = {"P": Modality(unit(embeddings["points"]), jnp.ones(shape[:1], dtype=bool))}
    for letter, name in (("V", "image"), ("T", "text")):
        mask = embeddings[f"has_{name}"].astype(bool)
        # What a record without this modality carries may be anything, nan included.
        rows = unit(jnp.where(mask[:, None], embeddings[name], 0))
        batch[letter] = Modality(jax.lax.stop_gradient(rows), mask)
    return batch


def present(batch: Batch, letters: str) -> jax.Array:
    """[local_batch] bool, the samples that have every one of these modalities."""
    return functools.reduce(jnp.logical_and, (batch[letter].mask for letter in letters))
