# SPDX-License-Identifier: Apache-2.0
"""A batch that passes the model a few samples at a time, with values and gradient of the whole.

What a layer makes of a micro-batch is forgotten once it has been used, and computed anew in the
backward pass. So memory grows with the micro-batch, while the loss, which sees all embeddings at
once, stays that of the whole batch (GradCache, Gao et al. 2021, for the embeddings' sake). Batch
norm ties the samples together before that. Its statistics are means over micro-batches of equal
size: one pass over all of them per norm finds them, later passes use them, and the gradient goes
back through both.

Layers are written once: they take arrays, or `MicroBatches` that stand for arrays, and go through
the functions below.
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
    """Of the columns of some rows.

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
    """Stands for a tree of arrays whose leading axes hold the samples in their order.

    Attributes:
      source: tree of arrays [micro_batches, samples of a micro-batch, ...].
      function: what the tree holds of one micro-batch, from that part of the source.
    """

    source: Any
    function: Callable[[Any], Any]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one micro-batch, where the tree is one array."""
        one = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), self.source)
        return jax.eval_shape(self.function, one).shape


def split(samples: Any, *, most: int) -> Any:
    """Splits samples into micro-batches of equal size.

    Args:
      samples: tree of arrays [batch, ...].
      most: samples of a micro-batch; the largest divisor of the batch up to it is taken. 0 gives
        the samples back.

    Returns:
      `MicroBatches`, or `samples`.
    """
    if not most:
        return samples
    batch = jax.tree.leaves(samples)[0].shape[0]
    size = max(n for n in range(1, min(most, batch) + 1) if batch % n == 0)
    source = jax.tree.map(lambda x: x.reshape(batch // size, size, *x.shape[1:]), samples)
    return MicroBatches(source, lambda one: one)


def apply(function: Callable[..., Any], *rows: Any) -> Any:
    """`function(*rows)`, in which no sample depends on another; put off for micro-batches."""
    first = rows[0]
    if not isinstance(first, MicroBatches):
        return function(*rows)
    return MicroBatches(first.source, lambda one: function(*(row.function(one) for row in rows)))


def with_held(function: Callable[[Any], Any], rows: Any) -> Any:
    """`(rows, function(rows))`, the second computed once rather than in every pass.

    For what is small and costly, and carries no gradient.
    """
    if not isinstance(rows, MicroBatches):
        return rows, function(rows)
    held = jax.lax.map(lambda one: function(rows.function(one)), rows.source)
    return MicroBatches((rows.source, held), lambda one: (rows.function(one[0]), one[1]))


def statistics(
    function: Callable[..., Statistics], rows: Any, *, axis_name: str | None = None
) -> Statistics:
    """Statistics of the whole batch on all devices.

    Args:
      function: (rows, axis_name=...) -> statistics of the rows on all devices of that axis.
      rows: arrays or micro-batches.
      axis_name: device axis that the rows are split over (equally); None for one device.

    Returns:
      Statistics of all rows.
    """
    if not isinstance(rows, MicroBatches):
        return function(rows, axis_name=axis_name)
    of_one = jax.checkpoint(lambda one: function(rows.function(one), axis_name=None))
    found = jax.lax.map(of_one, rows.source)
    count = found.count * len(found.mean)
    if axis_name is not None:
        count *= jax.lax.axis_size(axis_name)
    # The variance of all rows is that inside the micro-batches plus that of their means.
    mean = average(found.mean, axis_name)
    return Statistics(mean, average(found.var + (found.mean - mean) ** 2, axis_name), count)


def average(rows: jax.Array, axis_name: str | None) -> jax.Array:
    """Mean [...] over rows [rows, ...] of all devices."""
    mean = jnp.mean(rows, axis=0)
    return mean if axis_name is None else jax.lax.pmean(mean, axis_name)


def collect(
    method: Callable[[nn.Module, Any], jax.Array], module: nn.Module, rows: Any
) -> jax.Array:
    """Ends what `apply` put off: the last layers, which may have parameters of their own.

    Args:
      method: (module, rows) -> [samples, ...].
      module: whose parameters the method uses; it may name submodules.
      rows: arrays or micro-batches.

    Returns:
      [batch, ...], one array.
    """
    if not isinstance(rows, MicroBatches):
        return method(module, rows)

    def one(module, carry, source):
        return carry, method(module, rows.function(source))

    # Inside a loop nothing can be merged with the forward pass, so no barrier is needed.
    loop = nn.scan(
        nn.remat(one, prevent_cse=False),
        variable_broadcast="params",
        split_rngs={"params": False},
    )
    _, found = loop(module, (), rows.source)
    return found.reshape(-1, *found.shape[2:])
