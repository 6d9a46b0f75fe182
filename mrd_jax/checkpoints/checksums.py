# SPDX-License-Identifier: Apache-2.0
"""Checksums of arrays, computed on the devices that hold them.

A cryptographic hash would need every array on one host. These checksums are sums of integers, which
do not depend on the sharding of an array: they are the same on one device and on a pod, before a
save and after a restore onto another topology. They detect corruption, not forgery.
"""

from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp

# Odd constants: those of the finalizer of MurmurHash3 (A. Appleby), and 2^32 / phi.
_MIX = (0x85EBCA6B, 0xC2B2AE35)
_GOLDEN = 0x9E3779B9


def tree_checksums(tree: Any) -> dict[str, str]:
    """Computes a checksum of every array of a tree.

    A change of one word, hence any single flipped byte, always changes the checksum; any other
    change remains undetected with probability of about 2^-64. Every process must call this function
    if the arrays span processes.

    Args:
      tree: tree of arrays on the host or on devices, each with up to 2^32 elements of up to 32
        bits.

    Returns:
      16 hex digits by the path of each leaf as Orbax names it, such as
      "params/student/projection/kernel".
    """
    leaves = ocp.tree.to_flat_dict(tree, sep="/")
    # One after another: the sum of a sharded array is a collective, and many at once can deadlock
    # the threads that emulate devices on CPU.
    sums = {path: jax.device_get(_sums_of(leaf)) for path, leaf in leaves.items()}
    return {path: f"{int(high):08x}{int(low):08x}" for path, (high, low) in sums.items()}


@jax.jit
def _sums_of(leaf: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes two sums modulo 2^32 over the words of an array and their positions."""
    words, positions = _words(leaf), _positions(leaf.shape)
    # Odd factors are invertible modulo 2^32, so that a change of one word changes the sum.
    linear = jnp.sum(words * (_mixed(positions) | 1), dtype=jnp.uint32)
    # Not linear in the words: changes that cancel out in the first sum do not here.
    mixed = jnp.sum(_mixed(words + _mixed(positions + jnp.uint32(_GOLDEN))), dtype=jnp.uint32)
    return linear, mixed


def _words(leaf: jax.Array) -> jax.Array:
    """Returns the bits of every element as uint32."""
    if leaf.dtype == jnp.bool_:
        return leaf.astype(jnp.uint32)
    bits = jnp.dtype(leaf.dtype).itemsize * 8
    return jax.lax.bitcast_convert_type(leaf, f"uint{bits}").astype(jnp.uint32)


def _positions(shape: tuple[int, ...]) -> jax.Array:
    """Returns the row-major position of every element, without reshaping sharded arrays."""
    positions = jnp.zeros(shape, jnp.uint32)
    stride = 1
    for axis in reversed(range(len(shape))):
        positions += jax.lax.broadcasted_iota(jnp.uint32, shape, axis) * jnp.uint32(stride)
        stride *= shape[axis]
    return positions


def _mixed(words: jax.Array) -> jax.Array:
    """Permutes 32-bit words pseudo-randomly (finalizer of MurmurHash3)."""
    for factor, shift in zip(_MIX, (16, 13), strict=True):
        words = (words ^ (words >> shift)) * jnp.uint32(factor)
    return words ^ (words >> 16)
