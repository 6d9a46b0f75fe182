# SPDX-License-Identifier: Apache-2.0
"""Pre-norm transformer that returns its first token; one compiled block, whatever the depth."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.kernels import attention as attentions
from mrd_jax.models import norm

# Kinds of MLP. "swiglu" multiplies the second half of its hidden layer by SiLU of the first;
# "swiglu_norm" adds a LayerNorm before the second map.
MLPS = ("gelu", "swiglu", "swiglu_norm")

# What the backward pass keeps of a block: what attention asks for, and products with kernels.
_OF_ATTENTION = jax.checkpoint_policies.save_only_these_names(attentions.SAVED)
_SAVEABLE = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _OF_ATTENTION
)


@dataclasses.dataclass(frozen=True)
class BlockOptions:
    """What the blocks of a transformer have in common; the defaults are OpenShape's.

    Attributes:
      heads: attention heads, each of width dim / heads.
      mlp_dim: hidden width of the MLP.
      mlp: one of `MLPS`.
      qkv_bias: whether queries and values have a bias (keys never do: softmax would not see it).
      epsilon: what LayerNorm adds to the variance.
      dtype: of the activations; norms and softmax are float32.
      attention: on a TPU, one of `attention.WAYS`.
    """

    heads: int
    mlp_dim: int
    mlp: str = "gelu"
    qkv_bias: bool = False
    epsilon: float = 1e-5
    dtype: jax.typing.DTypeLike = jnp.float32
    attention: str = "auto"


class Attention(nn.Module):
    """Multi-head self-attention; the query, key and value maps are one product.

    Attributes:
      options: of the block.
      tokens: per sample.
      queries: how many of the first tokens to answer; None for all.
    """

    options: BlockOptions
    tokens: int
    queries: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [batch * tokens, dim] to [batch * queries, dim]."""
        dim, dtype = x.shape[-1], self.options.dtype
        kernel = self.param("qkv", norm.KERNEL_INIT, (dim, 3 * dim)).astype(dtype)

        bias = jnp.zeros(3 * dim, dtype)
        if self.options.qkv_bias:
            to_query = self.param("query_bias", nn.initializers.zeros, (dim,))
            to_value = self.param("value_bias", nn.initializers.zeros, (dim,))
            bias = jnp.concatenate([to_query, bias[:dim], to_value]).astype(dtype)

        def rows_of(x, part):
            rows = x @ kernel[:, part]
            return rows + bias[part] if self.options.qkv_bias else rows

        if self.queries is None:
            packed = rows_of(x, slice(None)).reshape(-1, self.tokens, 3 * dim)
            mixed = attentions.self_attention(packed, self.options.heads, self.options.attention)
        else:
            query = rows_of(first_tokens(x, self.tokens, self.queries), slice(dim))
            key, value = jnp.split(rows_of(x, slice(dim, None)), 2, axis=-1)
            heads = self.options.heads, dim // self.options.heads
            query = query.reshape(-1, self.queries, *heads)
            key, value = (rows.reshape(-1, self.tokens, *heads) for rows in (key, value))
            mixed = attentions.attention(query, key, value)
        output = nn.Dense(dim, dtype=dtype, kernel_init=norm.KERNEL_INIT, name="output")
        return output(mixed.reshape(-1, dim))


class Mlp(nn.Module):
    """Two linear maps around a GELU or a gate.

    Attributes:
      options: of the block.
    """

    options: BlockOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Map [rows, dim] to [rows, dim]."""
        options = self.options
        dense = functools.partial(nn.Dense, dtype=options.dtype, kernel_init=norm.KERNEL_INIT)
        gated = options.mlp != "gelu"
        hidden = dense(options.mlp_dim * (2 if gated else 1), name="expand")(x)
        if gated:
            gate, value = jnp.split(hidden, 2, axis=-1)
            hidden = nn.silu(gate) * value
        else:
            hidden = gelu(hidden)
        if options.mlp == "swiglu_norm":
            hidden = layer_normalisation(options, name="norm")(hidden)
        return dense(x.shape[-1], name="contract")(hidden)


class Block(nn.Module):
    """Attention and MLP, each behind a LayerNorm and around a shortcut.

    Activations are two-dimensional, so that the gradient of every kernel is one plain matrix
    product (on CPU that is the difference between 11 and 5 s a step at scaling 4).

    Attributes: as in `Attention`.
    """

    options: BlockOptions
    tokens: int
    queries: int | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, rate: jax.Array | None = None, keys: jax.Array | None = None
    ) -> tuple[jax.Array, None]:
        """Map [batch * tokens, dim] to [batch * queries, dim], and None as `nn.scan` wants it.

        Args:
          x: the tokens.
          rate: [] chance of leaving out each of the two branches, per sample; None for none.
          keys: [batch] random keys of this block, where `rate` is given.
        """
        branch_keys: Any = (None, None)
        if rate is not None and keys is not None:
            branch_keys = jnp.moveaxis(_split_each(keys), 1, 0)
        attention = Attention(self.options, self.tokens, self.queries, name="attention")
        change = attention(layer_normalisation(self.options, name="attention_norm")(x))
        if self.queries is not None:
            x = first_tokens(x, self.tokens, self.queries)
        x = x + drop_path(change, rate=rate, keys=branch_keys[0])
        change = Mlp(self.options, name="mlp")(
            layer_normalisation(self.options, name="mlp_norm")(x)
        )
        return x + drop_path(change, rate=rate, keys=branch_keys[1]), None


class Transformer(nn.Module):
    """`depth` blocks over the tokens of each sample, reduced to the first token.

    Only the first token leaves, so the last block answers only that one: the same value for a
    fraction of a block. The others share one compiled body and stack their parameters along a
    leading axis.

    Attributes:
      options: of every block.
      depth: number of blocks, at least 1.
      drop_path: chance of leaving out a branch of the last block for a sample in training; from
        zero at the first block, linear in between (stochastic depth, Huang et al. 2016).
      remat: keep only the input of each block, and what its attention gives, for the backward pass.
        Otherwise the products with kernels are kept too; attention weights and what is elementwise
        are always recomputed, which costs no more than reading them back.
      scan: loop over the blocks; False unrolls the loop, for the same values and parameters.
      gather: makes the parameters of one block of the loop whole, where a device holds a share of
        them; forward and again to go back, so that one block at a time is whole. None: they are.
    """

    options: BlockOptions
    depth: int
    drop_path: float = 0.0
    remat: bool = False
    scan: bool = True
    gather: Callable[[Any], Any] | None = None

    @nn.compact
    def __call__(self, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Map [batch, tokens, dim] to [batch, dim].

        Args:
          tokens: of every sample.
          keys: [batch] random keys: drops branches; None drops none (evaluation).
        """
        batch, count, dim = tokens.shape
        saveable = _OF_ATTENTION if self.remat else _SAVEABLE
        # Inside a loop nothing can be merged with the forward pass, so no barrier is needed.
        shared = Block
        if self.gather is not None:
            shared = nn.map_variables(Block, "params", trans_in_fn=self.gather)
        block = nn.remat(shared, policy=saveable, prevent_cse=not self.scan)
        last_block = nn.remat(Block, policy=saveable)
        rates, block_keys = None, None
        if keys is not None and self.drop_path > 0:
            rates = jnp.linspace(0, self.drop_path, self.depth)
            block_keys = jnp.moveaxis(_split_each(keys, self.depth), 1, 0)  # [depth, batch]

        def of(values, index):
            return None if values is None else values[index]

        x = tokens.reshape(batch * count, dim)
        if self.depth > 1:
            blocks = nn.scan(
                block,
                variable_axes={"params": 0, "intermediates": 0},
                split_rngs={"params": True},
                length=self.depth - 1,
                unroll=1 if self.scan else self.depth - 1,
            )(self.options, count, name="blocks")
            x, _ = blocks(x, of(rates, slice(-1)), of(block_keys, slice(-1)))
        last = last_block(self.options, count, queries=1, name="last_block")
        return last(x, of(rates, -1), of(block_keys, -1))[0]


def first_tokens(x: jax.Array, tokens: int, count: int) -> jax.Array:
    """Take the first `count` tokens of every sample, from [batch * tokens, dim]."""
    dim = x.shape[-1]
    return x.reshape(-1, tokens, dim)[:, :count].reshape(-1, dim)


def drop_path(change: jax.Array, *, rate: jax.Array | None, keys: jax.Array | None) -> jax.Array:
    """Leave out a branch for some samples and scale it up for the others: the mean stays.

    Args:
      change: [batch * tokens, dim], what the branch adds.
      rate: [] chance of leaving it out; None returns `change`.
      keys: [batch] random keys: a sample's fate depends on its own key only.

    Returns:
      As `change`.
    """
    if rate is None:
        return change
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate))(keys)
    factor = jnp.where(kept, 1 / (1 - rate), 0).astype(change.dtype)
    by_sample = change.reshape(len(factor), -1, change.shape[-1]) * factor[:, None, None]
    return by_sample.reshape(change.shape)


def layer_normalisation(options: BlockOptions, *, name: str) -> nn.LayerNorm:
    """LayerNorm as PyTorch computes it: two passes, statistics in float32."""
    return nn.LayerNorm(
        epsilon=options.epsilon, dtype=options.dtype, use_fast_variance=False, name=name
    )


def gelu(x: jax.Array) -> jax.Array:
    """Exact GELU through erf, which is one rational function where erfc is two."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


def _split_each(keys: jax.Array, count: int = 2) -> jax.Array:
    """Split every key of [batch] into `count` new ones: [batch, count]."""
    return jax.vmap(lambda key: jax.random.split(key, count))(keys)
