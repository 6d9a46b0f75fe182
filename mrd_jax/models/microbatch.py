# SPDX-License-Identifier: Apache-2.0
"""Micro-batches: a few samples at a time, with the values and the gradient of the whole batch.

The activations of a micro-batch are discarded after use and recomputed in the backward pass, so
memory grows with the micro-batch, while the loss still compares all embeddings of the batch
(GradCache, Gao et al. 2021). Batch norm couples the samples earlier. Its statistics are means over
micro-batches of equal size: for each norm, one pass over all micro-batches computes them, later
passes use them, and the gradient flows through both.

Layers are written once: they take arrays, or `MicroBatches` in place of arrays, and call the
functions of this module.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax
import flax.linen as nn
import jax
import jax.numpy as jnp


@flax.struct.dataclass
class Statistics:
    """Mean and variance of the columns of [rows, features].

    Attributes:
      mean: [features].
      var: [features], biased.
      count: number of rows.
    """

    mean: jax.Array
    var: jax.Array
    count: int = flax.struct.field(pytree_node=False)


@dataclasses.dataclass(frozen=True)
class MicroBatches:
    """Placeholder of a tree of arrays [batch, ...] that is computed one micro-batch at a time.

    Attributes:
      source: tree of arrays [micro_batches, samples per micro-batch, ...].
      function: maps one micro-batch of the source to that part of the tree.
    """

    source: Any
    function: Callable[[Any], Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of one micro-batch, if the tree is a single array."""
        source = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self.source)
        return jax.eval_shape(self.function, source).shape


def split(samples: Any, *, limit: int) -> Any:
    """Splits samples into micro-batches of equal size.

    Args:
      samples: tree of arrays [batch, ...].
      limit: maximum number of samples per micro-batch; the size is the largest divisor of the
        batch up to the limit. 0 disables micro-batches.

    Returns:
      `MicroBatches`, or `samples` unchanged if `limit` is 0.
    """
    if not limit:
        return samples
    batch = jax.tree.leaves(samples)[0].shape[0]
    size = max(n for n in range(1, min(limit, batch) + 1) if batch % n == 0)
    source = jax.tree.map(lambda x: x.reshape(batch // size, size, *x.shape[1:]), samples)
    return MicroBatches(source, lambda part: part)


def apply(function: Callable[..., Any], *rows: Any) -> Any:
    """Applies a function that treats each sample independently; deferred for micro-batches."""
    first = rows[0]
    if not isinstance(first, MicroBatches):
        return function(*rows)
    return MicroBatches(first.source, lambda part: function(*(row.function(part) for row in rows)))


def with_precomputed(function: Callable[[Any], Any], rows: Any) -> Any:
    """Returns `(rows, function(rows))`, with the second part computed once, not in every pass.

    Use this for results that are small, expensive and without gradient.
    """
    if not isinstance(rows, MicroBatches):
        return rows, function(rows)
    results = jax.lax.map(lambda part: function(rows.function(part)), rows.source)
    return MicroBatches((rows.source, results), lambda part: (rows.function(part[0]), part[1]))


def statistics(
    function: Callable[..., Statistics], rows: Any, *, axis_name: str | None = None
) -> Statistics:
    """Computes the statistics of the whole batch over all devices.

    Args:
      function: (rows, axis_name=...) -> statistics of the rows on all devices of that axis.
      rows: arrays, or micro-batches.
      axis_name: mesh axis that the rows are split over (equally); None for one device.

    Returns:
      Statistics of all rows.
    """
    if not isinstance(rows, MicroBatches):
        return function(rows, axis_name=axis_name)
    recomputed = jax.checkpoint(lambda part: function(rows.function(part), axis_name=None))
    parts = jax.lax.map(recomputed, rows.source)
    count = parts.count * len(parts.mean)
    if axis_name is not None:
        count *= jax.lax.axis_size(axis_name)
    # Law of total variance: mean of the variances inside micro-batches plus variance of the means.
    mean = average(parts.mean, axis_name)
    return Statistics(mean, average(parts.var + (parts.mean - mean) ** 2, axis_name), count)


def average(rows: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns the mean [...] of rows [rows, ...] over all devices."""
    mean = jnp.mean(rows, axis=0)
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)


def collect(
    method: Callable[[nn.Module, Any], jax.Array], module: nn.Module, rows: Any
) -> jax.Array:
    """Runs the deferred functions and the last layers, and joins the micro-batches.

    Args:
      method: (module, rows) -> [samples, ...].
      module: module with the parameters of the method, which may create submodules.
      rows: arrays, or micro-batches.

    Returns:
      [batch, ...], one array.
    """
    if not isinstance(rows, MicroBatches):
        return method(module, rows)

    def run(module, carry, source):
        return carry, method(module, rows.function(source))

    # Inside a loop, XLA cannot merge recomputation with the forward pass: no barrier is needed.
    loop = nn.scan(
        nn.remat(run, prevent_cse=False),
        variable_broadcast="params",
        split_rngs={"params": False},
    )
    _, outputs = loop(module, (), rows.source)
    return outputs.reshape(-1, *outputs.shape[2:])
