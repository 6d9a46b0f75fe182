# SPDX-License-Identifier: Apache-2.0
"""Linear map with batch norm folded into it, statistics shared by all devices."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.kernels import pooling
from mrd_jax.models import microbatch

# PyTorch's defaults, which the released checkpoints were trained with.
EPSILON = 1e-5
MOMENTUM = 0.9
# Uniform in +-1/sqrt(fan_in): the peers' starting point (torch.nn.Linear and torch.nn.Conv).
KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


class _Normed(nn.Module):
    """A linear map whose batch norm is a factor and an offset of its columns.

    Attributes:
      features: columns of the result.
      dtype: of the product; moments and statistics are float32.
    """

    features: int
    dtype: jax.typing.DTypeLike = jnp.float32

    def fold(
        self, statistics: microbatch.Statistics | None, *, bias: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Give the norm's factor and offset, and keep the running statistics.

        Args:
          statistics: of the batch's products without bias, on all devices; None takes the running
            statistics.
          bias: [features] of the map.

        Returns:
          [features], [features]: relu(product * factor + offset) is the layer.
        """
        scale = self.param("scale", nn.initializers.ones, (self.features,))
        shift = self.param("shift", nn.initializers.zeros, (self.features,))
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, (self.features,))
        running_var = self.variable("batch_stats", "var", jnp.ones, (self.features,))
        mean, var = running_mean.value - bias, running_var.value
        if statistics is not None:
            mean, var = statistics.mean, statistics.var
            if not self.is_initializing():
                unbiased = var * (statistics.count / max(statistics.count - 1, 1))
                running_mean.value = MOMENTUM * running_mean.value + (1 - MOMENTUM) * (mean + bias)
                running_var.value = MOMENTUM * running_var.value + (1 - MOMENTUM) * unbiased
        # The bias cancels against the mean of the batch; only the running mean contains it.
        factor = scale * jax.lax.rsqrt(var + EPSILON)
        return factor, shift - mean * factor


class NormedDense(_Normed):
    """`relu(batch_norm(x @ kernel + bias))` without ever forming the normalised product.

    The statistics of `x @ kernel` follow from the first two moments of `x`:
    mean = E[x] kernel and variance = kernel^T Cov[x] kernel. So the norm becomes a factor and an
    offset of the kernel's columns, known before the product is taken. A maximum over consecutive
    rows commutes with norm and ReLU once columns of negative scale are negated, so with `pool`
    both act on the pooled rows only.

    Attributes:
      features: columns of the result.
      dtype: of the product; moments and statistics are float32.
      pool: maximum over this many consecutive rows; None keeps every row.
    """

    pool: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, axis_name: str | None = None) -> jax.Array:
        """Apply the layer.

        Args:
          x: [rows, channels], an array or micro-batches of it.
          train: normalise by the batch and update `batch_stats`, else use the running statistics.
          axis_name: device axis that the rows are split over (equally); None for one device.

        Returns:
          [rows, features], or [rows / pool, features]; as `x`.
        """
        kernel = self.param("kernel", KERNEL_INIT, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = microbatch.apply(lambda x: x.astype(self.dtype), x)
        statistics = None
        if train:
            of_rows = functools.partial(product_statistics, kernel=kernel)
            statistics = microbatch.statistics(of_rows, x, axis_name=axis_name)
        factor, offset = self.fold(statistics, bias=bias)

        def layer(x):
            if self.pool is None:
                product = x @ (kernel * factor).astype(self.dtype)
                return nn.relu(product + offset.astype(self.dtype))
            sign = jnp.where(factor < 0, -1.0, 1.0)
            groups = x.reshape(-1, self.pool, x.shape[-1])
            pooled = pooling.group_maximum(pooling.product, groups, kernel * sign)
            pooled = pooled.astype(jnp.float32) * jnp.abs(factor) + offset
            return nn.relu(pooled).astype(self.dtype)

        return microbatch.apply(layer, x)


class GroupNorm(_Normed):
    """The batch norm of `x @ kernel + c`, where all rows of a group share one row of `c`.

    What a group's rows have in common need not be multiplied once per row. The statistics split in
    the same way: with u the mean product of a group,
    variance = kernel^T Cov[x] kernel + Var[c] + 2 Cov[u, c], the last two over groups.

    Attributes: as in `_Normed`.
    """

    @nn.compact
    def __call__(
        self,
        groups: tuple[jax.Array, jax.Array],
        kernel: jax.Array,
        *,
        bias: jax.Array,
        train: bool,
        axis_name: str | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Give the norm's factor and offset.

        Args:
          groups: x [groups, rows, channels] and c [groups, features] float32 without its bias,
            or micro-batches of both.
          kernel: [channels, features].
          bias: [features].
          train: normalise by the batch and update `batch_stats`, else use the running statistics.
          axis_name: device axis that the groups are split over (equally); None for one device.

        Returns:
          [features], [features] float32: (x @ kernel + c) * first + second is normalised.
        """
        statistics = None
        if train:
            of_groups = functools.partial(_group_statistics, kernel=kernel)
            statistics = microbatch.statistics(of_groups, groups, axis_name=axis_name)
        return self.fold(statistics, bias=bias)


def _group_statistics(
    groups: tuple[jax.Array, jax.Array], kernel: jax.Array, *, axis_name: str | None
) -> microbatch.Statistics:
    """Statistics of `x @ kernel + c`; arguments as for `GroupNorm`."""
    x, common = groups
    rows = x.reshape(-1, x.shape[-1])
    of_rows = product_statistics(rows, kernel, axis_name=axis_name)
    means = jnp.mean(x, axis=1, dtype=jnp.float32)
    products = jnp.matmul(means, kernel, precision=jax.lax.Precision.HIGHEST) - of_rows.mean
    shared = microbatch.average(common, axis_name)
    centred = common - shared
    var = microbatch.average(centred * centred + 2 * products * centred, axis_name)
    var = jnp.maximum(of_rows.var + var, 0.0)
    return microbatch.Statistics(of_rows.mean + shared, var, of_rows.count)


def product_statistics(
    x: jax.Array, kernel: jax.Array, *, axis_name: str | None = None
) -> microbatch.Statistics:
    """Mean and biased variance of the columns of `x @ kernel`, from the moments of `x`.

    Args:
      x: [rows, channels].
      kernel: [channels, features].
      axis_name: device axis that the rows are split over (equally); None for one device.

    Returns:
      Statistics of the rows on all devices.
    """
    rows = x.shape[0]
    moments = jnp.sum(x, axis=0, dtype=jnp.float32) / rows, _second_moment(x) / rows
    if axis_name is not None:
        moments = jax.lax.pmean(moments, axis_name)
        rows *= jax.lax.axis_size(axis_name)
    first, second = moments
    covariance = second - jnp.outer(first, first)
    highest = jax.lax.Precision.HIGHEST
    mean = jnp.matmul(first, kernel, precision=highest)
    var = jnp.sum(kernel * jnp.matmul(covariance, kernel, precision=highest), axis=0)
    return microbatch.Statistics(mean, jnp.maximum(var, 0.0), rows)


@jax.custom_vjp
def _second_moment(x: jax.Array) -> jax.Array:
    """Gram matrix `x^T x` in float32; its own gradient, since autodiff takes two products."""
    return jax.lax.dot_general(
        x,
        x,
        (((0,), (0,)), ((), ())),
        precision=jax.lax.Precision.HIGHEST,
        preferred_element_type=jnp.float32,
    )


def _second_moment_fwd(x):
    return _second_moment(x), x


def _second_moment_bwd(x, gradient):
    return (x @ (gradient + gradient.T).astype(x.dtype),)


_second_moment.defvjp(_second_moment_fwd, _second_moment_bwd)
