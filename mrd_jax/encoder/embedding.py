# SPDX-License-Identifier: Apache-2.0
"""Embedding of records on one device, as used by evaluation."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from ml_collections import ConfigDict

from mrd_jax.checkpoints import model_card
from mrd_jax.data import augment
from mrd_jax.models import axes

# Embeddings of a student with a head of its own for the relations: by either head, or the
# normalised sum of their unit embeddings.
HEADS = ("contrastive", "relation", "mean")


def embed_step(
    variables: dict[str, Any],
    batch: dict[str, jax.Array],
    *,
    model: nn.Module,
    config: ConfigDict,
) -> jax.Array:
    """Embeds this device's rows of a batch, without augmentation.

    If records have more points than the encoder takes, it can be evaluated on several disjoint
    subsets of the points (`config.eval_windows`), whose unit embeddings are averaged.

    Args:
      variables: `params` and `batch_stats` of the encoder.
      batch: `xyz` and `rgb` of the records, each [local_batch, points, 3].
      model: Flax module of the encoder.
      config: config of the run; reads eval_windows and model.points.

    Returns:
      [local_batch, dim] float32, unit norm; [local_batch, heads, dim] if the model has `all_heads`.
    """

    def embed(window: jax.Array) -> jax.Array:
        xyz, rgb = augment.plain(batch, num_points=config.model.points, window=window)
        rows: Any = model.apply(variables, xyz, rgb)
        return normalise(rows.astype(jnp.float32))

    windows = jax.lax.map(embed, jnp.arange(config.eval_windows))
    return normalise(jnp.mean(windows, axis=0))


def embed_clouds(
    variables: Mapping[str, Any],
    xyz: jax.Array,
    rgb: jax.Array,
    *,
    model: nn.Module,
    card: model_card.ModelCard,
    head: str = "contrastive",
) -> jax.Array:
    """Embeds point clouds that follow a model card, as the module expects them.

    Args:
      variables: `params` and `batch_stats` of the encoder.
      xyz: [batch, points, 3], z up.
      rgb: [batch, points, 3].
      model: Flax module of the encoder.
      card: its model card.
      head: one of `HEADS`; "contrastive" for an encoder with one head.

    Returns:
      [batch, dim] float32, unit norm.
    """
    if head != "contrastive":
        model = model.clone(all_heads=True)
    if card.module_up_axis == "y":
        xyz = axes.to_y_up(xyz, convention=card.from_y_up)
    rows: Any = model.apply(variables, xyz, rgb)
    return choose_head(normalise(rows), head)


def choose_head(rows: Any, head: str) -> Any:
    """Returns the embeddings by one head, or their mean direction.

    Args:
      rows: [count, heads, dim], unit norm, numpy or jax; or [count, dim] by the only head.
      head: one of `HEADS`.

    Returns:
      [count, dim], unit norm.
    """
    if rows.ndim == 2:
        return rows
    if head != "mean":
        return rows[:, HEADS.index(head)]
    total = rows.sum(axis=1)
    return total / (total * total).sum(axis=-1, keepdims=True) ** 0.5


def normalise(rows: jax.Array) -> jax.Array:
    """Divides rows, [..., dim], by their Euclidean norm."""
    return rows / jnp.linalg.norm(rows, axis=-1, keepdims=True)
