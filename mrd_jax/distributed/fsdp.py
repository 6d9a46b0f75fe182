# SPDX-License-Identifier: Apache-2.0
"""What a device holds of the parameters, and hence of gradients and their updates.

All of them, or its share. Shares are gathered for a step, those of the transformer's loop a block
at a time, forward and again to go back, so that one block at a time is whole.
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

# Among the parameters: the stacked blocks of a student that gathers them one by one.
BLOCKS = ("student", "transformer", "blocks")


@jax.named_scope("gradient_sum")
def psum(tree: Any, axis_name: str | None) -> Any:
    """Sums over devices; the identity where there is only one."""
    return tree if axis_name is None else jax.lax.psum(tree, axis_name)


def shard_axis(shape: Sequence[int], *, count: int) -> int | None:
    """Axis of an array that the devices share equally; None where every device keeps a copy.

    The first axis that divides. The leading axis of a matrix is left alone: it may stack layers,
    which layer decay counts. On TPU the rows that come next are split without padding in memory,
    where columns would be padded to 128.
    """
    axes = range(1, len(shape)) if len(shape) > 1 else range(len(shape))
    return next((axis for axis in axes if shape[axis] % count == 0), None)


class Layout(Protocol):
    """What this device holds of the parameters, and hence of gradients and their updates."""

    def adapt(self, model: nn.Module) -> "tuple[nn.Module, Layout]":
        """The model as it can be applied to what `gather` gives, and the layout to go with it."""

    def gather(self, shards: Any) -> Any:
        """The parameters that the adapted model takes, from what the devices hold."""

    def sum(self, gradients: Any) -> Any:
        """What this device holds of the sum over devices of gradients with respect to those."""

    def norm(self, shards: Any) -> jax.Array:
        """The global norm of the whole of what the devices hold."""


@dataclasses.dataclass(frozen=True)
class Replicated:
    """Every device holds all parameters; `Sharded` is the other layout.

    Attributes:
      axis_name: axis that the batch is split over; None for one device.
    """

    axis_name: str | None

    def adapt(self, model: nn.Module) -> tuple[nn.Module, Layout]:
        """See `Layout`."""
        return model, self

    def gather(self, shards: Any) -> Any:
        """See `Layout`."""
        return shards

    def sum(self, gradients: Any) -> Any:
        """See `Layout`."""
        return psum(gradients, self.axis_name)

    def norm(self, shards: Any) -> jax.Array:
        """See `Layout`."""
        return optax.tree.norm(shards)


@dataclasses.dataclass(frozen=True)
class Sharded:
    """The devices share the parameters; used inside a body.

    Attributes:
      shapes: of the whole parameters, a tree like them.
      count: number of devices.
      axis_name: axis that parameters and batch are split over.
      by_block: whether the model gathers the parameters of `BLOCKS` itself.
    """

    shapes: Any
    count: int
    axis_name: str
    by_block: bool = False

    def adapt(self, model: nn.Module) -> "tuple[nn.Module, Sharded]":
        """See `Layout`."""
        if not hasattr(model, "gather"):
            return model, self
        return model.clone(gather=self.gather_block), dataclasses.replace(self, by_block=True)

    def gather(self, shards: Any) -> Any:
        """See `Layout`."""

        def split(x, axis, in_block):
            return x if in_block else jax.lax.all_gather(x, self.axis_name, axis=axis, tiled=True)

        return self._map(split, lambda x: x, shards)

    def gather_block(self, variables: Any) -> Any:
        """The whole parameters of one block, from the devices' shares: {"params": ...}."""
        stacked = functools.reduce(operator.getitem, BLOCKS, self.shapes)

        def one(x, shape):
            axis = shard_axis(shape.shape, count=self.count)
            # Without the leading axis, which counts blocks.
            return (
                x
                if axis is None
                else jax.lax.all_gather(x, self.axis_name, axis=axis - 1, tiled=True)
            )

        return {"params": jax.tree.map(one, variables["params"], stacked)}

    def sum(self, gradients: Any) -> Any:
        """See `Layout`.

        What was gathered by block comes back summed: `all_gather` transposes to reduce-scatter.
        """

        def split(x, axis, in_block):
            if in_block:
                return x
            return jax.lax.psum_scatter(x, self.axis_name, scatter_dimension=axis, tiled=True)

        return self._map(split, lambda x: jax.lax.psum(x, self.axis_name), gradients)

    def norm(self, shards: Any) -> jax.Array:
        """See `Layout`."""
        squares = jax.tree.map(lambda x: jnp.sum(x * x), shards)
        squares = self._map(lambda x, *_: jax.lax.psum(x, self.axis_name), lambda x: x, squares)
        return jnp.sqrt(sum(jax.tree.leaves(squares)))

    def _map(self, split: Callable, whole: Callable, tree: Any) -> Any:
        """Applies `split(leaf, axis, in_block)` to split leaves, `whole(leaf)` to the others."""

        def one(path, leaf, shape):
            axis = shard_axis(shape.shape, count=self.count)
            if axis is None:
                return whole(leaf)
            inside = tuple(key.key for key in path[: len(BLOCKS)]) == BLOCKS
            return split(leaf, axis, self.by_block and inside)

        return jax.tree_util.tree_map_with_path(one, tree, self.shapes)
