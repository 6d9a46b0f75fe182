# SPDX-License-Identifier: Apache-2.0
"""Sizes of OpenCLIP's image and text towers, and its named architectures."""

import dataclasses
from typing import Any

from mrd_jax.models import rotary


@dataclasses.dataclass(frozen=True)
class Text:
    """Sizes of a text tower.

    Attributes:
      width: width of the transformer.
      layers: number of blocks.
      heads: attention heads.
      mlp_dim: hidden width of the MLPs.
      length: tokens per text, with the tokens for start and end.
      vocabulary: number of tokens; the last one ends a text.
      activation: "gelu" or "quick_gelu".
    """

    width: int
    layers: int
    heads: int
    mlp_dim: int
    length: int
    vocabulary: int
    activation: str


@dataclasses.dataclass(frozen=True)
class Vit:
    """Sizes of a CLIP image tower; attributes as in `Text` and `Eva`."""

    size: int
    patch: int
    width: int
    layers: int
    heads: int
    mlp_dim: int
    activation: str


@dataclasses.dataclass(frozen=True)
class Eva:
    """Sizes of an EVA image tower.

    Attributes:
      size: height and width of an image in pixels.
      patch: height and width of a patch in pixels.
      width: width of the transformer.
      layers: number of blocks.
      heads: attention heads.
      mlp_dim: hidden width of the MLPs.
      mlp: one of `mrd_jax.models.transformer.MLPS`.
      inner_norm: whether the output of attention is normalised before its last linear map.
      post_norm: whether the output of each branch is normalised instead of its input.
      trained_side: patches per row of the grid that rotary frequencies refer to; None for a tower
        without rotary position embedding.
    """

    size: int
    patch: int
    width: int
    layers: int
    heads: int
    mlp_dim: int
    mlp: str = "gelu"
    inner_norm: bool = False
    post_norm: bool = False
    trained_side: int | None = None

    @property
    def positions(self) -> rotary.PatchGrid | None:
        """Returns the grid of the rotary position embedding, or None."""
        if self.trained_side is None:
            return None
        return rotary.PatchGrid(self.size // self.patch, self.trained_side)


_GIANT = Eva(size=224, patch=14, width=1408, layers=40, heads=16, mlp_dim=6144)
_LARGE = Eva(
    *(224, 14, 1024, 24, 16, 2730), mlp="swiglu_norm", inner_norm=True, trained_side=16
)  # fmt: skip
# Image towers by their name in timm.
EVA = {
    "eva_giant_patch14_224": _GIANT,
    "eva_giant_patch14_clip_224": _GIANT,
    "eva02_base_patch16_clip_224": Eva(
        *(224, 16, 768, 12, 12, 2048), mlp="swiglu_norm", inner_norm=True, trained_side=16
    ),
    "eva02_large_patch14_clip_224": _LARGE,
    "eva02_large_patch14_clip_336": dataclasses.replace(_LARGE, size=336),
    "eva02_enormous_patch14_clip_224": Eva(*(224, 14, 1792, 64, 16, 15_360), post_norm=True),
}


def _named(dim: int, image: dict[str, Any], *text: int) -> dict[str, Any]:
    """Returns a `model_cfg`; `text` is the width, the heads and the layers of the text tower."""
    sizes = dict(zip(("width", "heads", "layers"), text, strict=True))
    return {"embed_dim": dim, "vision_cfg": image, "text_cfg": sizes}


def _vit(size: int, patch: int, width: int, layers: int, **other: float) -> dict[str, Any]:
    return {
        "image_size": size,
        "patch_size": patch,
        "width": width,
        "layers": layers,
        **other,
    }


def _eva(name: str) -> dict[str, Any]:
    return {
        "image_size": EVA[name].size,
        "timm_model_name": name,
        "timm_pool": "token",
        "timm_proj": None,
    }


_HUGE = _vit(224, 14, 1280, 32, head_width=80)
_ENORMOUS = _eva("eva02_enormous_patch14_clip_224")
# Content of `model_cfg` by architecture, as OpenCLIP names it.
NAMED = {
    "ViT-B-32": _named(512, _vit(224, 32, 768, 12), 512, 8, 12),
    "ViT-B-16": _named(512, _vit(224, 16, 768, 12), 512, 8, 12),
    "ViT-L-14": _named(768, _vit(224, 14, 1024, 24), 768, 12, 12),
    "ViT-L-14-336": _named(768, _vit(336, 14, 1024, 24), 768, 12, 12),
    "ViT-H-14": _named(1024, _HUGE, 1024, 16, 24),
    "ViT-g-14": _named(
        1024, _vit(224, 14, 1408, 40, head_width=88, mlp_ratio=4.3637), 1024, 16, 24
    ),
    "ViT-bigG-14": _named(
        1280, _vit(224, 14, 1664, 48, head_width=104, mlp_ratio=4.9231), 1280, 20, 32
    ),
    "EVA01-g-14": _named(1024, _eva("eva_giant_patch14_224"), 768, 12, 12),
    "EVA01-g-14-plus": _named(1024, _eva("eva_giant_patch14_224"), 1024, 16, 24),
    "EVA02-B-16": _named(512, _eva("eva02_base_patch16_clip_224"), 512, 8, 12),
    "EVA02-L-14": _named(768, _eva("eva02_large_patch14_clip_224"), 768, 12, 12),
    "EVA02-L-14-336": _named(768, _eva("eva02_large_patch14_clip_336"), 768, 12, 12),
    "EVA02-E-14": _named(1024, _ENORMOUS, 1024, 16, 24),
    "EVA02-E-14-plus": _named(1024, _ENORMOUS, 1280, 20, 32),
}
NAMED |= {
    f"{name}-quickgelu": model | {"quick_gelu": True}
    for name, model in NAMED.items()
    if name.startswith("ViT-")
}
# Releases of this architecture differ in the mean and the standard deviation of their pixels.
AMBIGUOUS = frozenset({"ViT-L-14"})
