# SPDX-License-Identifier: Apache-2.0
"""Tokenizers, from the points of a group to one token: OpenShape's and Uni3D's small PointNets."""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.kernels import chunked_pooling
from mrd_jax.models import grouping, microbatch, norm

# Widths of the shared MLP before its last layer, the same in every size that OpenShape released.
HIDDEN = (64, 64)
# Widths of Uni3D's layers before the last one, the same in every released size.
POINT_WIDTH, LOCAL_WIDTH, JOINED_WIDTH = 128, 256, 512


def group_points(
    xyz: jax.Array, rgb: jax.Array, centres: jax.Array, index: jax.Array, *, absolute: bool
) -> jax.Array:
    """Gathers the points of every group as offset from the centre, position and colour.

    Args:
      xyz: [batch, points, 3].
      rgb: [batch, points, 3].
      centres: [batch, groups, 3].
      index: [batch, groups, group_size], indices of the points of each group.
      absolute: include the position itself (OpenShape) or not (Uni3D).

    Returns:
      [batch, groups, group_size, 9], or 6 channels without the position.
    """
    points = grouping.gather(jnp.concatenate([xyz, rgb.astype(xyz.dtype)], axis=-1), index)
    offsets = points[..., :3] - centres[..., None, :]
    return jnp.concatenate([offsets, points if absolute else points[..., 3:]], axis=-1)


class SetAbstraction(nn.Module):
    """Shared MLP over the points of each ball, then the maximum over the ball (PointNet++).

    Attributes:
      features: width of a group's token.
      dtype: dtype of the activations.
    """

    features: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, groups: jax.Array, train: bool, axis_name: str | None = None) -> jax.Array:
        """Encodes every group.

        Args:
          groups: [batch, groups, group_size, channels], the output of `group_points`; an array or
            micro-batches.
          train: normalise by the batch; else by the running statistics.
          axis_name: mesh axis that the batch is split over; None for one device.

        Returns:
          [batch, groups, features], an array or micro-batches, as `groups`.
        """
        _, count, group_size, channels = groups.shape
        # Two-dimensional, so that the gradient of every kernel is a single matrix product.
        x = microbatch.apply(lambda groups: groups.reshape(-1, channels), groups)
        for number, width in enumerate(HIDDEN):
            layer = norm.NormedDense(width, self.dtype, name=f"layer_{number}")
            x = layer(x, train=train, axis_name=axis_name)
        last = f"layer_{len(HIDDEN)}"
        layer = norm.NormedDense(self.features, self.dtype, pool=group_size, name=last)
        x = layer(x, train=train, axis_name=axis_name)
        return microbatch.apply(lambda x: x.reshape(-1, count, self.features), x)


class MiniPointNet(nn.Module):
    """Two shared MLPs; the second also takes the maximum of the first one's output over the group.

    With h the output of the first layer, the published order is l = W1 h, g = max l, y = W2 [g; l].
    There is no nonlinearity between the maps, so y = (W2l W1) h + W2g g: the product with g is
    computed once per group, and l is needed for its maximum only (a third fewer multiplications).

    Attributes:
      features: width of a group's token.
      dtype: dtype of the activations.
    """

    features: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, groups: jax.Array, train: bool, axis_name: str | None = None) -> jax.Array:
        """Encodes every group; arguments and result as in `SetAbstraction`."""
        _, count, group_size, channels = groups.shape
        options: dict[str, Any] = dict(train=train, axis_name=axis_name)
        x = microbatch.apply(lambda groups: groups.reshape(-1, channels), groups)
        x = norm.NormedDense(POINT_WIDTH, self.dtype, name="layer_0")(x, **options)
        local = _Affine(LOCAL_WIDTH, POINT_WIDTH, name="local")()
        joined = _Affine(JOINED_WIDTH, 2 * LOCAL_WIDTH, name="joined")()
        output = _Affine(self.features, JOINED_WIDTH, name="output")()
        highest = jax.lax.Precision.HIGHEST

        from_maximum, from_local = jnp.split(joined.kernel, 2)
        kernel = jnp.matmul(local.kernel, from_local, precision=highest)

        def with_common(x):
            x = x.reshape(-1, group_size, POINT_WIDTH)
            product = chunked_pooling.product
            maximum = chunked_pooling.group_maximum(product, x, local.kernel).astype(jnp.float32)
            common = jnp.matmul(maximum + local.bias, from_maximum, precision=highest)
            return x, common + local.bias @ from_local

        x = microbatch.apply(with_common, x)
        layer = norm.GroupBatchNorm(JOINED_WIDTH, self.dtype, name="layer_1")
        factor, offset = layer(x, kernel, bias=joined.bias, **options)

        def tokens(x):
            x, common = x
            kernels, groups = (kernel * factor, output.kernel), (x, common * factor + offset)
            features = chunked_pooling.group_maximum(_last_layers, groups, kernels)
            return (features + output.bias.astype(self.dtype)).reshape(-1, count, self.features)

        return microbatch.apply(tokens, x)


def _last_layers(
    groups: tuple[jax.Array, jax.Array], kernels: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """Applies two linear maps to every point; adds its group's common part and a ReLU between."""
    x, common = groups
    hidden = chunked_pooling.product(x, kernels[0]) + common[:, None].astype(x.dtype)
    return chunked_pooling.product(nn.relu(hidden), kernels[1])


class _Weights(NamedTuple):
    """Kernel [inputs, features] and bias [features] of a linear map."""

    kernel: jax.Array
    bias: jax.Array


class _Affine(nn.Module):
    """Parameters of a linear map that is applied in parts."""

    features: int
    inputs: int

    @nn.compact
    def __call__(self) -> _Weights:
        kernel = self.param("kernel", norm.KERNEL_INIT, (self.inputs, self.features))
        return _Weights(kernel, self.param("bias", nn.initializers.zeros, (self.features,)))
