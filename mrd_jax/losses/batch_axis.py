# SPDX-License-Identifier: Apache-2.0
"""What a per-device loss needs to know about the axis that the batch is split over.

Every function takes `axis_name`; None means that one device holds the whole batch. Losses are
*shares*: what the rows of this device add to the global value, so that the sum over devices is
the loss. Differentiate the share, then `psum` the gradients. Both backends transpose collectives
accordingly (`jax.pmap`, and `jax.shard_map` with `check_vma=False`); under `check_vma=True` the
gradient of a replicated parameter arrives already summed and that `psum` would count it twice.
"""

import jax
import jax.numpy as jnp


def size(axis_name: str | None) -> int:
    """Number of devices the batch is split over."""
    return 1 if axis_name is None else jax.lax.axis_size(axis_name)


def gather(local: jax.Array, axis_name: str | None, *, axis: int = 0) -> jax.Array:
    """The [global_batch, ...] array whose slice on this device is `local`; rows are in `axis`.

    Its transpose is a reduce-scatter: gradients reach the embeddings of the other devices.
    """
    return (
        local if axis_name is None else jax.lax.all_gather(local, axis_name, axis=axis, tiled=True)
    )


def total(local: jax.Array, axis_name: str | None) -> jax.Array:
    """Sum over devices."""
    return local if axis_name is None else jax.lax.psum(local, axis_name)


def largest(local: jax.Array, axis_name: str | None) -> jax.Array:
    """Maximum over devices; has no gradient."""
    return local if axis_name is None else jax.lax.pmax(local, axis_name)


def own_columns(local_batch: int, axis_name: str | None) -> jax.Array:
    """[local_batch], the position of each local row in the global batch: its diagonal entry."""
    first = 0 if axis_name is None else jax.lax.axis_index(axis_name) * local_batch
    return first + jnp.arange(local_batch)


def share_of_mean(rows: jax.Array, *, mask: jax.Array, axis_name: str | None) -> jax.Array:
    """This device's share of the mean over the valid rows of the global batch.

    The one place where a loss is divided by a count; that count is global, because devices may
    hold different numbers of valid rows.

    Args:
      rows: [local_batch], one value per sample.
      mask: [local_batch] bool, False for rows that do not count.
      axis_name: mesh axis that the batch is split over; None for one device.

    Returns:
      A scalar; 0 where the global batch has no valid row.
    """
    count = total(jnp.sum(mask, dtype=rows.dtype), axis_name)
    return jnp.sum(jnp.where(mask, rows, 0)) / jnp.maximum(count, 1)
