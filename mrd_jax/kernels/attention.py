# SPDX-License-Identifier: Apache-2.0
"""Dot-product attention: kernels on a TPU, one head at a time on a CPU, else the library's.

XLA writes the scores of the whole batch to memory and reads them again several times. On a CPU one
head of one sample fits into a core's cache: forward and backward take about a third of the time
(`python -m benchmarks.attention`). On a TPU all scores of a sample fit into its vector memory: see
`attention_rows`, and docs/tpu_step.md for what that saves.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from mrd_jax.kernels import attention_rows

# What the backward pass needs beside its inputs; see `jax.checkpoint_policies`.
SAVED = "attention"
# On a TPU: "pallas" is the kernels, or an error where they do not take the sizes; "xla" the
# library; "auto" the kernels where they take the sizes. Elsewhere all are the same.
WAYS = ("auto", "xla", "pallas")


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def self_attention(packed: jax.Array, heads: int, way: str = "auto") -> jax.Array:
    """Mix values by softmax(query . key / sqrt(head_dim)); softmax in float32.

    The backward pass computes scores anew on every platform.

    Args:
      packed: [batch, tokens, 3 * dim]: queries, keys and values, heads side by side in each.
      heads: of width dim / heads.
      way: one of `WAYS`.

    Returns:
      [batch, tokens, dim], in the type of `packed`.

    Raises:
      ValueError: "pallas" is asked for, and the kernels do not take these sizes.
    """
    return _self_forward(packed, heads, way)[0]


def _self_forward(packed, heads, way):
    def head_by_head(packed):
        mixed, residuals = _forward(*_unpack(packed, heads))
        return _flat(mixed), residuals[-1].reshape(packed.shape[0], heads, -1)

    def library(packed):
        mixed = _flat(jax.nn.dot_product_attention(*_unpack(packed, heads)))
        return mixed, jnp.zeros((packed.shape[0], heads, packed.shape[1]), jnp.float32)

    def kernels(packed):
        return attention_rows.forward(packed, heads=heads)

    tpu = kernels if _by_kernels(packed, heads, way) else library
    found = jax.lax.platform_dependent(packed, cpu=head_by_head, tpu=tpu, default=library)
    mixed, normaliser = (checkpoint_name(one, SAVED) for one in found)
    return mixed, (packed, mixed, normaliser)


def _self_backward(heads, way, residuals, gradient):
    def head_by_head(packed, mixed, normaliser, gradient):
        mixed, gradient = (x.reshape(*x.shape[:2], heads, -1) for x in (mixed, gradient))
        saved = *_unpack(packed, heads), mixed, normaliser.reshape(-1, packed.shape[1], 1)
        return jnp.concatenate([_flat(one) for one in _backward(saved, gradient)], axis=-1)

    def library(packed, mixed, normaliser, gradient):
        def again(packed):
            return _flat(jax.nn.dot_product_attention(*_unpack(packed, heads)))

        return jax.vjp(again, packed)[1](gradient)[0]

    tpu = attention_rows.backward if _by_kernels(residuals[0], heads, way) else library
    return (
        jax.lax.platform_dependent(
            *residuals, gradient, cpu=head_by_head, tpu=tpu, default=library
        ),
    )


self_attention.defvjp(_self_forward, _self_backward)


def _by_kernels(packed: jax.Array, heads: int, way: str) -> bool:
    _, tokens, width = packed.shape
    sizes = dict(dim=width // 3, heads=heads, tokens=tokens, itemsize=packed.dtype.itemsize)
    fits = attention_rows.applies(**sizes)
    if way == "pallas" and not fits:
        raise ValueError(
            f"model.attention is 'pallas', whose kernels do not take {sizes}; they take an even "
            f"number of heads of {attention_rows.WIDTH}, as many rows as fit into vector memory. "
            "Use 'auto'"
        )
    return fits and way != "xla"


def _unpack(packed: jax.Array, heads: int) -> list[jax.Array]:
    """Queries, keys and values, each [batch, tokens, heads, head_dim]."""
    batch, tokens, _ = packed.shape
    return [part.reshape(batch, tokens, heads, -1) for part in jnp.split(packed, 3, axis=-1)]


def _flat(x: jax.Array) -> jax.Array:
    """[batch, tokens, heads, head_dim] to [batch, tokens, dim]."""
    return x.reshape(*x.shape[:2], -1)


def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """As `self_attention`, where queries are of other tokens than keys and values.

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
