# SPDX-License-Identifier: Apache-2.0
"""Exact and deterministic nearest-neighbour search by cosine similarity, block by block.

Unit features are quantised to integers whose products float32 sums without rounding, in any order
of summation. The neighbours are therefore the same on every machine and for every block size, ties
included.
"""

import functools
import hashlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

# Quantisation levels per unit. Rounding adds at most half a level per dimension, so that up to
# 30,000 dimensions the norm of a row stays below 2**12 and every partial sum of a product of two
# rows below 2**24, the range in which float32 is exact for integers. Cosines are accurate to about
# 1e-4.
LEVELS = 4_000
MAX_DIM = 30_000
# Rows and columns of a block of the similarity matrix: 64 MiB on the device.
BLOCK = 4_096
# Group of records without a feature: they have no neighbours and are not neighbours of others.
NO_GROUP = -1


def unit_mean(features: np.ndarray) -> np.ndarray:
    """Computes the normalised mean of the unit vectors of a record's features.

    Args:
      features: [views, dim] or [captions, dim], at least one row.

    Returns:
      float64 [dim], unit norm.

    Raises:
      ValueError: a feature is zero or non-finite, or the features cancel out.
    """
    rows = features.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)
        unit = mean / np.linalg.norm(mean)
    if not np.isfinite(unit).all():
        raise ValueError(
            "the features have no direction: one is zero or non-finite, or they cancel out"
        )
    return unit


def quantise(unit: np.ndarray) -> np.ndarray:
    """Quantises unit features to integers.

    Args:
      unit: [..., dim], unit norm.

    Returns:
      int16 [..., dim].

    Raises:
      ValueError: the features have more than `MAX_DIM` dimensions.
    """
    if unit.shape[-1] > MAX_DIM:
        raise ValueError(f"features have {unit.shape[-1]} dimensions; at most {MAX_DIM} are exact")
    return np.rint(LEVELS * unit).astype(np.int16)


def group_duplicates(features: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Groups the records that have equal features.

    Duplicates, such as one shape under two names, would be false negatives.

    Args:
      features: int16 [records, dim], from `quantise`.
      present: bool [records], whether a record has a feature.

    Returns:
      int32 [records], position of the first record with the same feature; NO_GROUP for records
      without a feature.
    """
    first: dict[bytes, int] = {}
    groups = np.full(len(features), NO_GROUP, np.int32)
    for index in np.flatnonzero(present):
        key = hashlib.blake2b(features[index].tobytes(), digest_size=16).digest()
        groups[index] = first.setdefault(key, int(index))
    return groups


def search(
    features: np.ndarray, groups: np.ndarray, *, count: int, block: int = BLOCK
) -> Iterator[np.ndarray]:
    """Finds the nearest records of each record, nearest first; of ties, the lower position first.

    Records of the same group are never neighbours.

    Args:
      features: int16 [records, dim], from `quantise`.
      groups: int32 [records], from `group_duplicates`.
      count: number of neighbours per record.
      block: number of rows, and of columns, per block of the similarity matrix.

    Yields:
      int32 [up to block, count], positions of the neighbours of the next `block` records; -1 pads
      lists with fewer neighbours.
    """
    starts = range(0, len(features), block)
    size = min(block, len(features))
    for row_start in starts:
        rows = jax.device_put(_block(features, groups, row_start, size))
        best = (
            jnp.full((size, count), -jnp.inf, jnp.float32),
            jnp.full((size, count), -1, jnp.int32),
        )
        for column_start in starts:
            columns = _block(features, groups, column_start, size)
            best = _merge_top_k(best, rows, columns, column_start)
        cosines, indices = (np.asarray(part) for part in best)
        neighbours = np.where(np.isfinite(cosines), indices, -1)
        yield neighbours[: len(features) - row_start]


def _block(
    features: np.ndarray, groups: np.ndarray, start: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """Returns features and groups of a block; the last one is padded with records of no group."""
    missing = max(0, start + size - len(features))
    return (
        np.pad(features[start : start + size], ((0, missing), (0, 0))),
        np.pad(groups[start : start + size], (0, missing), constant_values=NO_GROUP),
    )


@functools.partial(jax.jit, donate_argnums=0)
def _merge_top_k(
    best: tuple[jax.Array, jax.Array],
    rows: tuple[jax.Array, jax.Array],
    columns: tuple[jax.Array, jax.Array],
    start: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Merges a block of columns, whose first record is `start`, into the nearest ones so far."""
    cosines, indices = best
    count = cosines.shape[1]
    (features, groups), (others, other_groups) = rows, columns
    similarities = jnp.matmul(
        features.astype(jnp.float32),
        others.astype(jnp.float32).T,
        precision=jax.lax.Precision.HIGHEST,
    )
    excluded = (groups[:, None] == other_groups) | (groups[:, None] < 0) | (other_groups < 0)
    similarities = jnp.where(excluded, -jnp.inf, similarities)
    # Earlier records come first, and of ties top_k takes the first.
    cosines, places = jax.lax.top_k(jnp.concatenate([cosines, similarities], axis=1), count)
    earlier = jnp.take_along_axis(indices, jnp.minimum(places, count - 1), axis=1)
    return cosines, jnp.where(places < count, earlier, start + places - count)
