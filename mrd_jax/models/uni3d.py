# SPDX-License-Identifier: Apache-2.0
"""Uni3D encoder (Zhou et al., ICLR 2024): an image transformer over local groups of points."""

import flax.linen as nn
import jax

from mrd_jax.models import grouping, patch_student, tokenizer, transformer

# Term that the LayerNorms of the released models add to the variance.
EPSILON = 1e-6
# Squared norm up to which points near the origin are never chosen as centres.
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


class Uni3D(patch_student.PatchStudent, kw_only=True):
    """Groups of nearest neighbours and their position embedding, through the blocks of EVA-02.

    The blocks have no rotary embedding; the first token passes a LayerNorm and a projection. Unlike
    in the published code, groups that patch dropout removes do not pass the tokenizer either, so
    batch norm does not see them.

    Attributes:
      mlp: kind of MLP, see `transformer.MLPS`.
      encoder_dim: width of a group's features before they are lifted to `dim`.
      patch_choice: as in `PatchStudent`; random by default.
      drop_path: drop rate of the last block's branches, see `transformer.Transformer`.

    The other attributes are those of `PatchStudent`.
    """

    mlp: str
    encoder_dim: int
    patch_choice: str = "random"
    drop_path: float = 0.0

    skip_squared_norm = NEAR_ORIGIN

    def neighbours(self, xyz: jax.Array, centres: jax.Array) -> jax.Array:
        """Returns the nearest points of each centre: [local_batch, groups, group_size]."""
        return grouping.knn(xyz, centres, count=self.group_size)

    def describe(
        self, xyz: jax.Array, rgb: jax.Array, centres: jax.Array, index: jax.Array
    ) -> jax.Array:
        """Returns offset and colour: [local_batch, groups, group_size, 6]."""
        return tokenizer.group_points(xyz, rgb, centres, index, absolute=False)

    @nn.nowrap
    def make_tokenizer(self, name: str | None = None) -> nn.Module:
        """Returns the layer that maps the points of each group to features."""
        layer = self.remat_tokenizer(tokenizer.MiniPointNet)
        return layer(self.encoder_dim, self.dtype, name=name)

    def lift(self, centres: jax.Array, features: jax.Array) -> jax.Array:
        """Maps features to tokens [local_batch, groups, dim] and adds the position embedding."""
        x = self._dense(self.dim, "lift")(features)
        hidden = transformer.gelu(self._dense(POSITION_WIDTH, "position_hidden")(centres))
        return x + self._dense(self.dim, "position")(hidden)

    def first_token(self) -> jax.Array:
        """Returns the learned token with its position embedding, [dim]."""
        token = self.param("cls_token", nn.initializers.zeros, (self.dim,))
        position = self.param("cls_position", nn.initializers.normal(1.0), (self.dim,))
        # Not in place: the parameters may be the caller's numpy arrays.
        return token + position

    def final_norm(self, x: jax.Array) -> jax.Array:
        """Normalises the output of the transformer, [local_batch, dim]."""
        return transformer.layer_normalisation(self.block_options(), name="norm")(x)

    def block_options(self) -> transformer.BlockOptions:
        """Returns the options that all blocks share."""
        return transformer.BlockOptions(
            self.heads,
            self.mlp_dim,
            mlp=self.mlp,
            qkv_bias=True,
            epsilon=EPSILON,
            dtype=self.dtype,
            attention=self.attention,
        )
