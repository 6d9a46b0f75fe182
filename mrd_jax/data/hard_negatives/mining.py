# SPDX-License-Identifier: Apache-2.0
"""Exact search for the nearest records by cosine, in blocks of bounded memory.

Unit features are rounded to a grid of whole numbers. Their products then sum without rounding in
float32, in whatever order a device adds them, so the result is the same to the last neighbour on
every machine and with every block size, ties included.
"""

import functools
import hashlib
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np

# Steps of the grid per unit. Rounding lengthens a row by half a step in each direction, which up
# to 30,000 dimensions leaves its norm below 2**12 and every partial sum of a product of two rows
# below 2**24: there float32 holds every whole number. A cosine is then good to about 1e-4.
GRID = 4_000
MAX_DIM = 30_000
# Records of a block of rows and of one of columns: 64 MiB of cosines on the device.
BLOCK = 4_096
# Group of a record without a feature, which has no neighbours and is nobody's.
NO_GROUP = -1


def unit_mean(features: np.ndarray) -> np.ndarray:
    """The direction of a record's features: the mean of their unit vectors, made unit.

    Args:
      features: [views, dim] or [captions, dim], at least one.

    Returns:
      float64 [dim], unit norm.

    Raises:
      ValueError: a feature is zero or not finite, or they cancel out.
    """
    rows = features.astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).mean(axis=0)
        unit = mean / np.linalg.norm(mean)
    if not np.isfinite(unit).all():
        raise ValueError(
            "the features have no direction: one is zero or not finite, or they cancel"
        )
    return unit


def to_grid(unit: np.ndarray) -> np.ndarray:
    """Rounds unit features to whole numbers.

    Args:
      unit: [..., dim], unit norm.

    Returns:
      int16 [..., dim].

    Raises:
      ValueError: the features are too long for exact sums.
    """
    if unit.shape[-1] > MAX_DIM:
        raise ValueError(f"features have {unit.shape[-1]} dimensions; at most {MAX_DIM} are exact")
    return np.rint(GRID * unit).astype(np.int16)


def group_equals(grid: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Numbers the records so that those with equal features share a number.

    The same shape under two names, or two shapes under one text, would be false negatives.

    Args:
      grid: int16 [records, dim], from `to_grid`.
      present: bool [records], whether there is a feature.

    Returns:
      int32 [records]: the first record with this feature; NO_GROUP where there is none.
    """
    first: dict[bytes, int] = {}
    groups = np.full(len(grid), NO_GROUP, np.int32)
    for index in np.flatnonzero(present):
        mark = hashlib.blake2b(grid[index].tobytes(), digest_size=16).digest()
        groups[index] = first.setdefault(mark, int(index))
    return groups


def search(
    grid: np.ndarray, groups: np.ndarray, *, count: int, block: int = BLOCK
) -> Iterator[np.ndarray]:
    """The nearest records of each record, nearest first and the lower index first among equals.

    A record is never its own neighbour, nor that of one in its group.

    Args:
      grid: int16 [records, dim], from `to_grid`.
      groups: int32 [records], from `group_equals`.
      count: neighbours of each record.
      block: records that are compared with as many others at a time.

    Yields:
      int32 [up to block, count] for one run of records after another; -1 where there are fewer
      neighbours than asked for.
    """
    starts = range(0, len(grid), block)
    size = min(block, len(grid))
    for row_start in starts:
        rows = jax.device_put(_block(grid, groups, row_start, size))
        best = (
            jnp.full((size, count), -jnp.inf, jnp.float32),
            jnp.full((size, count), -1, jnp.int32),
        )
        for column_start in starts:
            columns = _block(grid, groups, column_start, size)
            best = _nearer(best, rows, columns, column_start)
        cosines, indices = (np.asarray(part) for part in best)
        found = np.where(np.isfinite(cosines), indices, -1)
        yield found[: len(grid) - row_start]


def _block(
    grid: np.ndarray, groups: np.ndarray, start: int, size: int
) -> tuple[np.ndarray, np.ndarray]:
    """A run of records with their groups; the last is filled up with records of no group."""
    missing = max(0, start + size - len(grid))
    return (
        np.pad(grid[start : start + size], ((0, missing), (0, 0))),
        np.pad(groups[start : start + size], (0, missing), constant_values=NO_GROUP),
    )


@functools.partial(jax.jit, donate_argnums=0)
def _nearer(
    best: tuple[jax.Array, jax.Array],
    rows: tuple[jax.Array, jax.Array],
    columns: tuple[jax.Array, jax.Array],
    start: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """The best of what was found before and of a block of columns that begins at record start."""
    cosines, indices = best
    count = cosines.shape[1]
    (features, groups), (others, other_groups) = rows, columns
    found = jnp.matmul(
        features.astype(jnp.float32),
        others.astype(jnp.float32).T,
        precision=jax.lax.Precision.HIGHEST,
    )
    barred = (groups[:, None] == other_groups) | (groups[:, None] < 0) | (other_groups < 0)
    found = jnp.where(barred, -jnp.inf, found)
    # The earlier ones stand to the left, and of equals top_k takes the one to the left.
    cosines, places = jax.lax.top_k(jnp.concatenate([cosines, found], axis=1), count)
    kept = jnp.take_along_axis(indices, jnp.minimum(places, count - 1), axis=1)
    return cosines, jnp.where(places < count, kept, start + places - count)
