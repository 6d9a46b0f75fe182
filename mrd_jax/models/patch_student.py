# SPDX-License-Identifier: Apache-2.0
"""Base class of the student encoders that turn local groups of points into tokens."""

from collections.abc import Callable
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.models import grouping, microbatch, norm, transformer

# Values of `PatchStudent.relation_head`.
RELATION_HEADS = ("none", "linear")
# Name of the parameters of that head.
RELATION_PROJECTION = "relation_projection"


class PatchStudent(nn.Module, kw_only=True):
    """Transformer over one token per local group and a learned first token, which is the output.

    A subclass adds its own fields, with `kw_only=True`, and implements `neighbours`, `describe`,
    `make_tokenizer`, `lift` and `first_token`; it may override `final_norm`, `project` and
    `block_options`.

    Attributes:
      dim: width of the tokens.
      depth: number of transformer blocks.
      heads: attention heads, each dim / heads wide.
      mlp_dim: hidden width of the MLPs.
      groups: number of groups per point cloud.
      group_size: points per group.
      out_dim: length of the embedding.
      dtype: dtype of the activations; parameters, norms and softmax are float32.
      remat: recompute blocks and tokenizer in the backward pass.
      patch_dropout: fraction of the groups that is dropped in training.
      patch_choice: selection of the remaining groups, see `grouping.choose_centres`.
      scan: loop over the blocks instead of unrolling them.
      micro_batch: point clouds per micro-batch, see `microbatch`: less memory at the cost of about
        one more forward pass, with the same values and gradient. 0 runs the whole batch at once.
      attention: one of `attention.IMPLEMENTATIONS`, for all queries; the last block's first token
        always takes `attention.attention`.
      relation_head: head of its own for the relations, beside the contrastive head: "linear", a
        second projection of the same output; or "none".
      all_heads: return the embeddings of all heads instead of the contrastive one; set by the
        caller, not by a config.
      gather: see `transformer.Transformer`; set by the backend that shards parameters (FSDP), not
        by a config.
      save_attention: see `transformer.Transformer`; set by the run for its platform.
    """

    dim: int
    depth: int
    heads: int
    mlp_dim: int
    groups: int
    group_size: int
    out_dim: int
    dtype: jax.typing.DTypeLike = jnp.float32
    remat: bool = False
    patch_dropout: float = 0.0
    patch_choice: str = "fewer"
    scan: bool = True
    micro_batch: int = 0
    attention: str = "auto"
    relation_head: str = "none"
    all_heads: bool = False
    gather: Callable[[Any], Any] | None = None
    save_attention: bool = True

    # Points whose squared norm is at most this are never centres; None excludes no point.
    skip_squared_norm: ClassVar[float | None] = None
    # Stochastic depth, see `transformer.Transformer`; a subclass that has it declares a field.
    drop_path = 0.0

    @nn.compact
    def __call__(
        self,
        xyz: jax.Array,
        rgb: jax.Array,
        train: bool = False,
        axis_name: str | None = None,
        keys: jax.Array | None = None,
    ) -> jax.Array:
        """Embeds point clouds.

        Args:
          xyz: [local_batch, points, 3], coordinates in the unit sphere, z up.
          rgb: [local_batch, points, 3], colours from 0 to 1.
          train: normalise by the statistics of the batch (apply with mutable=["batch_stats"]) and
            use patch dropout and drop path.
          axis_name: mesh axis over which batch norm shares its statistics; None for one device.
          keys: [local_batch] random keys, one per sample; required by random patch dropout and by
            drop path.

        Returns:
          [local_batch, out_dim] float32, before normalisation; with `all_heads`
          [local_batch, heads, out_dim], the contrastive head first.

        Raises:
          ValueError: the point clouds have fewer points than `groups`, or keys are missing.
        """
        if train and self.drop_path > 0 and keys is None:
            raise ValueError(f"drop_path={self.drop_path} needs keys=[local_batch] in training")
        # Variables do not depend on the batch size, so initialisation needs no micro-batches.
        limit = 0 if self.is_initializing() else self.micro_batch
        clouds = microbatch.split((xyz.astype(jnp.float32), rgb, keys), limit=limit)

        def group(clouds):
            xyz, _, keys = clouds
            centres = self.choose_centres(xyz, train=train, keys=keys)
            return centres, self.neighbours(xyz, centres)

        def describe(rows):
            (xyz, rgb, _), (centres, index) = rows
            return self.describe(xyz, rgb, centres, index)

        def tokens(rows, features):
            (_, _, keys), (centres, _) = rows
            return centres, features, keys if train else None

        rows = microbatch.with_precomputed(group, clouds)
        features = microbatch.apply(describe, rows)
        features = self.make_tokenizer(name="tokenizer")(features, train, axis_name)
        embeddings = microbatch.collect(
            lambda model, tokens: model.embed_tokens(*tokens),
            self,
            microbatch.apply(tokens, rows, features),
        )
        if self.all_heads:
            return embeddings.reshape(len(embeddings), -1, self.out_dim)
        return embeddings[:, : self.out_dim]

    def choose_centres(
        self, xyz: jax.Array, *, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        """Returns the centres of the groups, [local_batch, groups, 3]; fewer in training."""
        return grouping.choose_centres(
            xyz,
            self.groups,
            dropout=self.patch_dropout if train else 0.0,
            choice=self.patch_choice,
            keys=keys,
            skip_squared_norm=self.skip_squared_norm,
        )

    def neighbours(self, xyz: jax.Array, centres: jax.Array) -> jax.Array:
        """Returns the points of each group, as indices [local_batch, groups, group_size]."""
        raise NotImplementedError

    def describe(
        self, xyz: jax.Array, rgb: jax.Array, centres: jax.Array, index: jax.Array
    ) -> jax.Array:
        """Returns the input of the tokenizer, [local_batch, groups, group_size, channels]."""
        raise NotImplementedError

    def make_tokenizer(self, name: str | None = None) -> nn.Module:
        """Returns the layer that maps the points of each group to features."""
        raise NotImplementedError

    def embed_tokens(
        self, centres: jax.Array, features: jax.Array, keys: jax.Array | None
    ) -> jax.Array:
        """Maps the tokenizer's features to embeddings.

        Args:
          centres: [local_batch, groups, 3].
          features: [local_batch, groups, width].
          keys: [local_batch] random keys for drop path; None in evaluation.

        Returns:
          [local_batch, heads * out_dim] float32, the heads side by side.
        """
        x = self.lift(centres, features)
        first = self.first_token().astype(self.dtype)
        first = jnp.broadcast_to(first, (x.shape[0], 1, self.dim))
        x = jnp.concatenate([first, x], axis=1)
        x = self.make_transformer(name="transformer")(x, keys)
        x = self.final_norm(x)
        heads = [self.project(x)]
        if self.relation_head == "linear":
            heads.append(self._dense(self.out_dim, RELATION_PROJECTION)(x))
        return jnp.concatenate(heads, axis=-1).astype(jnp.float32)

    def lift(self, centres: jax.Array, features: jax.Array) -> jax.Array:
        """Maps features to tokens [local_batch, groups, dim] that contain their position."""
        raise NotImplementedError

    def first_token(self) -> jax.Array:
        """Returns the learned token, [dim], whose output becomes the embedding."""
        raise NotImplementedError

    def final_norm(self, x: jax.Array) -> jax.Array:
        """Normalises the output of the transformer, [local_batch, dim]; no norm by default."""
        return x

    def project(self, x: jax.Array) -> jax.Array:
        """Maps the normalised output, [local_batch, dim], to the embedding."""
        return self._dense(self.out_dim, "projection")(x)

    @nn.nowrap
    def make_transformer(self, name: str | None = None) -> transformer.Transformer:
        """Returns the layer that maps tokens to the output of the first token."""
        return transformer.Transformer(
            self.block_options(),
            self.depth,
            drop_path=self.drop_path,
            remat=self.remat,
            scan=self.scan,
            gather=self.gather,
            save_attention=self.save_attention,
            name=name,
        )

    def block_options(self) -> transformer.BlockOptions:
        """Returns the options that all blocks share."""
        return transformer.BlockOptions(
            self.heads, self.mlp_dim, dtype=self.dtype, attention=self.attention
        )

    @nn.nowrap
    def remat_tokenizer(self, layer: type[nn.Module]) -> type[nn.Module]:
        """Wraps a tokenizer in `nn.remat` under `remat`; micro-batches recompute it anyway."""
        if self.remat and not self.micro_batch:
            return nn.remat(layer, static_argnums=(2, 3))  # train, axis_name
        return layer

    def _dense(self, features: int, name: str) -> nn.Dense:
        return nn.Dense(features, dtype=self.dtype, kernel_init=norm.KERNEL_INIT, name=name)
