# SPDX-License-Identifier: Apache-2.0
"""From points to one token per group: OpenShape's set abstraction, Uni3D's small PointNet."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.kernels import pooling
from mrd_jax.models import grouping, microbatch, norm

# Widths of the shared MLP before its last layer, the same in every size OpenShape released.
HIDDEN = (64, 64)
# Widths of Uni3D's layers before the last, the same in every released size.
POINT_WIDTH, LOCAL_WIDTH, JOINED_WIDTH = 128, 256, 512


def group_points(
    xyz: jax.Array, rgb: jax.Array, centres: jax.Array, index: jax.Array, *, absolute: bool
) -> jax.Array:
    """Describe the points of every group by offset from the centre, position and colour.

    Args:
      xyz: [batch, points, 3].
      rgb: [batch, points, 3].
      centres: [batch, groups, 3].
      index: [batch, groups, group_size], which points belong to each group.
      absolute: whether the position itself is a part (OpenShape) or not (Uni3D).

    Returns:
      [batch, groups, group_size, 9], or 6 channels without positions.
    """
    points = grouping.gather(jnp.concatenate([xyz, rgb.astype(xyz.dtype)], axis=-1), index)
    offsets = points[..., :3] - centres[..., None, :]
    return jnp.concatenate([offsets, points if absolute else points[..., 3:]], axis=-1)


class SetAbstraction(nn.Module):
    """Shared MLP over the points of each ball, then the maximum over the ball (PointNet++).

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
          groups: [batch, groups, group_size, channels] as from `group_points`, an array or
            micro-batches of it.
          train: batch norm by the batch, else by its running statistics.
          axis_name: device axis that the batch is split over; None for one device.

        Returns:
          [batch, groups, features], as `groups`.
        """
        _, count, group_size, channels = groups.shape
        # Two-dimensional, so that every gradient is one plain matrix product.
        x = microbatch.apply(lambda groups: groups.reshape(-1, channels), groups)
        for number, width in enumerate(HIDDEN):
            layer = norm.NormedDense(width, self.dtype, name=f"layer_{number}")
            x = layer(x, train=train, axis_name=axis_name)
        last = f"layer_{len(HIDDEN)}"
        layer = norm.NormedDense(self.features, self.dtype, pool=group_size, name=last)
        x = layer(x, train=train, axis_name=axis_name)
        return microbatch.apply(lambda x: x.reshape(-1, count, self.features), x)


class MiniPointNet(nn.Module):
    """Two shared MLPs; the second one also sees the maximum that its group reached in the first.

    With h the first layer's output, the published order is l = W1 h, g = max l, y = W2 [g; l].
    Nothing stands between the maps, so y = (W2l W1) h + W2g g: the product with g is taken once
    per group, and l is needed for its maximum only (a third of the multiplications less).

    Attributes:
      features: width of a group's token.
      dtype: of the activations.
    """

    features: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, groups: jax.Array, train: bool, axis_name: str | None = None) -> jax.Array:
        """Encode every group; as `SetAbstraction`."""
        _, count, group_size, channels = groups.shape
        options: dict[str, Any] = dict(train=train, axis_name=axis_name)
        x = microbatch.apply(lambda groups: groups.reshape(-1, channels), groups)
        x = norm.NormedDense(POINT_WIDTH, self.dtype, name="layer_0")(x, **options)
        local = _Affine(LOCAL_WIDTH, POINT_WIDTH, name="local")()
        joined = _Affine(JOINED_WIDTH, 2 * LOCAL_WIDTH, name="joined")()
        output = _Affine(self.features, JOINED_WIDTH, name="output")()
        highest = jax.lax.Precision.HIGHEST

        from_peak, from_local = jnp.split(joined.kernel, 2)
        kernel = jnp.matmul(local.kernel, from_local, precision=highest)

        def with_common(x):
            x = x.reshape(-1, group_size, POINT_WIDTH)
            peak = pooling.group_maximum(pooling.product, x, local.kernel).astype(jnp.float32)
            common = jnp.matmul(peak + local.bias, from_peak, precision=highest)
            return x, common + local.bias @ from_local

        x = microbatch.apply(with_common, x)
        layer = norm.GroupNorm(JOINED_WIDTH, self.dtype, name="layer_1")
        factor, offset = layer(x, kernel, bias=joined.bias, **options)

        def tokens(x):
            x, common = x
            kernels = kernel * factor, output.kernel
            found = pooling.group_maximum(_last_layers, (x, common * factor + offset), kernels)
            return (found + output.bias.astype(self.dtype)).reshape(-1, count, self.features)

        return microbatch.apply(tokens, x)


def _last_layers(
    groups: tuple[jax.Array, jax.Array], kernels: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """Two maps of every point with what its group shares, and a ReLU, in between."""
    x, common = groups
    hidden = pooling.product(x, kernels[0]) + common[:, None].astype(x.dtype)
    return pooling.product(nn.relu(hidden), kernels[1])


class _Weights(NamedTuple):
    """Of one linear map: kernel [inputs, features] and bias [features]."""

    kernel: jax.Array
    bias: jax.Array


class _Affine(nn.Module):
    """The parameters of a linear map that is applied in parts."""

    features: int
    inputs: int

    @nn.compact
    def __call__(self) -> _Weights:
        kernel = self.param("kernel", norm.KERNEL_INIT, (self.inputs, self.features))
        return _Weights(kernel, self.param("bias", nn.initializers.zeros, (self.features,)))
