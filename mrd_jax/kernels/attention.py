# SPDX-License-Identifier: Apache-2.0
"""Dot-product attention: Pallas kernels on TPUs, one head at a time on CPUs, else the library's.

XLA writes the scores of the whole batch to memory and reads them back several times. On a CPU, one
head of one sample fits into a core's cache: forward and backward pass take about a third of the
time (`python -m benchmarks.attention`). On a TPU, all scores of a sample fit into vector memory:
see `attention_rows`, and docs/tpu_step.md for the time that this saves.
"""

import functools

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from mrd_jax.kernels import attention_rows

# Name of the residuals that rematerialisation policies keep; see `jax.checkpoint_policies`.
SAVED = "attention"
# Implementations on a TPU. "pallas": the kernels, an error if they do not support the sizes; "xla":
# the library; "auto": the kernels if they support the sizes, else the library. On other platforms
# the choice has no effect.
IMPLEMENTATIONS = ("auto", "xla", "pallas")


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def self_attention(packed: jax.Array, heads: int, implementation: str = "auto") -> jax.Array:
    """Computes softmax(query . key / sqrt(head_dim)) . value, with the softmax in float32.

    The backward pass recomputes the scores on every platform.

    Args:
      packed: [batch, tokens, 3 * dim], queries, keys and values, each with its heads side by side.
      heads: number of heads, each dim / heads wide.
      implementation: one of `IMPLEMENTATIONS`.

    Returns:
      [batch, tokens, dim], in the dtype of `packed`.

    Raises:
      ValueError: `implementation` is "pallas" and the kernels do not support these sizes.
    """
    return _self_forward(packed, heads, implementation)[0]


def _self_forward(packed, heads, implementation):
    def head_by_head(packed):
        mixed, residuals = _forward(*_unpack(packed, heads))
        return _flatten_heads(mixed), residuals[-1].reshape(packed.shape[0], heads, -1)

    def library(packed):
        mixed = _flatten_heads(jax.nn.dot_product_attention(*_unpack(packed, heads)))
        return mixed, jnp.zeros((packed.shape[0], heads, packed.shape[1]), jnp.float32)

    def kernels(packed):
        return attention_rows.forward(packed, heads=heads)

    tpu = kernels if _uses_kernels(packed, heads, implementation) else library
    outputs = jax.lax.platform_dependent(packed, cpu=head_by_head, tpu=tpu, default=library)
    mixed, normaliser = (checkpoint_name(output, SAVED) for output in outputs)
    return mixed, (packed, mixed, normaliser)


def _self_backward(heads, implementation, residuals, gradient):
    def head_by_head(packed, mixed, normaliser, gradient):
        mixed, gradient = (x.reshape(*x.shape[:2], heads, -1) for x in (mixed, gradient))
        saved = *_unpack(packed, heads), mixed, normaliser.reshape(-1, packed.shape[1], 1)
        gradients = _backward(saved, gradient)
        return jnp.concatenate([_flatten_heads(x) for x in gradients], axis=-1)

    def library(packed, mixed, normaliser, gradient):
        def recompute(packed):
            return _flatten_heads(jax.nn.dot_product_attention(*_unpack(packed, heads)))

        return jax.vjp(recompute, packed)[1](gradient)[0]

    uses_kernels = _uses_kernels(residuals[0], heads, implementation)
    tpu = attention_rows.backward if uses_kernels else library
    return (
        jax.lax.platform_dependent(
            *residuals, gradient, cpu=head_by_head, tpu=tpu, default=library
        ),
    )


self_attention.defvjp(_self_forward, _self_backward)


def _uses_kernels(packed: jax.Array, heads: int, implementation: str) -> bool:
    _, tokens, width = packed.shape
    sizes = dict(dim=width // 3, heads=heads, tokens=tokens, itemsize=packed.dtype.itemsize)
    supported = attention_rows.supports(**sizes)
    if implementation == "pallas" and not supported:
        raise ValueError(
            f"config.model.attention is 'pallas', but the kernels do not support {sizes}; expected "
            f"an even number of heads, each {attention_rows.WIDTH} wide, and rows that fit into "
            "vector memory. Use 'auto'"
        )
    return supported and implementation != "xla"


def _unpack(packed: jax.Array, heads: int) -> list[jax.Array]:
    """Returns queries, keys and values, each [batch, tokens, heads, head_dim]."""
    batch, tokens, _ = packed.shape
    return [part.reshape(batch, tokens, heads, -1) for part in jnp.split(packed, 3, axis=-1)]


def _flatten_heads(x: jax.Array) -> jax.Array:
    """Reshapes [batch, tokens, heads, head_dim] to [batch, tokens, dim]."""
    return x.reshape(*x.shape[:2], -1)


def attention(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes `self_attention` with queries of other tokens than the keys and values.

    Args:
      query: [batch, queries, heads, head_dim].
      key: [batch, tokens, heads, head_dim].
      value: [batch, tokens, heads, head_dim].

    Returns:
      [batch, queries, heads, head_dim], in the dtype of `query`.
    """
    return jax.lax.platform_dependent(
        query, key, value, cpu=head_by_head, default=jax.nn.dot_product_attention
    )


@jax.custom_vjp
def head_by_head(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
    """Computes `attention` in a loop over samples and heads; the backward pass recomputes scores.

    Args and returned value are those of `attention`.
    """
    return _forward(query, key, value)[0]


def _forward(query, key, value):
    heads, dtype = query.shape[2], query.dtype

    def attend(arrays):
        query, key, value = arrays
        scores = _product(query, key.T)
        maximum = jnp.max(scores, axis=-1, keepdims=True)
        weights = jnp.exp(scores - maximum)
        total = jnp.sum(weights, axis=-1, keepdims=True)
        mixed = _product(weights.astype(dtype), value) / total
        return mixed.astype(dtype), maximum + jnp.log(total)

    scaled = query * query.shape[-1] ** -0.5
    mixed, normaliser = jax.lax.map(
        attend, (_split_heads(scaled), _split_heads(key), _split_heads(value))
    )
    mixed = checkpoint_name(_join_heads(mixed, heads), SAVED)
    normaliser = checkpoint_name(normaliser, SAVED)
    return mixed, (query, key, value, mixed, normaliser)


def _backward(residuals, gradient):
    query, key, value, mixed, normaliser = residuals
    heads, dtype, scale = query.shape[2], query.dtype, query.shape[-1] ** -0.5
    # The gradient of the softmax subtracts the same number from a whole row (Dao et al. 2022).
    common = jnp.sum((gradient * mixed).astype(jnp.float32), axis=-1, keepdims=True)

    def differentiate(arrays):
        query, key, value, gradient, normaliser, common = arrays
        weights = jnp.exp(_product(query, key.T) - normaliser)
        to_value = _product(weights.astype(dtype).T, gradient)
        to_scores = (weights * (_product(gradient, value.T) - common)).astype(dtype)
        gradients = _product(to_scores, key), _product(to_scores.T, query), to_value
        return tuple(array.astype(dtype) for array in gradients)

    arrays = (
        *map(_split_heads, (query * scale, key, value, gradient)),
        normaliser,
        _split_heads(common),
    )
    to_query, to_key, to_value = jax.lax.map(differentiate, arrays)
    return (
        _join_heads(to_query, heads) * scale,
        _join_heads(to_key, heads),
        _join_heads(to_value, heads),
    )


head_by_head.defvjp(_forward, _backward)


def _product(left: jax.Array, right: jax.Array) -> jax.Array:
    return jnp.matmul(left, right, preferred_element_type=jnp.float32)


def _split_heads(x: jax.Array) -> jax.Array:
    """Reshapes [batch, rows, heads, width] to [batch * heads, rows, width]."""
    return jnp.moveaxis(x, 2, 1).reshape(-1, x.shape[1], x.shape[3])


def _join_heads(x: jax.Array, heads: int) -> jax.Array:
    """Inverts `_split_heads`."""
    return jnp.moveaxis(x.reshape(-1, heads, *x.shape[1:]), 1, 2)
