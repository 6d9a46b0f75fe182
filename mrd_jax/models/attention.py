# SPDX-License-Identifier: Apache-2.0
"""Dot-product attention: the library's on accelerators, one head at a time on a CPU.

XLA's CPU code for batched attention writes and reads the scores of the whole batch several times.
One head of one sample fits into a core's cache: forward and backward take about a third of the
time (`python -m benchmarks.attention`).
"""

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# What the CPU's backward pass needs beside its inputs; see `jax.checkpoint_policies`.
SAVED = "attention"


def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Mix values by softmax(query . key / sqrt(head_dim)); softmax in float32.

    Args:
      query: [batch, queries, heads, head_dim].
      key: [batch, tokens, heads, head_dim].
      value: [batch, tokens, heads, head_dim].

    Returns:
      [batch, queries, heads, head_dim], in the type of `query`.
    """
    return jax.lax.platform_dependent(
        query, key, value, cpu=head_by_head, default=jax.nn.dot_product_attention
    )


@jax.custom_vjp
def head_by_head(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """`attention` as a loop over samples and heads; the backward pass computes scores anew."""
    return _forward(query, key, value)[0]


def _forward(query, key, value):
    heads, dtype = query.shape[2], query.dtype

    def one(arrays):
        query, key, value = arrays
        scores = _product(query, key.T)
        highest = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - highest)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        mixed = _product(weights.astype(dtype), value) / total
        return mixed.astype(dtype), highest + jnp.log(total)

    scaled = query * query.shape[-1] ** -0.5
    mixed, normaliser = jax.lax.map(one, (_split(scaled), _split(key), _split(value)))
    mixed = checkpoint_name(_join(mixed, heads), SAVED)
    normaliser = checkpoint_name(normaliser, SAVED)
    return mixed, (query, key, value, mixed, normaliser)


def _backward(residuals, gradient):
    query, key, value, mixed, normaliser = residuals
    heads, dtype, scale = query.shape[2], query.dtype, query.shape[-1] ** -0.5
    # The gradient of the softmax subtracts the same amount from a whole row (Dao et al. 2022).
    common = jnp.sum((gradient * mixed).astype(jnp.float32), axis=-1, keepdims=True)

    def one(arrays):
        query, key, value, gradient, normaliser, common = arrays
        weights = jnp.exp(_product(query, key.T) - normaliser)
        to_value = _product(weights.astype(dtype).T, gradient)
        to_scores = (weights * (_product(gradient, value.T) - common)).astype(dtype)
        found = _product(to_scores, key), _product(to_scores.T, query), to_value
        return tuple(array.astype(dtype) for array in found)

    arrays = (*map(_split, (query * scale, key, value, gradient)), normaliser, _split(common))
    to_query, to_key, to_value = jax.lax.map(one, arrays)
    return _join(to_query, heads) * scale, _join(to_key, heads), _join(to_value, heads)


head_by_head.defvjp(_forward, _backward)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


def _split(x: jax.Array) -> jax.Array:
    """[batch, rows, heads, width] to [batch * heads, rows, width]."""
    return jnp.moveaxis(x, 2, 1).reshape(-1, x.shape[1], x.shape[3])


def _join(x: jax.Array, heads: int) -> jax.Array:
    """Undo `_split`."""
    return jnp.moveaxis(x.reshape(-1, heads, *x.shape[1:]), 1, 2)
