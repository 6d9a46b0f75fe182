# SPDX-License-Identifier: Apache-2.0
"""Uni3D (Zhou et al., ICLR 2024): an image transformer over tokens of local groups of points."""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.models import grouping, norm, patch_student, tokenizer, transformer

# What the released models' LayerNorms add to the variance.
EPSILON = 1e-6
# Points this close to the origin are never chosen as centres (squared norm).
NEAR_ORIGIN = 1e-3
# Hidden width of the map from a centre to its position embedding.
POSITION_WIDTH = 128

_FIELDS = ("dim", "depth", "heads", "mlp_dim", "mlp")
# Sizes of the released models (github.com/baaivision/Uni3D); groups of 64, 512 wide.
SIZES = {
    name: dict(zip(_FIELDS, sizes, strict=True), encoder_dim=512, groups=512, group_size=64)
    for name, sizes in {
        "ti": (192, 12, 3, 512, "swiglu"),
        "s": (384, 12, 6, 1024, "swiglu"),
        "b": (768, 12, 12, 2048, "swiglu_norm"),
        "l": (1024, 24, 16, 2730, "swiglu_norm"),
        "g": (1408, 40, 16, 6144, "gelu"),
    }.items()
}


class Uni3D(nn.Module):
    """Tokens of nearest neighbours with a position embedding, through EVA-02's blocks.

    The blocks are called without rotary embedding; the first token passes a LayerNorm and a
    projection.

    Attributes:
      dim: width of the tokens.
      depth: number of transformer blocks.
      heads: attention heads, each of width dim / heads.
      mlp_dim: hidden width of the MLPs.
      mlp: kind of the MLPs, see `transformer.MLPS`.
      encoder_dim: width of a group before it is lifted to `dim`.
      groups: number of groups.
      group_size: points per group.
      out_dim: length of the embedding.
      dtype: of the activations; parameters, norms and softmax are float32.
      remat: recompute blocks and tokenizer in the backward pass.
      patch_dropout: share of groups left out in training.
      patch_choice: which groups those are, see `grouping.choose_centres`. Unlike the published
        code, dropped groups do not pass the tokenizer either, so batch norm does not see them.
      drop_path: chance of leaving out a branch of the last block, see `transformer.Transformer`.
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
    mlp: str
    encoder_dim: int
    groups: int
    group_size: int
    out_dim: int
    dtype: jax.typing.DTypeLike = jnp.float32
    remat: bool = False
    patch_dropout: float = 0.0
    patch_choice: str = "random"
    drop_path: float = 0.0
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
          train: batch norm by the batch (apply with mutable=["batch_stats"]), patch dropout and
            drop path.
          axis_name: device axis over which batch norm's statistics are shared; None for one device.
          keys: [local_batch] random keys, one per sample; needed for random patch dropout and for
            drop path.

        Returns:
          [local_batch, out_dim] float32, before normalisation.

        Raises:
          ValueError: if the clouds have fewer points than there are groups, or keys are missing.
        """
        if train and self.drop_path > 0 and keys is None:
            raise ValueError(f"drop_path={self.drop_path} needs keys=[local_batch] in training")
        return patch_student.embed(self, xyz, rgb, train=train, axis_name=axis_name, keys=keys)

    def embed_tokens(
        self, centres: jax.Array, features: jax.Array, keys: jax.Array | None
    ) -> jax.Array:
        """From the tokenizer's features to embeddings, see `student.embed`."""
        x = self._dense(self.dim, "lift")(features)
        hidden = transformer.gelu(self._dense(POSITION_WIDTH, "position_hidden")(centres))
        x = x + self._dense(self.dim, "position")(hidden)
        token = self.param("cls_token", nn.initializers.zeros, (self.dim,))
        position = self.param("cls_position", nn.initializers.normal(1.0), (self.dim,))
        # Not in place: parameters may be numpy arrays of the caller's.
        first = (token + position).astype(self.dtype)
        first = jnp.broadcast_to(first, (x.shape[0], 1, self.dim))
        x = jnp.concatenate([first, x], axis=1)
        x = self.make_transformer(name="transformer")(x, keys)
        x = transformer.layer_normalisation(self.block_options(), name="norm")(x)
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
            skip_squared_norm=NEAR_ORIGIN,
        )

    def neighbours(self, xyz: jax.Array, centres: jax.Array) -> jax.Array:
        """Which points belong to every group: [local_batch, groups, group_size]."""
        return grouping.knn(xyz, centres, count=self.group_size)

    def describe(
        self, xyz: jax.Array, rgb: jax.Array, centres: jax.Array, index: jax.Array
    ) -> jax.Array:
        """What the tokenizer sees of every group: [local_batch, groups, group_size, 6]."""
        return tokenizer.group_points(xyz, rgb, centres, index, absolute=False)

    @nn.nowrap
    def make_tokenizer(self, name: str | None = None) -> tokenizer.MiniPointNet:
        """The layer from groups to features."""
        encode = tokenizer.MiniPointNet
        if self.remat and not self.micro_batch:
            encode = nn.remat(encode, static_argnums=(2, 3))  # train, axis_name
        return encode(self.encoder_dim, self.dtype, name=name)

    @nn.nowrap
    def make_transformer(self, name: str | None = None) -> transformer.Transformer:
        """The layer from tokens to the first token."""
        return transformer.Transformer(
            self.block_options(),
            self.depth,
            drop_path=self.drop_path,
            remat=self.remat,
            scan=self.scan,
            gather=self.gather,
            name=name,
        )

    def block_options(self) -> transformer.BlockOptions:
        """What the blocks have in common."""
        return transformer.BlockOptions(
            self.heads,
            self.mlp_dim,
            mlp=self.mlp,
            qkv_bias=True,
            epsilon=EPSILON,
            dtype=self.dtype,
            attention=self.attention,
        )

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, dtype=self.dtype, kernel_init=norm.KERNEL_INIT, name=name)
