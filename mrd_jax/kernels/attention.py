# SPDX-License-Identifier: Apache-2.0
"""Dot-product attention, with an implementation for each platform.

XLA writes the scores of the whole batch to memory and reads them back several times. On a CPU, one
head of one sample fits into a core's cache: forward and backward pass take about a third of the
time (`python -m benchmarks.attention`). On a TPU, all scores of a sample fit into vector memory:
see `attention_rows`, and docs/tpu_step.md for the time that this saves. On an NVIDIA GPU, cuDNN
keeps them on the chip: see `attention_cudnn`.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from mrd_jax.kernels import attention_cudnn, attention_rows, platforms

# Name of the residuals that rematerialisation policies keep; see `jax.checkpoint_policies`.
SAVED = "attention"
# Implementations, see `self_attention`.
IMPLEMENTATIONS = ("auto", "xla", "pallas", "cudnn")
# For exported programs: as "auto", without the kernels, which are for one generation of devices.
PORTABLE = "portable"
# Implementations that only one platform has, named as `jax.lax.platform_dependent` names it.
PLATFORM = {"pallas": "tpu", "cudnn": "cuda"}


@functools.partial(jax.custom_vjp, nondiff_argnums=(1, 2))
def self_attention(packed: jax.Array, heads: int, implementation: str = "auto") -> jax.Array:
    """Computes softmax(query . key / sqrt(head_dim)) . value, with the softmax in float32.

    The backward pass recomputes the scores on every platform.

    Args:
      packed: [batch, tokens, 3 * dim], queries, keys and values, each with its heads side by side.
      heads: number of heads, each dim / heads wide.
      implementation: one of `IMPLEMENTATIONS` or `PORTABLE`. "xla" is the library's; "pallas" is
        `attention_rows`, for TPUs; "cudnn" is `attention_cudnn`, for NVIDIA GPUs. They mean the
        same on every platform, so a program with "pallas" cannot be lowered for a GPU. "auto"
        selects the fastest that the platform has and that supports size and dtype.

    Returns:
      [batch, tokens, dim], in the dtype of `packed`.

    Raises:
      ValueError: the implementation does not support this size or dtype.
    """
    return _self_forward(packed, heads, implementation)[0]


def check(
    implementation: str,
    *,
    dim: int,
    heads: int,
    tokens: int,
    dtype: jax.typing.DTypeLike,
    platform: str = "",
) -> None:
    """Checks that an implementation of `self_attention` can be used.

    Args:
      implementation: one of `IMPLEMENTATIONS`.
      dim: width of the tokens.
      heads: number of heads.
      tokens: tokens per sample.
      dtype: dtype of the activations.
      platform: platform that the program runs on, see `platforms.of_device`; "" for any.

    Raises:
      ValueError: the platform lacks the implementation, or it does not support size or dtype.
    """
    name, found = jnp.dtype(dtype).name, f"config.model.attention is {implementation!r}, but "
    own = [value for value in IMPLEMENTATIONS if PLATFORM.get(value, platform) == platform]
    if platform and implementation not in own:
        raise ValueError(f"{found}the platform is {platform}, which has {', '.join(own)}")
    sizes = dict(dim=dim, heads=heads)
    rows = dict(sizes, tokens=tokens, itemsize=jnp.dtype(dtype).itemsize)
    if implementation == "pallas" and not attention_rows.supports(**rows):
        raise ValueError(
            f"{found}the kernels do not support {rows}; expected an even number of heads, each "
            f"{attention_rows.WIDTH} wide, and rows that fit into vector memory. Use 'auto'"
        )
    if implementation == "cudnn" and not attention_cudnn.supports(**sizes, dtype=dtype):
        raise ValueError(
            f"{found}cuDNN does not support {sizes} in {name}; expected a dtype of "
            f"{' or '.join(attention_cudnn.DTYPES)} and heads whose width is a multiple of "
            f"{attention_cudnn.WIDTH_MULTIPLE}, at most {attention_cudnn.WIDTH_MAXIMUM}. Use 'auto'"
        )


def choices(*, dim: int, heads: int, tokens: int, dtype: jax.typing.DTypeLike) -> dict[str, str]:
    """Returns what "auto" selects, by the platform names of `jax.lax.platform_dependent`.

    Arguments are those of `check`. "loop" is `head_by_head`.
    """
    itemsize = jnp.dtype(dtype).itemsize
    rows = attention_rows.supports(dim=dim, heads=heads, tokens=tokens, itemsize=itemsize)
    cudnn = platforms.compiles_cuda() and attention_cudnn.supports(
        dim=dim, heads=heads, dtype=dtype
    )
    return {
        "cpu": "loop",
        "tpu": "pallas" if rows else "xla",
        "cuda": "cudnn" if cudnn else "xla",
        "default": "xla",
    }


def _call(
    functions: Mapping[str, Callable[..., Any]], heads: int, implementation: str, *arrays: jax.Array
) -> Any:
    """Calls the function of an implementation; the first array is packed."""
    _, tokens, width = arrays[0].shape
    sizes: dict[str, Any] = dict(dim=width // 3, heads=heads, tokens=tokens, dtype=arrays[0].dtype)
    if implementation == PORTABLE:
        branches = {"cpu": functions["loop"], "default": functions["xla"]}
        return jax.lax.platform_dependent(*arrays, **branches)
    if implementation != "auto":
        check(implementation, **sizes)
        return functions[implementation](*arrays)
    branches = {platform: functions[name] for platform, name in choices(**sizes).items()}
    return jax.lax.platform_dependent(*arrays, **branches)


def _self_forward(packed, heads, implementation):
    def loop(packed):
        mixed, residuals = _forward(*_unpack(packed, heads))
        return _flatten_heads(mixed), residuals[-1].reshape(packed.shape[0], heads, -1)

    def without_normaliser(attend):
        def forward(packed):
            # Both recompute the normaliser with the scores.
            return attend(packed, heads), jnp.zeros(
                (packed.shape[0], heads, packed.shape[1]), jnp.float32
            )

        return forward

    functions = {
        "loop": loop,
        "xla": without_normaliser(_library),
        "pallas": functools.partial(attention_rows.forward, heads=heads),
        "cudnn": without_normaliser(_cudnn),
    }
    outputs = _call(functions, heads, implementation, packed)
    mixed, normaliser = (checkpoint_name(output, SAVED) for output in outputs)
    return mixed, (packed, mixed, normaliser)


def _self_backward(heads, implementation, residuals, gradient):
    def loop(packed, mixed, normaliser, gradient):
        mixed, gradient = (x.reshape(*x.shape[:2], heads, -1) for x in (mixed, gradient))
        saved = *_unpack(packed, heads), mixed, normaliser.reshape(-1, packed.shape[1], 1)
        gradients = _backward(saved, gradient)
        return jnp.concatenate([_flatten_heads(x) for x in gradients], axis=-1)

    def recompute(attend):
        def backward(packed, mixed, normaliser, gradient):
            return jax.vjp(lambda packed: attend(packed, heads), packed)[1](gradient)[0]

        return backward

    functions = {
        "loop": loop,
        "xla": recompute(_library),
        "pallas": attention_rows.backward,
        "cudnn": recompute(_cudnn),
    }
    return (_call(functions, heads, implementation, *residuals, gradient),)


self_attention.defvjp(_self_forward, _self_backward)


def _library(packed: jax.Array, heads: int) -> jax.Array:
    return _flatten_heads(jax.nn.dot_product_attention(*_unpack(packed, heads)))


def _cudnn(packed: jax.Array, heads: int) -> jax.Array:
    return attention_cudnn.attend(packed, heads=heads)


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
