# SPDX-License-Identifier: Apache-2.0
"""FSDP: how parameters, their gradients and the optimizer state are sharded over devices.

With FSDP, each device holds one shard of every large parameter. The shards are all-gathered for a
step; those of the transformer blocks one block at a time, in the forward pass and again in the
backward pass, so that a device never holds more than one whole block. Gradients are
reduce-scattered: each device keeps the shard that it updates.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

# Path of the stacked transformer blocks among the parameters.
BLOCKS = ("student", "transformer", "blocks")


@jax.named_scope("gradient_sum")
def psum(tree: Any, axis_name: str | None) -> Any:
    """Sums over devices; returns the tree as it is if `axis_name` is None."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def shard_axis(shape: Sequence[int], *, count: int) -> int | None:
    """Returns the axis along which an array is sharded; None if it is replicated.

    It is the first axis whose size is a multiple of `count`. The leading axis of a matrix is never
    sharded: it may stack layers, which layer-wise learning-rate decay counts. On TPU, the rows that
    come next are split without padding in memory, whereas columns would be padded to 128.

    Args:
      shape: shape of the whole array.
      count: number of shards.
    """
    axes = range(1, len(shape)) if len(shape) > 1 else range(len(shape))
    return next((axis for axis in axes if shape[axis] % count == 0), None)


class ParameterSharding(Protocol):
    """How the parameters are distributed over devices; its methods run inside a per-device body."""

    def adapt(self, model: nn.Module) -> "tuple[nn.Module, ParameterSharding]":
        """Returns the model that takes `gather_params(...)`, and the sharding that matches it."""

    def gather_params(self, shards: Any) -> Any:
        """All-gathers the parameters for the adapted model, from this device's shards."""

    def reduce_gradients(self, gradients: Any) -> Any:
        """Sums gradients over devices, and returns this device's shards of the sum.

        Args:
          gradients: gradients of this device's loss with respect to the gathered parameters.
        """

    def global_norm(self, shards: Any) -> jax.Array:
        """Computes the global norm of a tree from this device's shards of it; float32 scalar."""


@dataclasses.dataclass(frozen=True)
class Replicated:
    """Plain data parallelism: every device holds all parameters.

    Attributes:
      axis_name: mesh axis that the batch is split over; None for one device.
    """

    axis_name: str | None

    def adapt(self, model: nn.Module) -> tuple[nn.Module, ParameterSharding]:
        """See `ParameterSharding.adapt`."""
        return model, self

    def gather_params(self, shards: Any) -> Any:
        """See `ParameterSharding.gather_params`."""
        return shards

    def reduce_gradients(self, gradients: Any) -> Any:
        """See `ParameterSharding.reduce_gradients`."""
        return psum(gradients, self.axis_name)

    def global_norm(self, shards: Any) -> jax.Array:
        """See `ParameterSharding.global_norm`."""
        return optax.tree.norm(shards)


@dataclasses.dataclass(frozen=True)
class FullySharded:
    """FSDP: each device holds one shard of every parameter that `shard_axis` can split.

    Attributes:
      shapes: shapes of the whole parameters, a tree like them.
      count: number of devices.
      axis_name: mesh axis that parameters and batch are split over.
      block_by_block: whether the model all-gathers the parameters of `BLOCKS` itself.
    """

    shapes: Any
    count: int
    axis_name: str
    block_by_block: bool = False

    def adapt(self, model: nn.Module) -> "tuple[nn.Module, FullySharded]":
        """See `ParameterSharding.adapt`."""
        if not hasattr(model, "gather"):
            return model, self
        adapted = model.clone(gather=self.gather_block)
        return adapted, dataclasses.replace(self, block_by_block=True)

    def gather_params(self, shards: Any) -> Any:
        """See `ParameterSharding.gather_params`."""

        def gather(x, axis, in_block):
            return x if in_block else jax.lax.all_gather(x, self.axis_name, axis=axis, tiled=True)

        return self._map(gather, lambda x: x, shards)

    def gather_block(self, variables: Any) -> Any:
        """All-gathers the parameters of one transformer block.

        Args:
          variables: {"params": ...}, this device's shards.

        Returns:
          {"params": ...}, the whole parameters.
        """
        stacked = functools.reduce(operator.getitem, BLOCKS, self.shapes)

        def gather(x, shape):
            axis = shard_axis(shape.shape, count=self.count)
            if axis is None:
                return x
            # One block lacks the leading axis of the stacked ones.
            return jax.lax.all_gather(x, self.axis_name, axis=axis - 1, tiled=True)

        return {"params": jax.tree.map(gather, variables["params"], stacked)}

    def reduce_gradients(self, gradients: Any) -> Any:
        """See `ParameterSharding.reduce_gradients`."""

        def reduce_scatter(x, axis, in_block):
            # Already reduced: the transpose of the all-gather inside the model is a reduce-scatter.
            if in_block:
                return x
            return jax.lax.psum_scatter(x, self.axis_name, scatter_dimension=axis, tiled=True)

        return self._map(reduce_scatter, lambda x: jax.lax.psum(x, self.axis_name), gradients)

    def global_norm(self, shards: Any) -> jax.Array:
        """See `ParameterSharding.global_norm`."""
        squares = jax.tree.map(lambda x: jnp.sum(x * x), shards)
        squares = self._map(lambda x, *_: jax.lax.psum(x, self.axis_name), lambda x: x, squares)
        return jnp.sqrt(sum(jax.tree.leaves(squares)))

    def _map(self, on_shard: Callable, on_replica: Callable, tree: Any) -> Any:
        """Maps `on_shard(leaf, axis, in_block)` over sharded, `on_replica(leaf)` over other leaves.

        `in_block` is whether the model gathers the leaf itself.
        """

        def apply(path, leaf, shape):
            axis = shard_axis(shape.shape, count=self.count)
            if axis is None:
                return on_replica(leaf)
            inside = tuple(key.key for key in path[: len(BLOCKS)]) == BLOCKS
            return on_shard(leaf, axis, self.block_by_block and inside)

        return jax.tree_util.tree_map_with_path(apply, tree, self.shapes)
