# SPDX-License-Identifier: Apache-2.0
"""A random encoder with its model card, small enough to embed in milliseconds."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mrd_jax import models
from mrd_jax.checkpoints import model_card

POINTS, DIM = 128, 24
FIELDS = dict(
    name="point_bert", dim=64, depth=2, heads=1, mlp_dim=96, sa_dim=16, groups=16, group_size=16,
    radius=0.4, out_dim=DIM,
)  # fmt: skip


def tiny_card(**changes: Any) -> model_card.ModelCard:
    """Returns the model card of the encoder with some fields changed."""
    model = models.build_model(FIELDS)
    card = model_card.ModelCard(
        student=model_card.student_of(model),
        size="",
        parameters=model_card.count_parameters(model_card.abstract_variables(model, points=POINTS)),
        teacher="fake/teacher",
        teacher_dim=DIM,
        up_axis="z",
        from_y_up="rotate",
        normalisation="unit_sphere",
        colour_fill=0.4,
        points=POINTS,
        source="mrd_jax",
        source_file="",
        source_sha256="",
        licence="CC0",
    )
    return dataclasses.replace(card, **changes)


@functools.cache
def tiny_variables() -> dict[str, Any]:
    """Returns random parameters and non-initial running statistics, on the host."""
    cloud = jnp.zeros((1, POINTS, 3))
    variables = jax.device_get(
        jax.jit(models.build_model(FIELDS).init)(jax.random.key(0), cloud, cloud)
    )
    rng = np.random.default_rng(0)
    stats = jax.tree.map(
        lambda leaf: rng.uniform(0.5, 1.5, leaf.shape).astype(leaf.dtype), variables["batch_stats"]
    )
    return {"params": variables["params"], "batch_stats": stats}


def random_clouds(count: int, *, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    """Returns random boxes of points and colours that follow the model card."""
    rng = np.random.default_rng(seed)
    clouds = []
    for _ in range(count):
        xyz = rng.uniform(-1, 1, (POINTS, 3)) * rng.uniform(0.1, 1, 3)
        xyz -= xyz.mean(axis=0)
        xyz /= np.linalg.norm(xyz, axis=1).max()
        rgb = rng.uniform(0, 1, (1, 3)) * rng.uniform(0.8, 1, (POINTS, 3))
        clouds.append((xyz.astype(np.float32), rgb.astype(np.float32)))
    return clouds
