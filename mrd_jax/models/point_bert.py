# SPDX-License-Identifier: Apache-2.0
"""OpenShape's point patch transformer ("PointBERT"): coloured points to one embedding."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.models import grouping, norm, patch_student, tokenizer, transformer

_FIELDS = ("dim", "depth", "heads", "mlp_dim", "sa_dim", "groups", "radius", "group_size")
# Sizes of the released models (github.com/Colin97/OpenShape_code).
SCALINGS = {
    number: dict(zip(_FIELDS, sizes, strict=True))
    for number, sizes in {
        1: (256, 6, 4, 1024, 96, 64, 0.4, 256),
        2: (512, 6, 8, 1024, 128, 64, 0.4, 256),
        3: (512, 12, 8, 1024, 128, 128, 0.35, 128),
        4: (512, 12, 8, 1536, 256, 384, 0.2, 64),
        5: (768, 12, 12, 2304, 256, 512, 0.2, 64),
        6: (768, 24, 12, 3072, 256, 512, 0.2, 64),
    }.items()
}


class PointBert(nn.Module):
    """Tokens of local groups and a learned first token, through a transformer.

    There is no position embedding (positions enter with the points) and no norm at the end: the
    projection acts on the first token as it leaves the last block.

    Attributes:
      dim: width of the tokens.
      depth: number of transformer blocks.
      heads: attention heads, each of width dim / heads.
      mlp_dim: hidden width of the MLPs.
      sa_dim: width of a group before it is lifted to `dim`.
      groups: number of groups.
      radius: of a group, in the units of the points.
      group_size: points per group.
      out_dim: length of the embedding.
      dtype: of the activations; parameters, norms and softmax are float32.
      remat: recompute blocks and tokenizer in the backward pass.
      patch_dropout: share of groups left out in training.
      patch_choice: which groups those are, see `grouping.choose_centres`.
      scan: loop over the blocks rather than unroll them.
      micro_batch: clouds that pass the model at a time, see `microbatch`: less memory for about a
        forward pass more, the same values and gradient. 0 takes the whole batch at once.
      attention: on a TPU, one of `attention.WAYS`.
      gather: as of `transformer.Transformer`; set by whoever shares parameters, not by a config.
    """

    dim: int
    depth: int
    heads: int
    mlp_dim: int
    sa_dim: int
    groups: int
    radius: float
    group_size: int
    out_dim: int
    dtype: jax.typing.DTypeLike = jnp.float32
    remat: bool = False
    patch_dropout: float = 0.0
    patch_choice: str = "fewer"
    scan: bool = True
    micro_batch: int = 0
    attention: str = "auto"
    gather: Callable[[Any], Any] | None = None

    @nn.compact
    def __call__(
        self,
        xyz: jax.Array,
        rgb: jax.Array,
        train: bool = False,
        axis_name: str | None = None,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Embed clouds.

        Args:
          xyz: [local_batch, points, 3], in the unit sphere, z up.
          rgb: [local_batch, points, 3], from 0 to 1.
          train: batch norm by the batch (apply with mutable=["batch_stats"]) and patch dropout.
          axis_name: device axis over which batch norm's statistics are shared; None for one device.
          keys: [local_batch] random keys, one per sample; needed for random patch dropout.

        Returns:
          [local_batch, out_dim] float32, before normalisation.

        Raises:
          ValueError: if the clouds have fewer points than there are groups, or keys are missing.
        """
        return patch_student.embed(self, xyz, rgb, train=train, axis_name=axis_name, keys=keys)

    def embed_tokens(
        self, centres: jax.Array, features: jax.Array, keys: jax.Array | None
    ) -> jax.Array:
        """From the tokenizer's features to embeddings, see `student.embed`; draws nothing."""
        options = self.block_options()
        x = jnp.concatenate([centres.astype(self.dtype), features], axis=-1)
        x = self._dense(self.dim, "lift")(x)
        x = transformer.layer_normalisation(options, name="lift_norm")(x)
        first = self.param("cls_token", nn.initializers.normal(1.0), (self.dim,))
        first = jnp.broadcast_to(first.astype(self.dtype), (x.shape[0], 1, self.dim))
        x = self.make_transformer(name="transformer")(jnp.concatenate([first, x], axis=1))
        return self._dense(self.out_dim, "projection")(x).astype(jnp.float32)

    def choose_centres(
        self, xyz: jax.Array, *, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """Centres of the groups, [local_batch, groups, 3], fewer under patch dropout."""
        return grouping.choose_centres(
            xyz,
            self.groups,
            dropout=self.patch_dropout if train else 0.0,
            choice=self.patch_choice,
            keys=keys,
        )

    def neighbours(self, xyz: jax.Array, centres: jax.Array) -> jax.Array:
        """Which points belong to every group: [local_batch, groups, group_size]."""
        return grouping.ball_query(xyz, centres, radius=self.radius, count=self.group_size)

    def describe(
        self, xyz: jax.Array, rgb: jax.Array, centres: jax.Array, index: jax.Array
    ) -> jax.Array:
        """What the tokenizer sees of every group: [local_batch, groups, group_size, 9]."""
        return tokenizer.group_points(xyz, rgb, centres, index, absolute=True)

    @nn.nowrap
    def make_tokenizer(self, name: str | None = None) -> tokenizer.SetAbstraction:
        """The layer from groups to features."""
        encode = tokenizer.SetAbstraction
        if self.remat and not self.micro_batch:
            encode = nn.remat(encode, static_argnums=(2, 3))  # train, axis_name
        return encode(self.sa_dim, self.dtype, name=name)

    @nn.nowrap
    def make_transformer(self, name: str | None = None) -> transformer.Transformer:
        """The layer from tokens to the first token."""
        return transformer.Transformer(
            self.block_options(),
            self.depth,
            remat=self.remat,
            scan=self.scan,
            gather=self.gather,
            name=name,
        )

    def block_options(self) -> transformer.BlockOptions:
        """What the blocks have in common."""
        return transformer.BlockOptions(
            self.heads, self.mlp_dim, dtype=self.dtype, attention=self.attention
        )

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, dtype=self.dtype, kernel_init=norm.KERNEL_INIT, name=name)
