# SPDX-License-Identifier: Apache-2.0
"""Collectives over the mesh axis that the batch is split over.

Every function takes `axis_name`; None means that one device holds the whole batch. A loss is
computed as *contributions*: each device returns the contribution of its own rows to the global
value, so that the sum over devices is the loss. Differentiate the contribution, then `psum` the
gradients. Both backends transpose collectives accordingly (`jax.pmap`, and `jax.shard_map` with
`check_vma=False`); with `check_vma=True` the gradient of a replicated parameter is already summed
over devices, and that `psum` would count it twice.
"""

import jax
import jax.numpy as jnp


def size(axis_name: str | None) -> int:
    """Returns the number of devices that the batch is split over."""
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def gather(local: jax.Array, axis_name: str | None, *, axis: int = 0) -> jax.Array:
    """All-gathers the rows of all devices.

    Its transpose is a reduce-scatter: gradients reach the embeddings of the other devices.

    Args:
      local: array with `local_batch` rows along `axis`.
      axis_name: mesh axis that the batch is split over; None for one device.
      axis: array axis of the rows.

    Returns:
      The array with `global_batch` rows along `axis`.
    """
    return (
        local if axis_name is None else jax.lax.all_gather(local, axis_name, axis=axis, tiled=True)
    )


def psum(local: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns the sum over devices."""
    return local if axis_name is None else jax.lax.psum(local, axis_name)


def pmax(local: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns the maximum over devices; it has no gradient."""
    return local if axis_name is None else jax.lax.pmax(local, axis_name)


def global_positions(local_batch: int, axis_name: str | None) -> jax.Array:
    """Returns the positions of the local rows in the global batch, [local_batch]."""
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * local_batch
    return first + jnp.arange(local_batch)


def mean_contribution(rows: jax.Array, *, mask: jax.Array, axis_name: str | None) -> jax.Array:
    """Returns this device's contribution to the mean over the valid rows of the global batch.

    This is the only place where a loss is divided by a count. The count is global, because devices
    may hold different numbers of valid rows.

    Args:
      rows: [local_batch], one value per sample.
      mask: [local_batch] bool, False for rows that are excluded.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      A scalar; 0 if the global batch has no valid row.
    """
    count = psum(jnp.sum(mask, dtype=rows.dtype), axis_name)
    return jnp.sum(jnp.where(mask, rows, 0)) / jnp.maximum(count, 1)
