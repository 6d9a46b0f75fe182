# SPDX-License-Identifier: Apache-2.0
"""Transformer that returns its first token; compiles one block for any depth."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.kernels import attention
from mrd_jax.models import norm, rotary

# Kinds of MLP. "swiglu" multiplies the second half of the hidden layer by SiLU of the first half;
# "swiglu_norm" adds a LayerNorm before the second map.
MLPS = ("gelu", "swiglu", "swiglu_norm")

# Rematerialisation policies: save the residuals of attention, and also the products with kernels.
_SAVE_ATTENTION = jax.checkpoint_policies.save_only_these_names(attention.SAVED)
_SAVE_PRODUCTS = jax.checkpoint_policies.save_from_both_policies(
    jax.checkpoint_policies.dots_with_no_batch_dims_saveable, _SAVE_ATTENTION
)


@dataclasses.dataclass(frozen=True)
class BlockOptions:
    """Options that all blocks of a transformer share; the defaults are OpenShape's.

    Attributes:
      heads: attention heads, each dim / heads wide.
      mlp_dim: hidden width of the MLP.
      mlp: one of `MLPS`.
      qkv_bias: add a bias to queries and values (softmax is invariant to a bias of the keys).
      inner_norm: normalise the output of attention before its last linear map.
      post_norm: normalise the output of each branch instead of its input.
      positions: rotates queries and keys by the position of their token; None does not.
      epsilon: term that LayerNorm adds to the variance.
      dtype: dtype of the activations; norms and softmax are float32.
      attention: one of `attention.IMPLEMENTATIONS`, for all queries; the last block's first token
        always takes `attention.attention`.
    """

    heads: int
    mlp_dim: int
    mlp: str = "gelu"
    qkv_bias: bool = False
    inner_norm: bool = False
    post_norm: bool = False
    positions: rotary.PatchGrid | None = None
    epsilon: float = 1e-5
    dtype: jax.typing.DTypeLike = jnp.float32
    attention: str = "auto"


class Attention(nn.Module):
    """Multi-head self-attention; queries, keys and values come from one product.

    Attributes:
      options: options of the block.
      tokens: tokens per sample.
      queries: number of leading tokens to compute the output for; None for all.
    """

    options: BlockOptions
    tokens: int
    queries: int | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [batch * tokens, dim] to [batch * queries, dim]."""
        dim, dtype = x.shape[-1], self.options.dtype
        kernel = self.param("qkv", norm.KERNEL_INIT, (dim, 3 * dim)).astype(dtype)

        bias = jnp.zeros(3 * dim, dtype)
        if self.options.qkv_bias:
            to_query = self.param("query_bias", nn.initializers.zeros, (dim,))
            to_value = self.param("value_bias", nn.initializers.zeros, (dim,))
            bias = jnp.concatenate([to_query, bias[:dim], to_value]).astype(dtype)

        def project(x, columns):
            rows = x @ kernel[:, columns]
            return rows + bias[columns] if self.options.qkv_bias else rows

        heads = self.options.heads, dim // self.options.heads
        if self.queries is None:
            packed = self._rotated(project(x, slice(None)).reshape(-1, self.tokens, 3, *heads))
            packed = packed.reshape(-1, self.tokens, 3 * dim)
            mixed = attention.self_attention(packed, self.options.heads, self.options.attention)
        else:
            query = project(first_tokens(x, self.tokens, self.queries), slice(dim))
            query = self._rotated(query.reshape(-1, self.queries, 1, *heads))[:, :, 0]
            packed = project(x, slice(dim, None)).reshape(-1, self.tokens, 2, *heads)
            key = self._rotated(packed[:, :, :1])[:, :, 0]
            mixed = attention.attention(query, key, packed[:, :, 1])
        mixed = mixed.reshape(-1, dim)
        if self.options.inner_norm:
            mixed = layer_normalisation(self.options, name="norm")(mixed)
        return nn.Dense(dim, dtype=dtype, kernel_init=norm.KERNEL_INIT, name="output")(mixed)

    def _rotated(self, packed: jax.Array) -> jax.Array:
        """Rotates queries and keys: [batch, tokens, parts, heads, head_dim], the values last."""
        positions = self.options.positions
        if positions is None:
            return packed
        turned = packed[:, :, :2]
        rows = turned.reshape(*turned.shape[:2], -1, turned.shape[-1])
        turned = positions.rotate(rows).reshape(turned.shape)
        return jnp.concatenate([turned, packed[:, :, 2:]], axis=2)


class Mlp(nn.Module):
    """Two linear maps around a GELU or a gated activation.

    Attributes:
      options: options of the block.
    """

    options: BlockOptions

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Maps [rows, dim] to [rows, dim]."""
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
    """Transformer block: attention and MLP, each normalised and with a residual connection.

    Activations are two-dimensional, so that the gradient of every kernel is a single matrix product
    (on a CPU, 5 instead of 11 s per step at scaling 4).

    Attributes:
      options: options of the block.
      tokens: tokens per sample.
      queries: number of leading tokens to compute the output for; None for all.
    """

    options: BlockOptions
    tokens: int
    queries: int | None = None

    @nn.compact
    def __call__(
        self, x: jax.Array, rate: jax.Array | None = None, keys: jax.Array | None = None
    ) -> tuple[jax.Array, None]:
        """Applies the block.

        Args:
          x: [batch * tokens, dim].
          rate: [], drop rate of each of the two branches; None drops no branch.
          keys: [batch] random keys of this block; required with `rate`.

        Returns:
          [batch * queries, dim], and None as the second output of a body of `nn.scan`.
        """
        branch_keys: Any = (None, None)
        if rate is not None and keys is not None:
            branch_keys = jnp.moveaxis(_split_each(keys), 1, 0)
        branch = self._normed(
            Attention(self.options, self.tokens, self.queries, name="attention"),
            layer_normalisation(self.options, name="attention_norm"),
            x,
        )
        if self.queries is not None:
            x = first_tokens(x, self.tokens, self.queries)
        x = x + drop_path(branch, rate=rate, keys=branch_keys[0])
        branch = self._normed(
            Mlp(self.options, name="mlp"), layer_normalisation(self.options, name="mlp_norm"), x
        )
        return x + drop_path(branch, rate=rate, keys=branch_keys[1]), None

    def _normed(self, branch: nn.Module, normalise: nn.Module, x: jax.Array) -> jax.Array:
        """Applies a branch and its norm, in the order of the options."""
        return normalise(branch(x)) if self.options.post_norm else branch(normalise(x))


class Transformer(nn.Module):
    """Transformer of `depth` blocks that returns the first token of each sample.

    Since only the first token is returned, the last block computes only that one: the same value at
    a fraction of the cost. The other blocks share one compiled body; their parameters are stacked
    along a leading axis.

    Attributes:
      options: options of every block.
      depth: number of blocks, at least 1.
      drop_path: probability of dropping a branch of the last block for a sample in training; it
        rises linearly from zero at the first block (stochastic depth, Huang et al. 2016).
      remat: save only the input and the attention output of each block for the backward pass. If
        False, the products with kernels are saved too; attention weights and elementwise results
        are always recomputed, which costs no more than reading them back.
      scan: loop over the blocks; False unrolls the loop, with the same values and parameters.
      gather: all-gathers the sharded parameters of one block (FSDP), in the forward and again in
        the backward pass, so that only one block is whole at a time; None if they are replicated.
      save_attention: with `remat`, save the attention output. It is of no use where the backward
        pass of the attention computes the output again, as cuDNN's does: for the normalisers.
    """

    options: BlockOptions
    depth: int
    drop_path: float = 0.0
    remat: bool = False
    scan: bool = True
    gather: Callable[[Any], Any] | None = None
    save_attention: bool = True

    @nn.compact
    def __call__(self, tokens: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Applies the blocks.

        Args:
          tokens: [batch, tokens, dim].
          keys: [batch] random keys for drop path; None drops no branch (evaluation).

        Returns:
          [batch, dim], the output of the first token.
        """
        batch, count, dim = tokens.shape
        policy = _SAVE_ATTENTION if self.remat else _SAVE_PRODUCTS
        if self.remat and not self.save_attention:
            policy = jax.checkpoint_policies.nothing_saveable
        block = Block
        if self.gather is not None:
            block = nn.map_variables(Block, "params", trans_in_fn=self.gather)
        # Inside a loop, XLA cannot merge recomputation with the forward pass: no barrier is needed.
        block = nn.remat(block, policy=policy, prevent_cse=not self.scan)
        last_block = nn.remat(Block, policy=policy)
        rates, block_keys = None, None
        if keys is not None and self.drop_path > 0:
            rates = jnp.linspace(0, self.drop_path, self.depth)
            block_keys = jnp.moveaxis(_split_each(keys, self.depth), 1, 0)  # [depth, batch]

        def select(values, index):
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
            x, _ = blocks(x, select(rates, slice(-1)), select(block_keys, slice(-1)))
        last = last_block(self.options, count, queries=1, name="last_block")
        return last(x, select(rates, -1), select(block_keys, -1))[0]


def first_tokens(x: jax.Array, tokens: int, count: int) -> jax.Array:
    """Selects the first `count` tokens of every sample: [batch * tokens, dim] to [rows, dim]."""
    dim = x.shape[-1]
    return x.reshape(-1, tokens, dim)[:, :count].reshape(-1, dim)


def drop_path(branch: jax.Array, *, rate: jax.Array | None, keys: jax.Array | None) -> jax.Array:
    """Drops a branch for some samples and scales it up for the others, so that its mean is kept.

    Args:
      branch: [batch * tokens, dim], output of the branch.
      rate: [], probability of dropping it; None returns `branch` unchanged.
      keys: [batch] random keys; the decision for a sample depends on its own key only.

    Returns:
      [batch * tokens, dim].
    """
    if rate is None:
        return branch
    kept = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate))(keys)
    factor = jnp.where(kept, 1 / (1 - rate), 0).astype(branch.dtype)
    scaled = branch.reshape(len(factor), -1, branch.shape[-1]) * factor[:, None, None]
    return scaled.reshape(branch.shape)


def layer_normalisation(options: BlockOptions, *, name: str) -> nn.LayerNorm:
    """Returns a LayerNorm as PyTorch computes it: two passes, statistics in float32."""
    return nn.LayerNorm(
        epsilon=options.epsilon, dtype=options.dtype, use_fast_variance=False, name=name
    )


def gelu(x: jax.Array) -> jax.Array:
    """Computes the exact GELU through erf, which is one rational function where erfc is two."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


def _split_each(keys: jax.Array, count: int = 2) -> jax.Array:
    """Splits each of [batch] keys into `count` new ones: [batch, count]."""
    return jax.vmap(lambda key: jax.random.split(key, count))(keys)
