# SPDX-License-Identifier: Apache-2.0
"""Image tower of EVA-CLIP (Sun et al. 2023), which transformers lacks."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from data_prep.teachers.open_clip import architectures
from mrd_jax.models import transformer

EPSILON = 1e-6


class EvaTower(nn.Module):
    """Vision transformer that projects its normalised class token.

    Attributes:
      sizes: sizes of the tower.
      dim: dimension of the features.
      dtype: dtype of the activations.
    """

    sizes: architectures.Eva
    dim: int
    dtype: jax.typing.DTypeLike = jnp.float32

    @nn.compact
    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Maps normalised pixels [batch, size, size, 3] to features [batch, dim]."""
        sizes = self.sizes
        window = (sizes.patch, sizes.patch)
        patches = nn.Conv(
            sizes.width, window, strides=window, padding="VALID", dtype=self.dtype, name="patches"
        )(pixels)
        patches = patches.reshape(len(pixels), -1, sizes.width)
        init = nn.initializers.normal(0.02)
        class_token = self.param("class_token", init, (sizes.width,)).astype(self.dtype)
        first = jnp.broadcast_to(class_token, (len(pixels), 1, sizes.width))
        tokens = jnp.concatenate([first, patches], axis=1)
        tokens += self.param("positions", init, tokens.shape[1:]).astype(self.dtype)
        options = transformer.BlockOptions(
            heads=sizes.heads,
            mlp_dim=sizes.mlp_dim,
            mlp=sizes.mlp,
            qkv_bias=True,
            inner_norm=sizes.inner_norm,
            post_norm=sizes.post_norm,
            positions=sizes.positions,
            epsilon=EPSILON,
            dtype=self.dtype,
        )
        pooled = transformer.Transformer(options, sizes.layers, name="transformer")(tokens)
        pooled = transformer.layer_normalisation(options, name="norm")(pooled)
        return nn.Dense(self.dim, dtype=self.dtype, name="projection")(pooled)
