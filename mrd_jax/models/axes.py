# SPDX-License-Identifier: Apache-2.0
"""Vertical axis of the clouds that an encoder takes, and its change by the weights.

Clouds have z up everywhere in this project. Some released encoders take y up: Uni3D's, and
OpenShape's students of CLIP ViT-B/32 and ViT-L/14.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np

CHOICES = ("y", "z")

# Kernels that read coordinates, by architecture -> first rows of the coordinates of a point.
_COORDINATES: dict[str, dict[str, tuple[int, ...]]] = {
    "point_bert": {"params/tokenizer/layer_0/kernel": (0, 3), "params/lift/kernel": (0,)},
    "uni3d": {"params/tokenizer/layer_0/kernel": (0,), "params/position_hidden/kernel": (0,)},
}


def to_y_up(xyz: jax.Array, *, convention: str) -> jax.Array:
    """Turns clouds with z up to y up.

    Args:
      xyz: [..., 3], z up.
      convention: how they were converted from y up, "rotate" (x, -z, y) or "swap" (x, z, y).

    Returns:
      [..., 3], y up.
    """
    sign = -1 if convention == "rotate" else 1
    return jnp.stack([xyz[..., 0], xyz[..., 2], sign * xyz[..., 1]], axis=-1)


def weights_for_y_up(
    variables: Mapping[str, Any], *, architecture: str, convention: str
) -> dict[str, Any]:
    """Converts the weights of an encoder of clouds with z up for the same clouds with y up.

    Exact: the rows of the kernels that read coordinates are exchanged and negated.

    Args:
      variables: params and batch_stats.
      architecture: `name` of the student.
      convention: as in `to_y_up`.

    Raises:
      ValueError: the architecture has no such table.
    """
    sign = -1 if convention == "rotate" else 1
    return _turn(variables, architecture, lambda x, y, z: (x, z, sign * y))


def weights_for_z_up(
    variables: Mapping[str, Any], *, architecture: str, convention: str
) -> dict[str, Any]:
    """Converts the weights of an encoder of clouds with y up; the inverse of `weights_for_y_up`."""
    sign = -1 if convention == "rotate" else 1
    return _turn(variables, architecture, lambda x, y, z: (x, sign * z, y))


def _turn(variables: Mapping[str, Any], architecture: str, turn: Callable) -> dict[str, Any]:
    """Turns the rows of every kernel that reads coordinates."""
    if architecture not in _COORDINATES:
        raise ValueError(
            f"the kernels of {architecture} that read coordinates are not known; expected one of "
            f"{sorted(_COORDINATES)}"
        )
    leaves = flax.traverse_util.flatten_dict(dict(variables), sep="/")
    for path, firsts in _COORDINATES[architecture].items():
        kernel = np.array(leaves[path])
        for first in firsts:
            kernel[first : first + 3] = np.stack(turn(*kernel[first : first + 3]))
        leaves[path] = kernel
    return flax.traverse_util.unflatten_dict(leaves, sep="/")
