# SPDX-License-Identifier: Apache-2.0
"""Sets of points as bits of words, from which the first ones are listed without a sort.

Word 0 holds points 0 to 31, the lowest of them in its lowest bit. The k-th point of a set is found
from running counts of words, then inside its word. On a TPU a gather of single numbers is one
transfer each, so there words are compared and added up instead of searched; the result is the same.
"""

import functools

import jax
import jax.numpy as jnp

# Points of an unsigned word.
WORD = 32


def pack(inside: jax.Array) -> jax.Array:
    """Bits of a mask.

    Args:
      inside: [..., points], whether each point belongs to the set; `points` a multiple of `WORD`.

    Returns:
      uint32 [..., words].
    """
    inside = inside.reshape(*inside.shape[:-1], -1, WORD)
    bit = jnp.uint32(1) << jax.lax.broadcasted_iota(jnp.uint32, (WORD,), 0)
    return jnp.sum(jnp.where(inside, bit, jnp.uint32(0)), axis=-1, dtype=jnp.uint32)


def size(words: jax.Array) -> jax.Array:
    """How many points a set has: int32 [...] of uint32 [..., words]."""
    return jnp.sum(_counts(words), axis=-1)


def first(words: jax.Array, count: int) -> jax.Array:
    """The points of a set with the lowest indices, in their order.

    Args:
      words: uint32 [batch, groups, words] or [groups, words].
      count: of points; a set with fewer is filled up with its first one, an empty one with 0.

    Returns:
      int32 [batch, groups, count] or [groups, count].
    """
    hits = _counts(words)
    running = jnp.cumsum(hits, axis=-1)
    wanted = jnp.arange(count, dtype=jnp.int32)
    wanted = jnp.where(wanted < running[..., -1:], wanted, 0)
    word, rank, bits = jax.lax.platform_dependent(
        words, running - hits, running, wanted, tpu=_words_by_comparison, default=_words_by_search
    )
    index = word * WORD + _position_of_set_bit(bits, rank)
    return jnp.where(running[..., -1:] > 0, index, 0)


def keep_first(words: jax.Array, count: jax.Array) -> jax.Array:
    """The set of the points with the lowest indices.

    Args:
      words: uint32 [..., words].
      count: int32 [...], how many points to keep of each set; all, where it has fewer.

    Returns:
      uint32 [..., words].
    """
    hits = _counts(words)
    left = count[..., None] - (jnp.cumsum(hits, axis=-1) - hits)  # [..., words]
    # The bits below the first one too many; nonsense, and not used, where there is none.
    kept = (jnp.uint32(1) << _position_of_set_bit(words, left).astype(jnp.uint32)) - 1
    return jnp.where(left >= hits, words, jnp.where(left > 0, words & kept, jnp.uint32(0)))


def _counts(words: jax.Array) -> jax.Array:
    return jax.lax.population_count(words).astype(jnp.int32)


def _words_by_search(
    words: jax.Array, before: jax.Array, running: jax.Array, wanted: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Which word holds each wanted hit.

    Args:
      words: [batch, groups, words] bit masks.
      before: [batch, groups, words], hits in the words before each.
      running: [batch, groups, words], and in the word itself.
      wanted: [batch, groups, count], numbers of hits from 0.

    Returns:
      [batch, groups, count] each: index of the word, number of the hit in it, and the word.
    """
    # The first word whose running count exceeds `wanted` holds that hit.
    search = functools.partial(jnp.searchsorted, side="right", method="scan_unrolled")
    for _ in range(running.ndim - 1):
        search = jax.vmap(search)
    word = search(running, wanted).astype(jnp.int32)
    take = functools.partial(jnp.take_along_axis, indices=word, axis=-1, mode="clip")
    return word, wanted - take(before), take(words)


def _words_by_comparison(
    words: jax.Array, before: jax.Array, running: jax.Array, wanted: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """As `_words_by_search`: of all words, add up the one that holds the hit."""
    own = (before[..., None, :] <= wanted[..., None]) & (wanted[..., None] < running[..., None, :])

    def pick(values):
        zero = jnp.zeros((), values.dtype)
        return jnp.sum(jnp.where(own, values[..., None, :], zero), axis=-1, dtype=values.dtype)

    lane = jax.lax.broadcasted_iota(jnp.int32, words.shape, words.ndim - 1)
    # A word's index and the number of the hit in it, which is less than WORD, as one number.
    both = pick(lane * WORD - before) + wanted
    return both // WORD, both % WORD, pick(words)


def _position_of_set_bit(bits: jax.Array, rank: jax.Array) -> jax.Array:
    """Position of the set bit number `rank` (from 0) of each word, by halving."""
    position = jnp.zeros_like(rank)
    for half in (16, 8, 4, 2, 1):
        below = jax.lax.population_count(bits & jnp.uint32((1 << half) - 1)).astype(jnp.int32)
        upper = rank >= below
        rank = jnp.where(upper, rank - below, rank)
        bits = jnp.where(upper, bits >> half, bits)
        position = jnp.where(upper, position + half, position)
    return position
