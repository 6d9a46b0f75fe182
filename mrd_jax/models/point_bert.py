# SPDX-License-Identifier: Apache-2.0
"""Point-BERT encoder of OpenShape: coloured points to one embedding."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from mrd_jax.models import grouping, patch_student, tokenizer, transformer

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
# The released students of CLIP ViT-B/32 and ViT-L/14, which share their sizes; the former's
# features are as long as its tokens, and it has no projection.
_CLIP_SIZES = dict(zip(_FIELDS, (512, 12, 8, 1024, 128, 64, 0.4, 256), strict=True))
CLIP_STUDENTS = {
    "b32": {**_CLIP_SIZES, "projection": False},
    "l14": {**_CLIP_SIZES, "projection": True},
}


class PointBert(patch_student.PatchStudent, kw_only=True):
    """Point patch transformer: balls around the centres become tokens of a transformer.

    There is no position embedding, since positions are part of the input, and no final norm: the
    projection is applied to the first token as it leaves the last block.

    Attributes:
      sa_dim: width of a group's features before they are lifted to `dim`.
      radius: radius of a group, in the units of the points.
      colour: read the colours of the points; otherwise the encoder sees coordinates only.
      projection: map the output to `out_dim`; otherwise it is the embedding, and out_dim is dim.

    The other attributes are those of `PatchStudent`.
    """

    sa_dim: int
    radius: float
    colour: bool = True
    projection: bool = True

    def neighbours(self, xyz: jax.Array, centres: jax.Array) -> jax.Array:
        """Returns the first points by index in a ball: [local_batch, groups, group_size]."""
        return grouping.ball_query(xyz, centres, radius=self.radius, count=self.group_size)

    def describe(
        self, xyz: jax.Array, rgb: jax.Array, centres: jax.Array, index: jax.Array
    ) -> jax.Array:
        """Returns offset, position and colour: [local_batch, groups, group_size, 9 or 6]."""
        described = tokenizer.group_points(xyz, rgb, centres, index, absolute=True)
        return described if self.colour else described[..., :6]

    @nn.nowrap
    def make_tokenizer(self, name: str | None = None) -> nn.Module:
        """Returns the layer that maps the points of each group to features."""
        layer = self.remat_tokenizer(tokenizer.SetAbstraction)
        return layer(self.sa_dim, self.dtype, name=name)

    def lift(self, centres: jax.Array, features: jax.Array) -> jax.Array:
        """Maps centres and features to tokens, [local_batch, groups, dim]."""
        x = jnp.concatenate([centres.astype(self.dtype), features], axis=-1)
        x = self._dense(self.dim, "lift")(x)
        return transformer.layer_normalisation(self.block_options(), name="lift_norm")(x)

    def first_token(self) -> jax.Array:
        """Returns the learned token, [dim]."""
        return self.param("cls_token", nn.initializers.normal(1.0), (self.dim,))

    def project(self, x: jax.Array) -> jax.Array:
        """Maps the output of the transformer, [local_batch, dim], to the embedding."""
        return super().project(x) if self.projection else x
