# SPDX-License-Identifier: Apache-2.0
"""Pre-norm transformer that returns its first token; one compiled block, whatever the depth."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.models import norm

# What OpenShape's LayerNorms add to the variance.
EPSILON = 1e-5


class Attention(nn.Module):
    """Multi-head self-attention; the query, key and value maps are one product without bias.

    Attributes:
      heads: each of width dim / heads.
      tokens: per sample.
      queries: how many of the first tokens to answer; None for all.
      dtype: of the activations; the softmax is float32.
    """

    heads: int
    tokens: int
    queries: int | None = None
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [batch * tokens, dim] to [batch * queries, dim]."""
        dim = x.shape[-1]
        kernel = self.param("qkv", norm.KERNEL_INIT, (dim, 3 * dim)).astype(self.dtype)

        def heads_of(rows, tokens):
            return rows.reshape(-1, tokens, self.heads, dim // self.heads)

        if self.queries is None:
            answered = self.tokens
            query, key, value = jnp.split(x @ kernel, 3, axis=-1)
        else:
            answered = self.queries
            first = x.reshape(-1, self.tokens, dim)[:, :answered].reshape(-1, dim)
            query = first @ kernel[:, :dim]
            key, value = jnp.split(x @ kernel[:, dim:], 2, axis=-1)
        mixed = jax.nn.dot_product_attention(
            heads_of(query, answered), heads_of(key, self.tokens), heads_of(value, self.tokens)
        )
        output = nn.Dense(dim, dtype=self.dtype, kernel_init=norm.KERNEL_INIT, name="output")
        return output(mixed.reshape(-1, dim))


class Mlp(nn.Module):
    """Two linear maps around a GELU.

    Attributes:
      hidden: width between the maps.
      dtype: of the activations.
    """

    hidden: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [rows, dim] to [rows, dim]."""
        dense = functools.partial(nn.Dense, dtype=self.dtype, kernel_init=norm.KERNEL_INIT)
        return dense(x.shape[-1], name="contract")(gelu(dense(self.hidden, name="expand")(x)))


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and around a shortcut.

    Activations are two-dimensional, so that the gradient of every kernel is one plain matrix
    product (on CPU that is the difference between 11 and 5 s a step at scaling 4).

    Attributes: as in `Transformer` and `Attention`.
    """

    heads: int
    mlp_dim: int
    tokens: int
    queries: int | None = None
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, _: None = None) -> tuple[jax.Array, None]:
        """Map [batch * tokens, dim] to [batch * queries, dim], and None as `nn.scan` wants it."""
        layer_norm = functools.partial(layer_normalisation, dtype=self.dtype)
        attention = Attention(
            self.heads, self.tokens, self.queries, dtype=self.dtype, name="attention"
        )
        change = attention(layer_norm(name="attention_norm")(x))
        if self.queries is not None:
            dim = x.shape[-1]
            x = x.reshape(-1, self.tokens, dim)[:, : self.queries].reshape(-1, dim)
        x = x + change
        mlp = Mlp(self.mlp_dim, dtype=self.dtype, name="mlp")
        return x + mlp(layer_norm(name="mlp_norm")(x)), None


class Transformer(nn.Module):
    """`depth` blocks over the tokens of each sample, reduced to the first token.

    Only the first token leaves, so the last block answers only that one: the same value for a
    fraction of a block. The others share one compiled body and stack their parameters along a
    leading axis.

    Attributes:
      depth: number of blocks, at least 1.
      heads: attention heads.
      mlp_dim: hidden width of the MLPs.
      dtype: of the activations; norms and softmax are float32.
      remat: keep only the input of each block for the backward pass. Otherwise the products with
        kernels are kept too; attention weights and what is elementwise are always recomputed,
        which costs no more than reading them back.
      scan: loop over the blocks; False unrolls the loop, for the same values and parameters.
    """

    depth: int
    heads: int
    mlp_dim: int
    dtype: jax.typing.DTypeLike = jnp.float32
    remat: bool = False
    scan: bool = True

    @nn.compact
    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Map [batch, tokens, dim] to [batch, dim]."""
        batch, count, dim = tokens.shape
        policies = jax.checkpoint_policies
        saveable = None if self.remat else policies.dots_with_no_batch_dims_saveable
        # Inside a loop nothing can be merged with the forward pass, so no barrier is needed.
        block = nn.remat(Block, policy=saveable, prevent_cse=not self.scan)
        last_block = nn.remat(Block, policy=saveable)
        sizes = dict(heads=self.heads, mlp_dim=self.mlp_dim, tokens=count, dtype=self.dtype)
        x = tokens.reshape(batch * count, dim)
        if self.depth > 1:
            blocks = nn.scan(
                block,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True},
                length=self.depth - 1,
                unroll=1 if self.scan else self.depth - 1,
            )
            x, _ = blocks(**sizes, name="blocks")(x, None)
        x, _ = last_block(**sizes, queries=1, name="last_block")(x)
        return x


def layer_normalisation(*, dtype: jax.typing.DTypeLike, name: str) -> nn.LayerNorm:
    """LayerNorm as PyTorch computes it: two passes, statistics in float32."""
    return nn.LayerNorm(epsilon=EPSILON, dtype=dtype, use_fast_variance=False, name=name)


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU through erf, which is one rational function where erfc is two."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))
