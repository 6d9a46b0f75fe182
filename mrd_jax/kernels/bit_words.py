# SPDX-License-Identifier: Apache-2.0
"""Sets of points as bit masks in 32-bit words, which list their first members without a sort.

Word 0 holds points 0 to 31, the lowest index in the lowest bit. The k-th point of a set is found
from running counts of the words, then inside its word. On a TPU, a gather of single numbers takes
one transfer per number, so there words are compared and summed instead of searched, with the same
result.
"""

import functools

import jax
import jax.numpy as jnp

# Points per word.
WORD = 32


def pack(inside: jax.Array) -> jax.Array:
    """Packs a boolean mask into words.

    Args:
      inside: bool [..., points], True for the members of the set; `points` is a multiple of `WORD`.

    Returns:
      uint32 [..., words].
    """
    inside = inside.reshape(*inside.shape[:-1], -1, WORD)
    bit = jnp.uint32(1) << jax.lax.broadcasted_iota(jnp.uint32, (WORD,), 0)
    return jnp.sum(jnp.where(inside, bit, jnp.uint32(0)), axis=-1, dtype=jnp.uint32)


def size(words: jax.Array) -> jax.Array:
    """Counts the members of each set: uint32 [..., words] to int32 [...]."""
    return jnp.sum(_counts(words), axis=-1)


def first(words: jax.Array, count: int) -> jax.Array:
    """Lists the members of each set with the lowest indices, in ascending order.

    Args:
      words: uint32 [batch, groups, words] or [groups, words].
      count: number of indices to list; a smaller set is padded with its first member, an empty one
        with 0.

    Returns:
      int32 [batch, groups, count] or [groups, count].
    """
    counts = _counts(words)
    running = jnp.cumsum(counts, axis=-1)
    ranks = jnp.arange(count, dtype=jnp.int32)
    ranks = jnp.where(ranks < running[..., -1:], ranks, 0)
    word, rank, bits = jax.lax.platform_dependent(
        words, running - counts, running, ranks, tpu=_words_by_comparison, default=_words_by_search
    )
    index = word * WORD + _position_of_set_bit(bits, rank)
    return jnp.where(running[..., -1:] > 0, index, 0)


def keep_first(words: jax.Array, count: jax.Array) -> jax.Array:
    """Removes all but the members with the lowest indices from each set.

    Args:
      words: uint32 [..., words].
      count: int32 [...], number of members to keep; a smaller set keeps all of its members.

    Returns:
      uint32 [..., words].
    """
    counts = _counts(words)
    remaining = count[..., None] - (jnp.cumsum(counts, axis=-1) - counts)  # [..., words]
    # The bits below the first excess member; undefined, and not used, in words without one.
    kept = (jnp.uint32(1) << _position_of_set_bit(words, remaining).astype(jnp.uint32)) - 1
    truncated = jnp.where(remaining > 0, words & kept, jnp.uint32(0))
    return jnp.where(remaining >= counts, words, truncated)


def _counts(words: jax.Array) -> jax.Array:
    return jax.lax.population_count(words).astype(jnp.int32)


def _words_by_search(
    words: jax.Array, before: jax.Array, running: jax.Array, ranks: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Finds the word that holds the member of each rank.

    Args:
      words: [batch, groups, words] bit masks.
      before: [batch, groups, words], number of members in the preceding words.
      running: [batch, groups, words], number of members up to and including each word.
      ranks: [batch, groups, count], ranks of members, from 0.

    Returns:
      [batch, groups, count] each: index of the word, rank of the member inside it, and the word.
    """
    # The first word whose running count exceeds the rank holds that member.
    search = functools.partial(jnp.searchsorted, side="right", method="scan_unrolled")
    for _ in range(running.ndim - 1):
        search = jax.vmap(search)
    word = search(running, ranks).astype(jnp.int32)
    take = functools.partial(jnp.take_along_axis, indices=word, axis=-1, mode="clip")
    return word, ranks - take(before), take(words)


def _words_by_comparison(
    words: jax.Array, before: jax.Array, running: jax.Array, ranks: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Does the same as `_words_by_search`, by a masked sum over all words."""
    matches = (before[..., None, :] <= ranks[..., None]) & (
        ranks[..., None] < running[..., None, :]
    )

    def select(values):
        zero = jnp.zeros((), values.dtype)
        return jnp.sum(jnp.where(matches, values[..., None, :], zero), axis=-1, dtype=values.dtype)

    lane = jax.lax.broadcasted_iota(jnp.int32, words.shape, words.ndim - 1)
    # A word's index and the rank inside it, which is less than WORD, as one number.
    combined = select(lane * WORD - before) + ranks
    return combined // WORD, combined % WORD, select(words)


def _position_of_set_bit(bits: jax.Array, rank: jax.Array) -> jax.Array:
    """Returns the position of each word's set bit number `rank` (from 0), by bisection."""
    position = jnp.zeros_like(rank)
    for half in (16, 8, 4, 2, 1):
        below = jax.lax.population_count(bits & jnp.uint32((1 << half) - 1)).astype(jnp.int32)
        upper = rank >= below
        rank = jnp.where(upper, rank - below, rank)
        bits = jnp.where(upper, bits >> half, bits)
        position = jnp.where(upper, position + half, position)
    return position
