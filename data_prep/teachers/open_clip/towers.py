# SPDX-License-Identifier: Apache-2.0
"""Flax modules of an OpenCLIP checkpoint: transformers' CLIP, and our EVA."""

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import transformers
from transformers.models.clip import modeling_flax_clip

from data_prep.teachers.open_clip import architectures, configs, eva


@dataclasses.dataclass(frozen=True)
class Tower:
    """Half of a checkpoint.

    Attributes:
      module: Flax module.
      row: name -> shape and dtype of a row of a batch.
      embed: pure function of the parameters and a batch, to features [rows, dim].
    """

    module: nn.Module
    row: dict[str, jax.ShapeDtypeStruct]
    embed: Callable[[Any, dict[str, jax.Array]], jax.Array]

    def parameters(self) -> Any:
        """Returns the shapes of the parameters, without computing any."""

        def initial(row):
            (inputs,) = row.values()
            if inputs.dtype == jnp.uint8:
                inputs = inputs.astype(jnp.float32)  # pixels are normalised before the module
            return self.module.init(jax.random.key(0), inputs[None])["params"]

        return jax.eval_shape(initial, self.row)


class VitTower(nn.Module):
    """Image tower of transformers' Flax CLIP with its projection.

    Attributes:
      config: config of the tower; `projection_dim` is the dimension of the features.
      dtype: dtype of the activations.
    """

    config: transformers.CLIPVisionConfig
    dtype: jax.typing.DTypeLike = jnp.float32

    def setup(self):
        """Creates both parts under the names that transformers uses."""
        self.vision_model = modeling_flax_clip.FlaxCLIPVisionTransformer(self.config, self.dtype)
        self.visual_projection = nn.Dense(
            self.config.projection_dim, use_bias=False, dtype=self.dtype
        )

    def __call__(self, pixels: jax.Array) -> jax.Array:
        """Maps normalised pixels [batch, size, size, 3] to features [batch, dim]."""
        return self.visual_projection(self.vision_model(pixels).pooler_output)


class TextTower(nn.Module):
    """Text tower of transformers' Flax CLIP with its projection.

    Attributes:
      config: config of the tower; `projection_dim` is the dimension of the features.
      dtype: dtype of the activations.
    """

    config: transformers.CLIPTextConfig
    dtype: jax.typing.DTypeLike = jnp.float32

    def setup(self):
        """Creates both parts under the names that transformers uses."""
        self.text_model = modeling_flax_clip.FlaxCLIPTextTransformer(self.config, self.dtype)
        self.text_projection = nn.Dense(
            self.config.projection_dim, use_bias=False, dtype=self.dtype
        )

    def __call__(self, tokens: jax.Array) -> jax.Array:
        """Maps tokens [batch, length] to the features [batch, dim] of the highest token."""
        # The causal mask hides the padding, which follows the text.
        mask = jnp.ones_like(tokens)
        positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
        return self.text_projection(self.text_model(tokens, mask, positions).pooler_output)


def image_tower(config: configs.Config, dtype: jax.typing.DTypeLike) -> Tower:
    """Returns the image tower; its batch is {"pixels": uint8 [rows, size, size, 3]}."""
    module: nn.Module
    if isinstance(config.image, architectures.Eva):
        module = eva.EvaTower(config.image, config.dim, dtype)
    else:
        module = VitTower(_vision_config(config.image, config.dim), dtype)
    mean, std = (
        jnp.asarray(value) for value in (config.preprocessing.mean, config.preprocessing.std)
    )

    def embed(params, batch):
        pixels = (batch["pixels"].astype(jnp.float32) / 255 - mean) / std
        return module.apply({"params": params}, pixels.astype(dtype))

    size = config.image.size
    pixels = jax.ShapeDtypeStruct((size, size, 3), jnp.uint8)
    return Tower(module, {"pixels": pixels}, embed)


def text_tower(config: configs.Config, dtype: jax.typing.DTypeLike) -> Tower:
    """Returns the text tower; its batch is {"tokens": int32 [rows, length]}."""
    module = TextTower(_text_config(config.text, config.dim), dtype)

    def embed(params, batch):
        return module.apply({"params": params}, batch["tokens"])

    tokens = jax.ShapeDtypeStruct((config.text.length,), jnp.int32)
    return Tower(module, {"tokens": tokens}, embed)


def _vision_config(sizes: architectures.Vit, dim: int) -> transformers.CLIPVisionConfig:
    return transformers.CLIPVisionConfig(
        **_common(sizes, dim), image_size=sizes.size, patch_size=sizes.patch
    )


def _text_config(sizes: architectures.Text, dim: int) -> transformers.CLIPTextConfig:
    return transformers.CLIPTextConfig(
        **_common(sizes, dim),
        vocab_size=sizes.vocabulary,
        max_position_embeddings=sizes.length,
        # With this value, transformers takes the position of the highest token, as OpenCLIP does.
        eos_token_id=2,
    )


def _common(sizes: architectures.Vit | architectures.Text, dim: int) -> dict[str, Any]:
    return {
        "hidden_size": sizes.width,
        "intermediate_size": sizes.mlp_dim,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "hidden_act": sizes.activation,
        "layer_norm_eps": 1e-5,
        "projection_dim": dim,
    }
