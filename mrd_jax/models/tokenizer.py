# SPDX-License-Identifier: Apache-2.0
"""From points to one token per group: PointNet++'s set abstraction, as OpenShape uses it."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.models import grouping, norm

# Widths of the shared MLP before its last layer, the same in every size OpenShape released.
HIDDEN = (64, 64)


def group_points(
    xyz: jax.Array, rgb: jax.Array, centres: jax.Array, *, radius: float, group_size: int
) -> jax.Array:
    """Describe the points of every ball by offset from the centre, position and colour.

    Args:
      xyz: [batch, points, 3].
      rgb: [batch, points, 3].
      centres: [batch, groups, 3].
      radius: of the balls, in the units of the points.
      group_size: points per ball.

    Returns:
      [batch, groups, group_size, 9].
    """
    index = grouping.ball_query(xyz, centres, radius=radius, count=group_size)
    points = grouping.gather(jnp.concatenate([xyz, rgb.astype(xyz.dtype)], axis=-1), index)
    return jnp.concatenate([points[..., :3] - centres[..., None, :], points], axis=-1)


class SetAbstraction(nn.Module):
    """Shared MLP over the points of each ball, then the maximum over the ball.

    Attributes:
      features: width of a group's token.
      dtype: of the activations.
    """

    features: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, groups: jax.Array, train: bool, axis_name: str | None = None) -> jax.Array:
        """Encode every group.

        Args:
          groups: [batch, groups, group_size, channels] as from `group_points`.
          train: batch norm by the batch, else by its running statistics.
          axis_name: device axis that the batch is split over; None for one device.

        Returns:
          [batch, groups, features].
        """
        batch, count, group_size, channels = groups.shape
        # Two-dimensional, so that every gradient is one plain matrix product.
        x = groups.reshape(-1, channels)
        for number, width in enumerate(HIDDEN):
            layer = norm.NormedDense(width, self.dtype, name=f"layer_{number}")
            x = layer(x, train=train, axis_name=axis_name)
        last = f"layer_{len(HIDDEN)}"
        layer = norm.NormedDense(self.features, self.dtype, pool=group_size, name=last)
        return layer(x, train=train, axis_name=axis_name).reshape(batch, count, -1)
