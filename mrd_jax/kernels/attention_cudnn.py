# SPDX-License-Identifier: Apache-2.0
"""Self-attention by cuDNN on NVIDIA GPUs: the scores stay on the chip, in both passes.

cuDNN computes in bfloat16 or float16. It differentiates sequences of even length only, so an odd
one, such as 512 groups and the first token, gets one more token, which no token attends to.
"""

from typing import Literal

import jax
import jax.numpy as jnp

# dtypes that cuDNN computes attention in.
DTYPES = ("bfloat16", "float16")
# Largest width of a head on every GPU with compute capability 8.0 or more, and its granularity.
WIDTH_MAXIMUM, WIDTH_MULTIPLE = 128, 8

Implementation = Literal["cudnn", "xla"]


def supports(*, dim: int, heads: int, dtype: jax.typing.DTypeLike) -> bool:
    """Returns whether cuDNN computes attention with these sizes in this dtype."""
    width, remainder = divmod(dim, heads)
    fits = width <= WIDTH_MAXIMUM and width % WIDTH_MULTIPLE == 0
    return fits and not remainder and jnp.dtype(dtype).name in DTYPES


def attend(packed: jax.Array, *, heads: int, implementation: Implementation = "cudnn") -> jax.Array:
    """Computes attention; its gradient recomputes the scores.

    Args:
      packed: [batch, tokens, 3 * dim], queries, keys and values, each with its heads side by side.
      heads: number of heads.
      implementation: "cudnn", or "xla", which computes the same on any device and in any dtype.

    Returns:
      [batch, tokens, dim], in the dtype of `packed`.
    """
    batch, tokens, _ = packed.shape
    padding, lengths = tokens % 2, None
    if padding:
        packed = jnp.pad(packed, ((0, 0), (0, padding), (0, 0)))
        lengths = jnp.full(batch, tokens, jnp.int32)
    parts = packed.reshape(batch, tokens + padding, 3 * heads, -1)
    query, key, value = jnp.split(parts, 3, axis=2)
    mixed = jax.nn.dot_product_attention(
        query,
        key,
        value,
        query_seq_lengths=lengths,
        key_value_seq_lengths=lengths,
        implementation=implementation,
    )
    return mixed[:, :tokens].reshape(batch, tokens, -1)
