# SPDX-License-Identifier: Apache-2.0
"""Point-cloud augmentation inside the jitted step, with one random key per sample."""

import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

# Every transformation has its own key, so that enabling one does not change the others.
DRAWS = (
    "window",
    "dropout_ratio",
    "dropout",
    "scale",
    "shift",
    "rotate",
    "rotate_z",
    "mirror",
    "jitter",
    "color_jitter",
    "color_drop",
)


@jax.named_scope("augment")
def augment(
    batch: Mapping[str, jax.Array], config: ConfigDict, *, keys: jax.Array, num_points: int
) -> tuple[jax.Array, jax.Array]:
    """Augments a batch of point clouds for training.

    Takes a random window of each record's points and transforms it. Order and ranges follow
    OpenShape: dropout, scale, shift, small rotations, rotation about the vertical axis, colour
    drop; mirror, jitter and colour jitter are additions, off by default. The result of a sample
    depends on its own key only, not on the rest of the batch or the number of devices.

    Args:
      batch: has xyz [batch, points, 3] and rgb [batch, points, 3] in 0..255.
      config: `config.augment` of a run; a field at its neutral value disables its transformation.
      keys: [batch], random keys from `batch_spec.sample_keys`.
      num_points: number of points per augmented cloud. The points of a record are shuffled when it
        is prepared, so any circular window is a uniform sample of the surface.

    Returns:
      xyz float32 [batch, num_points, 3] and rgb float32 [batch, num_points, 3] in 0..1.

    Raises:
      ValueError: the records have fewer than num_points points.
    """
    _check_points(batch["xyz"].shape[1], num_points)

    def augment_sample(
        xyz: jax.Array, rgb: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        draws = dict(zip(DRAWS, jax.random.split(key, len(DRAWS)), strict=True))
        start = jax.random.randint(draws["window"], (), 0, xyz.shape[0])
        xyz = _window(xyz, start, num_points).astype(jnp.float32)
        rgb = _window(rgb, start, num_points).astype(jnp.float32) / 255.0
        return _move(xyz, config, draws), _recolor(rgb, config, draws)

    return jax.vmap(augment_sample)(batch["xyz"], batch["rgb"], keys)


def plain(
    batch: Mapping[str, Any], *, num_points: int, window: jax.typing.ArrayLike = 0
) -> tuple[jax.Array, jax.Array]:
    """Cuts point clouds for evaluation, without augmentation.

    Args:
      batch: has xyz [batch, points, 3] and rgb [batch, points, 3] in 0..255.
      num_points: number of points per cloud that is returned.
      window: index of the window of `num_points` consecutive points; 0 starts at the first point.
        A window that would exceed the record is shifted to its last points.

    Returns:
      xyz float32 [batch, num_points, 3] and rgb float32 [batch, num_points, 3] in 0..1.

    Raises:
      ValueError: the records have fewer than num_points points.
    """
    _check_points(batch["xyz"].shape[1], num_points)

    def cut(values: jax.Array) -> jax.Array:
        start = window * num_points
        return jax.lax.dynamic_slice_in_dim(values, start, num_points, axis=1).astype(jnp.float32)

    return cut(batch["xyz"]), cut(batch["rgb"]) / 255.0


def _check_points(points: int, num_points: int) -> None:
    if not 0 < num_points <= points:
        raise ValueError(
            f"num_points is {num_points}, but the batch has {points} points per cloud; lower "
            "config.model.points, or prepare records with more points"
        )


def _window(values: jax.Array, start: jax.Array, count: int) -> jax.Array:
    """Returns the rows start, start + 1, ... of values, wrapping around; [count, 3]."""
    wrapped = jnp.concatenate([values, values[:count]])
    return jax.lax.dynamic_slice_in_dim(wrapped, start, count)


def _move(xyz: jax.Array, config: ConfigDict, draws: Mapping[str, jax.Array]) -> jax.Array:
    """Applies the transformations of xyz [points, 3]."""
    if config.dropout_max > 0:
        ratio = jax.random.uniform(draws["dropout_ratio"], maxval=config.dropout_max)
        dropped = jax.random.uniform(draws["dropout"], (xyz.shape[0], 1)) < ratio
        # Positions only: as in OpenShape and Uni3D, a dropped point keeps its colour.
        xyz = jnp.where(dropped, xyz[:1], xyz)
    if config.mirror > 0:
        mirrored = jax.random.uniform(draws["mirror"]) < config.mirror
        xyz = jnp.where(mirrored, xyz * jnp.array([-1.0, 1.0, 1.0]), xyz)
    low, high = config.scale
    if (low, high) != (1, 1):
        xyz = xyz * jax.random.uniform(draws["scale"], minval=low, maxval=high)
    if config.shift > 0:
        xyz = xyz + jax.random.uniform(
            draws["shift"], (3,), minval=-config.shift, maxval=config.shift
        )
    if config.rotate_sigma > 0:
        angles = config.rotate_sigma * jax.random.normal(draws["rotate"], (3,))
        angles = jnp.clip(angles, -config.rotate_clip, config.rotate_clip)
        for axis in range(3):
            xyz = _rotate(xyz, axis, angles[axis])
    if config.rotate_z > 0:
        limit = math.radians(config.rotate_z)
        xyz = _rotate(xyz, 2, jax.random.uniform(draws["rotate_z"], minval=-limit, maxval=limit))
    if config.jitter_sigma > 0:
        xyz = xyz + config.jitter_sigma * jax.random.normal(draws["jitter"], xyz.shape)
    return xyz


def _rotate(xyz: jax.Array, axis: int, angle: jax.Array) -> jax.Array:
    """Rotates xyz [points, 3] about axis 0, 1 or 2 by an angle in radians, right-handed."""
    # Not a matrix product, which would run in reduced precision on TPU.
    sin, cos = jnp.sin(angle), jnp.cos(angle)
    first, second = xyz[:, (axis + 1) % 3], xyz[:, (axis + 2) % 3]
    rotated = [xyz[:, axis], cos * first - sin * second, sin * first + cos * second]
    return jnp.stack([rotated[(column - axis) % 3] for column in range(3)], axis=-1)


def _recolor(rgb: jax.Array, config: ConfigDict, draws: Mapping[str, jax.Array]) -> jax.Array:
    """Applies the transformations of rgb [points, 3] in 0..1."""
    if config.color_jitter > 0:
        limit = config.color_jitter
        shift = jax.random.uniform(draws["color_jitter"], (3,), minval=-limit, maxval=limit)
        rgb = jnp.clip(rgb + shift, 0.0, 1.0)
    if config.color_drop > 0:
        dropped = jax.random.uniform(draws["color_drop"]) < config.color_drop
        rgb = jnp.where(dropped, config.color_fill, rgb)
    return rgb
