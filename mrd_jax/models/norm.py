# SPDX-License-Identifier: Apache-2.0
"""Linear layers with batch norm folded into the kernel, and statistics shared by all devices."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.kernels import chunked_pooling
from mrd_jax.models import microbatch

# PyTorch's defaults, with which the released checkpoints were trained.
EPSILON = 1e-5
MOMENTUM = 0.9
# Uniform in +-1/sqrt(fan_in), as torch.nn.Linear and torch.nn.Conv initialise.
KERNEL_INIT = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform")


@jax.custom_vjp
def relu(x: jax.Array) -> jax.Array:
    """Computes max(x, 0), as `flax.linen.relu`, but keeps the result for the gradient, not `x`.

    The next layer needs the result anyway, so that the array before the ReLU need not be stored.
    """
    return jnp.maximum(x, 0)


def _relu_forward(x):
    y = relu(x)
    # Without the barrier, XLA's GPU compiler computes the result again from a stored `x`.
    return y, jax.lax.optimization_barrier(y)


def _relu_backward(y, gradient):
    return (jnp.where(y > 0, gradient, 0),)


relu.defvjp(_relu_forward, _relu_backward)


class _FoldedBatchNorm(nn.Module):
    """Base of linear layers whose batch norm is a factor and an offset per column.

    Attributes:
      features: number of output columns.
      dtype: dtype of the product; moments and statistics are float32.
    """

    features: int
    dtype: jax.typing.DTypeLike = jnp.float32

    def fold(
        self, statistics: microbatch.Statistics | None, *, bias: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        """Computes the norm's factor and offset, and updates the running statistics.

        Args:
          statistics: statistics of the products without bias over the batch of all devices; None
            uses the running statistics.
          bias: [features], bias of the linear map.

        Returns:
          Factor and offset, each [features]; the layer is relu(product * factor + offset).
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
        # The bias cancels against the batch mean; only the running mean contains it.
        factor = scale * jax.lax.rsqrt(var + EPSILON)
        return factor, shift - mean * factor


class NormedDense(_FoldedBatchNorm):
    """Computes `relu(batch_norm(x @ kernel + bias))` without storing the normalised product.

    The statistics of `x @ kernel` follow from the first two moments of `x`:
    mean = E[x] kernel and variance = kernel^T Cov[x] kernel. So the norm becomes a factor and an
    offset of the kernel's columns, known before the product is computed. A maximum over consecutive
    rows commutes with norm and ReLU once the columns with a negative scale are negated, so with
    `pool` both act on the pooled rows only.

    Attributes:
      features: number of output columns.
      dtype: dtype of the product; moments and statistics are float32.
      pool: number of consecutive rows to take the maximum over; None keeps every row.
    """

    pool: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool, axis_name: str | None = None) -> jax.Array:
        """Applies the layer.

        Args:
          x: [rows, channels], an array or micro-batches.
          train: normalise by the batch and update `batch_stats`; else use the running statistics.
          axis_name: mesh axis that the rows are split over (equally); None for one device.

        Returns:
          [rows, features], or [rows / pool, features] with `pool`; an array or micro-batches, as
          `x`.
        """
        kernel = self.param("kernel", KERNEL_INIT, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x = microbatch.apply(lambda x: x.astype(self.dtype), x)
        statistics = None
        if train:
            function = functools.partial(product_statistics, kernel=kernel)
            statistics = microbatch.statistics(function, x, axis_name=axis_name)
        factor, offset = self.fold(statistics, bias=bias)

        def layer(x):
            if self.pool is None:
                product = x @ (kernel * factor).astype(self.dtype)
                return relu(product + offset.astype(self.dtype))
            sign = jnp.where(factor < 0, -1.0, 1.0)
            groups = x.reshape(-1, self.pool, x.shape[-1])
            product = chunked_pooling.product
            pooled = chunked_pooling.group_maximum(product, groups, kernel * sign)
            pooled = pooled.astype(jnp.float32) * jnp.abs(factor) + offset
            return nn.relu(pooled).astype(self.dtype)

        return microbatch.apply(layer, x)


class GroupBatchNorm(_FoldedBatchNorm):
    """Batch norm of `x @ kernel + c`, where all rows of a group share one row of `c`.

    The shared part is computed once per group instead of once per row. The statistics split in the
    same way: with u the mean product of a group,
    variance = kernel^T Cov[x] kernel + Var[c] + 2 Cov[u, c], the last two over groups.

    Attributes:
      features: number of output columns.
      dtype: dtype of the product; moments and statistics are float32.
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
        """Computes the norm's factor and offset, and updates the running statistics.

        Args:
          groups: x [groups, rows, channels] and c [groups, features] float32 without its bias,
            or micro-batches of both.
          kernel: [channels, features].
          bias: [features].
          train: normalise by the batch and update `batch_stats`; else use the running statistics.
          axis_name: mesh axis that the groups are split over (equally); None for one device.

        Returns:
          Factor and offset, each float32 [features]: (x @ kernel + c) * factor + offset is
          normalised.
        """
        statistics = None
        if train:
            function = functools.partial(_group_statistics, kernel=kernel)
            statistics = microbatch.statistics(function, groups, axis_name=axis_name)
        return self.fold(statistics, bias=bias)


def _group_statistics(
    groups: tuple[jax.Array, jax.Array], kernel: jax.Array, *, axis_name: str | None
) -> microbatch.Statistics:
    """Computes the statistics of `x @ kernel + c`; arguments as for `GroupBatchNorm`."""
    x, common = groups
    rows = x.reshape(-1, x.shape[-1])
    products = product_statistics(rows, kernel, axis_name=axis_name)
    means = jnp.mean(x, axis=1, dtype=jnp.float32)
    centred_products = (
        jnp.matmul(means, kernel, precision=jax.lax.Precision.HIGHEST) - products.mean
    )
    common_mean = microbatch.average(common, axis_name)
    centred = common - common_mean
    var = microbatch.average(centred * centred + 2 * centred_products * centred, axis_name)
    var = jnp.maximum(products.var + var, 0.0)
    return microbatch.Statistics(products.mean + common_mean, var, products.count)


def product_statistics(
    x: jax.Array, kernel: jax.Array, *, axis_name: str | None = None
) -> microbatch.Statistics:
    """Computes mean and biased variance of the columns of `x @ kernel` from the moments of `x`.

    Args:
      x: [rows, channels].
      kernel: [channels, features].
      axis_name: mesh axis that the rows are split over (equally); None for one device.

    Returns:
      Statistics over the rows of all devices.
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
    """Computes the Gram matrix `x^T x` in float32; autodiff would take two products, not one."""
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
