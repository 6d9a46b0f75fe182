# SPDX-License-Identifier: Apache-2.0
"""Checksums of arrays, taken on the devices that hold them.

A cryptographic hash would need every array on one host. These are sums of integers, which come
out the same however an array is split: over one device or a pod's, before a save or after a
restore on another topology. They notice damage, not forgery.
"""

from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

# Odd numbers with irregular bits: the finalizer of MurmurHash3 (A. Appleby), and 2^32 / phi.
_MIX = (0x85EBCA6B, 0xC2B2AE35)
_GOLDEN = 0x9E3779B9


def checksums(tree: Any) -> dict[str, str]:
    """A checksum of every array of a tree.

    Any single changed word, and so any single flipped byte, changes the checksum; any other change
    goes unnoticed with a chance of about 2^-64.

    Args:
      tree: of arrays of up to 2^32 elements of up to 32 bits each, on the host or on devices. All
        processes of a run call it when the arrays span them.

    Returns:
      path of each leaf, as Orbax names it, such as "params/student/projection/kernel" -> 16 hex
      digits.
    """
    leaves = ocp.tree.to_flat_dict(tree, sep="/")
    # One after another: where arrays are split, each sum goes round the devices, and many at once
    # leave the threads that stand for devices on a CPU waiting for one another.
    sums = {path: jax.device_get(_sums_of(leaf)) for path, leaf in leaves.items()}
    return {path: f"{int(high):08x}{int(low):08x}" for path, (high, low) in sums.items()}


@jax.jit
def _sums_of(leaf: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Two sums over the words of an array, modulo 2^32, that depend on every word's place."""
    words, places = _words(leaf), _places(leaf.shape)
    # Odd factors have inverses modulo 2^32: no change of one word is multiplied to nothing.
    linear = jnp.sum(words * (_mixed(places) | 1), dtype=jnp.uint32)
    # Not linear in the words: changes that cancel in the first sum do not cancel here.
    mixed = jnp.sum(_mixed(words + _mixed(places + jnp.uint32(_GOLDEN))), dtype=jnp.uint32)
    return linear, mixed


def _words(leaf: jax.Array) -> jax.Array:
    """The bits of every element as uint32."""
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    bits = jnp.dtype(leaf.dtype).itemsize * 8
    return jax.lax.bitcast_convert_type(leaf, f"uint{bits}").astype(jnp.uint32)


def _places(shape: tuple[int, ...]) -> jax.Array:
    """The position of every element in row-major order, without a reshape of what may be split."""
    places = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        places += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
        stride *= shape[axis]
    return places


def _mixed(words: jax.Array) -> jax.Array:
    """A permutation of 32-bit words after which near words are far apart."""
    for factor, shift in zip(_MIX, (16, 13), strict=True):
        words = (words ^ (words >> shift)) * jnp.uint32(factor)
    return words ^ (words >> 16)
