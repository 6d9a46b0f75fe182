# SPDX-License-Identifier: Apache-2.0
"""Reads the configuration of an OpenCLIP checkpoint, strictly.

A field that changes the features is either used or must have its usual value: a model that differs
in one convention would load and embed wrongly.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from data_prep.teachers.open_clip import architectures

MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
# Cleaning of texts by a tokenizer, and how an image is brought to the size of the model.
CLEANINGS = ("lower", "canonicalize")
RESIZE_MODES = ("shortest", "longest", "squash")
INTERPOLATIONS = ("bicubic", "bilinear")

# Values that a field must have if it is present. None of them is used otherwise.
_CUSTOM_BLOCKS = {
    name: (False,)
    for name in (
        *("qk_norm", "scaled_cosine_attn", "scale_heads"),
        *("scale_attn_inner", "scale_attn", "scale_fc"),
    )
} | {"ls_init_value": (None,), "act_kwargs": (None,), "norm_kwargs": (None,)}
_IMAGE_FIXED = _CUSTOM_BLOCKS | {
    "block_type": (None, "default"),
    "attentional_pool": (False,),
    "no_ln_pre": (False,),
    "pool_type": ("tok",),
    # The norm acts on each token alone, so that its order with the choice of a token is the same.
    "final_ln_after_pool": (False, True),
    # Either kind is stored with the weights.
    "pos_embed_type": ("learnable", "sin_cos_2d"),
}
_EVA_FIXED = {"timm_pool": ("token",), "timm_proj": (None, "")}
_TEXT_FIXED = _CUSTOM_BLOCKS | {
    "block_type": (None, "default"),
    "embed_cls": (False,),
    "no_causal_mask": (False,),
    "pool_type": ("argmax",),
    "proj_type": ("linear",),
    "proj_bias": (False,),
    "hf_model_name": (None,),
    "hf_tokenizer_name": (None,),
    "tokenizer_mode": (None,),
}
_MODEL_FIXED: dict[str, tuple] = {"multimodal_cfg": (None,)}
# Fields that affect training only, or the form of the outputs.
_IGNORED = frozenset(
    {
        *("patch_dropout", "output_tokens", "attn_pooler_queries", "attn_pooler_heads"),
        *("timm_model_pretrained", "timm_proj_bias", "timm_drop", "timm_drop_path"),
        *("pad_id", "eos_id", "hf_model_pretrained", "hf_proj_type", "hf_pooler_type"),
        *("final_ln_after_pool", "custom_text", "init_logit_scale", "init_logit_bias"),
        *("nonscalar_logit_scale", "cast_dtype", "output_dict"),
    }
)


@dataclasses.dataclass(frozen=True)
class Preprocessing:
    """Preprocessing of images.

    Attributes:
      size: height and width in pixels.
      mean: three means, subtracted from channels between 0 and 1.
      std: three divisors of the channels.
      interpolation: one of `INTERPOLATIONS`.
      resize_mode: edge that becomes `size` long, one of `RESIZE_MODES`; "squash" resizes both.
      fill_color: value of all channels, 0 to 255, around an image whose longest edge is `size`.
    """

    size: int
    mean: tuple[float, float, float] = MEAN
    std: tuple[float, float, float] = STD
    interpolation: str = "bicubic"
    resize_mode: str = "shortest"
    fill_color: int = 0


@dataclasses.dataclass(frozen=True)
class Config:
    """Configuration of a checkpoint.

    Attributes:
      dim: dimension of the features.
      image: image tower.
      text: text tower.
      preprocessing: preprocessing of images.
      clean: cleaning of texts, one of `CLEANINGS`.
    """

    dim: int
    image: architectures.Vit | architectures.Eva
    text: architectures.Text
    preprocessing: Preprocessing
    clean: str = "lower"


def parse(content: Any, *, source: str) -> Config:
    """Reads the content of an `open_clip_config.json`.

    Args:
      content: decoded JSON with `model_cfg` and optionally `preprocess_cfg`.
      source: file or architecture, for error messages.

    Raises:
      ValueError: a field is missing or unknown, or has a value that is not supported.
    """
    if not isinstance(content, Mapping) or not isinstance(content.get("model_cfg"), Mapping):
        raise ValueError(f"{source}: expected an object with model_cfg, as open_clip writes it")
    model = _Fields(content["model_cfg"], source, "model_cfg")
    model.check(_MODEL_FIXED)
    dim = model.take("embed_dim")
    activation = "quick_gelu" if model.take("quick_gelu", False) else "gelu"
    image = _image(_Fields(model.take("vision_cfg"), source, "vision_cfg"), activation)
    text_fields = _Fields(model.take("text_cfg"), source, "text_cfg")
    text = _text(text_fields, activation)
    clean = _clean(text_fields)
    model.finish()
    text_fields.finish()
    fields = _Fields(content.get("preprocess_cfg") or {}, source, "preprocess_cfg")
    return Config(dim, image, text, _preprocessing(fields, image.size), clean)


class _Fields:
    """Fields of one object of the file; counts those that were used."""

    def __init__(self, fields: Any, source: str, name: str):
        self.place = f"{source}: {name}"
        if not isinstance(fields, Mapping):
            raise ValueError(f"{self.place} is {fields!r}, expected an object")
        self._fields = dict(fields)

    def take(self, name: str, *default: Any) -> Any:
        """Returns and removes a field; `default` is for a field that may be missing or null."""
        value = self._fields.pop(name, None)
        if value is None and not default:
            raise ValueError(f"{self.place}.{name} is missing")
        return default[0] if value is None else value

    def check(self, fixed: Mapping[str, tuple]) -> None:
        """Removes fields that must have one of the given values; raises ValueError otherwise."""
        for name, allowed in fixed.items():
            value = self._fields.pop(name, allowed[0])
            if value not in allowed:
                raise ValueError(
                    f"{self.place}.{name} is {value!r}, expected {_either(allowed)}; such models "
                    "are not supported"
                )

    def one_of(self, name: str, values: tuple, default: Any) -> Any:
        """Returns and removes a field that has one of several values."""
        value = self.take(name, default)
        if value not in values:
            raise ValueError(f"{self.place}.{name} is {value!r}, expected {_either(values)}")
        return value

    def finish(self) -> None:
        """Raises ValueError if a field has not been used."""
        unknown = sorted(set(self._fields) - _IGNORED)
        if unknown:
            raise ValueError(
                f"{self.place} has the unknown fields {', '.join(unknown)}, which might change "
                "the features; such models are not supported"
            )


def _image(fields: _Fields, activation: str) -> architectures.Vit | architectures.Eva:
    name = fields.take("timm_model_name", "")
    size = fields.take("image_size", 224)
    if name:
        fields.check(_EVA_FIXED)
        eva = architectures.EVA.get(name)
        if eva is None:
            raise ValueError(
                f"{fields.place}.timm_model_name is {name!r}; expected one of "
                f"{', '.join(sorted(architectures.EVA))}"
            )
        if size != eva.size:
            raise ValueError(f"{fields.place}.image_size is {size!r}; {name} has {eva.size}")
        fields.finish()
        return eva
    fields.check(_IMAGE_FIXED | {"timm_pool": ("avg",), "timm_proj": ("linear",)})
    width, layers = fields.take("width", 768), fields.take("layers", 12)
    if not isinstance(layers, int):
        raise ValueError(f"{fields.place}.layers is {layers!r}: a ResNet, expected a ViT")
    vit = architectures.Vit(
        size=size,
        patch=fields.take("patch_size", 16),
        width=width,
        layers=layers,
        heads=width // fields.take("head_width", 64),
        mlp_dim=int(width * fields.take("mlp_ratio", 4.0)),
        activation=activation,
    )
    fields.finish()
    if not isinstance(size, int):
        raise ValueError(f"{fields.place}.image_size is {size!r}, expected one number")
    return vit


def _text(fields: _Fields, activation: str) -> architectures.Text:
    fields.check(_TEXT_FIXED)
    width = fields.take("width", 512)
    return architectures.Text(
        width=width,
        layers=fields.take("layers", 12),
        heads=fields.take("heads", 8),
        mlp_dim=int(width * fields.take("mlp_ratio", 4.0)),
        length=fields.take("context_length", 77),
        vocabulary=fields.take("vocab_size", 49_408),
        activation=activation,
    )


def _clean(text: _Fields) -> str:
    fields = _Fields(text.take("tokenizer_kwargs", {}), text.place, "tokenizer_kwargs")
    clean = fields.one_of("clean", CLEANINGS, "lower")
    fields.finish()
    return clean


def _preprocessing(fields: _Fields, size: int) -> Preprocessing:
    fields.check({"mode": ("RGB",), "size": (size, [size, size], (size, size))})
    interpolation = fields.one_of("interpolation", (*INTERPOLATIONS, "random"), "bicubic")
    preprocessing = Preprocessing(
        size=size,
        mean=_triple(fields, "mean", MEAN),
        std=_triple(fields, "std", STD),
        # Random interpolation is for training; OpenCLIP then evaluates with bicubic.
        interpolation="bicubic" if interpolation == "random" else interpolation,
        resize_mode=fields.one_of("resize_mode", RESIZE_MODES, "shortest"),
        fill_color=fields.take("fill_color", 0),
    )
    fields.finish()
    return preprocessing


def _triple(fields: _Fields, name: str, default: tuple) -> tuple[float, float, float]:
    value = fields.take(name, default)
    values = tuple(value) if isinstance(value, list | tuple) else (value,) * 3
    if len(values) != 3 or not all(isinstance(number, int | float) for number in values):
        raise ValueError(f"{fields.place}.{name} is {value!r}, expected three numbers")
    return values


def _either(values: tuple) -> str:
    return " or ".join(map(repr, values))
