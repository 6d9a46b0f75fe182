# SPDX-License-Identifier: Apache-2.0
"""Conversion tables of Uni3D (github.com/baaivision/Uni3D) and of EVA's image weights in timm."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mrd_jax.convert.rules import DENSE, Rule

_BLOCK = r"blocks\.(\d+)\."
_TO = r"params/transformer/layers/\1/"
_EXPAND = _TO + "mlp/expand/"
# How the blocks of a size are stored: queries, keys and values in one array and the gate packed
# into the first layer of the MLP (ti, s, g), or all of them in arrays of their own (b, l).
FUSED, SPLIT = "fused", "split"

# The transformer has the same keys in Uni3D (below `point_encoder.visual.`) and in EVA.
BLOCK_RULES = (
    Rule(_BLOCK + r"norm1\.weight", _TO + "attention_norm/scale"),
    Rule(_BLOCK + r"norm1\.bias", _TO + "attention_norm/bias"),
    Rule(_BLOCK + r"attn\.qkv\.weight", _TO + "attention/qkv", DENSE, layout=FUSED),
    Rule(_BLOCK + r"attn\.q_bias", _TO + "attention/query_bias", layout=FUSED),
    Rule(_BLOCK + r"attn\.v_bias", _TO + "attention/value_bias", layout=FUSED),
    *(
        Rule(_BLOCK + rf"attn\.{name}_proj\.weight", _TO + "attention/qkv", DENSE, (), part, SPLIT)
        for name, part in (("q", (0, 3)), ("k", (1, 3)), ("v", (2, 3)))
    ),
    Rule(_BLOCK + r"attn\.q_proj\.bias", _TO + "attention/query_bias", layout=SPLIT),
    Rule(_BLOCK + r"attn\.v_proj\.bias", _TO + "attention/value_bias", layout=SPLIT),
    Rule(_BLOCK + r"attn\.proj\.weight", _TO + "attention/output/kernel", DENSE),
    Rule(_BLOCK + r"attn\.proj\.bias", _TO + "attention/output/bias"),
    Rule(_BLOCK + r"norm2\.weight", _TO + "mlp_norm/scale"),
    Rule(_BLOCK + r"norm2\.bias", _TO + "mlp_norm/bias"),
    Rule(_BLOCK + r"mlp\.fc1\.weight", _TO + "mlp/expand/kernel", DENSE, layout=FUSED),
    Rule(_BLOCK + r"mlp\.fc1\.bias", _TO + "mlp/expand/bias", layout=FUSED),
    *(
        rule
        for name, part in (("g", (0, 2)), ("x", (1, 2)))
        for rule in (
            Rule(_BLOCK + rf"mlp\.fc1_{name}\.weight", _EXPAND + "kernel", DENSE, (), part, SPLIT),
            Rule(_BLOCK + rf"mlp\.fc1_{name}\.bias", _EXPAND + "bias", None, (), part, SPLIT),
        )
    ),
    Rule(_BLOCK + r"mlp\.norm\.weight", _TO + "mlp/norm/scale"),
    Rule(_BLOCK + r"mlp\.norm\.bias", _TO + "mlp/norm/bias"),
    Rule(_BLOCK + r"mlp\.fc2\.weight", _TO + "mlp/contract/kernel", DENSE),
    Rule(_BLOCK + r"mlp\.fc2\.bias", _TO + "mlp/contract/bias"),
    Rule(r"fc_norm\.weight", "params/norm/scale"),
    Rule(r"fc_norm\.bias", "params/norm/bias"),
)
# Parameters of the image model outside its blocks; stored in Uni3D checkpoints but not used.
IMAGE_ONLY = (r"cls_token", r"pos_embed", r"patch_embed\..*", r"head\..*")

_VISUAL = r"point_encoder\.visual\."
_ENCODER = r"point_encoder\.encoder\."
_POINT_RULES = (
    Rule(r"point_encoder\.cls_token", "params/cls_token", squeeze=(0, 1)),
    Rule(r"point_encoder\.cls_pos", "params/cls_position", squeeze=(0, 1)),
    Rule(_ENCODER + r"first_conv\.0\.weight", "params/tokenizer/layer_0/kernel", DENSE, (2,)),
    Rule(_ENCODER + r"first_conv\.0\.bias", "params/tokenizer/layer_0/bias"),
    Rule(_ENCODER + r"first_conv\.1\.weight", "params/tokenizer/layer_0/scale"),
    Rule(_ENCODER + r"first_conv\.1\.bias", "params/tokenizer/layer_0/shift"),
    Rule(_ENCODER + r"first_conv\.1\.running_(\w+)", r"batch_stats/tokenizer/layer_0/\1"),
    Rule(_ENCODER + r"first_conv\.3\.weight", "params/tokenizer/local/kernel", DENSE, (2,)),
    Rule(_ENCODER + r"first_conv\.3\.bias", "params/tokenizer/local/bias"),
    Rule(_ENCODER + r"second_conv\.0\.weight", "params/tokenizer/joined/kernel", DENSE, (2,)),
    Rule(_ENCODER + r"second_conv\.0\.bias", "params/tokenizer/joined/bias"),
    Rule(_ENCODER + r"second_conv\.1\.weight", "params/tokenizer/layer_1/scale"),
    Rule(_ENCODER + r"second_conv\.1\.bias", "params/tokenizer/layer_1/shift"),
    Rule(_ENCODER + r"second_conv\.1\.running_(\w+)", r"batch_stats/tokenizer/layer_1/\1"),
    Rule(_ENCODER + r"second_conv\.3\.weight", "params/tokenizer/output/kernel", DENSE, (2,)),
    Rule(_ENCODER + r"second_conv\.3\.bias", "params/tokenizer/output/bias"),
    Rule(r"point_encoder\.encoder2trans\.weight", "params/lift/kernel", DENSE),
    Rule(r"point_encoder\.encoder2trans\.bias", "params/lift/bias"),
    Rule(r"point_encoder\.pos_embed\.0\.weight", "params/position_hidden/kernel", DENSE),
    Rule(r"point_encoder\.pos_embed\.0\.bias", "params/position_hidden/bias"),
    Rule(r"point_encoder\.pos_embed\.2\.weight", "params/position/kernel", DENSE),
    Rule(r"point_encoder\.pos_embed\.2\.bias", "params/position/bias"),
    Rule(r"point_encoder\.trans2embed\.weight", "params/projection/kernel", DENSE),
    Rule(r"point_encoder\.trans2embed\.bias", "params/projection/bias"),
)
RULES = _POINT_RULES + tuple(
    dataclasses.replace(rule, pattern=_VISUAL + rule.pattern) for rule in BLOCK_RULES
)
IGNORED = (
    r".*\.num_batches_tracked",
    r"logit_scale",
    *(_VISUAL + pattern for pattern in IMAGE_ONLY),
)

# Image size and number of classes of the image model that a published size starts from, by the kind
# of its MLP; its patches have 14 x 14 pixels.
_IMAGE_MODELS = {"swiglu": (224, 0), "swiglu_norm": (448, 1000), "gelu": (560, 1000)}
_PATCH = 14


def published(state: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Returns the published sizes that files of this layout have."""
    del state
    return tuple(f"uni3d-{size}" for size in ("ti", "s", "b", "l", "g"))


def up_axis(state: Mapping[str, np.ndarray]) -> str:
    """Returns the vertical axis of the clouds that released encoders of this layout take.

    OpenShape's clouds, y up, are not turned in Uni3D's training (which rotates about y) nor in its
    evaluation (`--openshape_setting`, off in the released scripts, would).
    """
    del state
    return "y"


def canonical(state: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the key of the table by the key of the file; they are the same."""
    return {key: key for key in state}


def layout(student: Mapping[str, Any]) -> str:
    """Returns the layout of the rules of `rules.invert`."""
    return SPLIT if student["mlp"] == "swiglu_norm" else FUSED


def module_keys(student: Mapping[str, Any]) -> Callable[[str], str]:
    """Returns the function from keys of the table to keys of the module; they are the same."""
    del student
    return str


def fault(student: Mapping[str, Any]) -> str:
    """Returns why Uni3D's module cannot hold a student; "" since it has the same architecture."""
    del student
    return ""


def unused(student: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns arrays that the module has and the encoder does not use, with values to fill in.

    The image model outside its blocks is zero; the logarithm of the scale is the initial one.
    """
    dim = student["dim"]
    image, classes = _IMAGE_MODELS[student["mlp"]]
    shapes = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, (image // _PATCH) ** 2 + 1, dim),
        "patch_embed.proj.weight": (dim, 3, _PATCH, _PATCH),
        "patch_embed.proj.bias": (dim,),
    }
    if classes:
        shapes |= {"head.weight": (classes, dim), "head.bias": (classes,)}
    encoder = "point_encoder.encoder."
    return {
        "logit_scale": np.array(np.log(1 / 0.07), np.float32),
        **{
            f"point_encoder.visual.{key}": np.zeros(size, np.float32)
            for key, size in shapes.items()
        },
        **{
            f"{encoder}{part}.1.num_batches_tracked": np.array(0, np.int64)
            for part in ("first_conv", "second_conv")
        },
    }


def sizes(state: Mapping[str, np.ndarray]) -> dict[str, object]:
    """Returns the fields of the model config that follow from the shapes of a state dict.

    Raises:
      KeyError: a key that every Uni3D checkpoint has is missing.
    """
    encoder = "point_encoder.encoder."
    return block_sizes(state, prefix="point_encoder.visual.") | {
        "name": "uni3d",
        "encoder_dim": state[f"{encoder}second_conv.3.weight"].shape[0],
        "out_dim": state["point_encoder.trans2embed.weight"].shape[0],
    }


def block_sizes(state: Mapping[str, np.ndarray], *, prefix: str = "") -> dict[str, object]:
    """Returns the fields of the transformer.

    Args:
      state: array by key of a Uni3D checkpoint or of EVA's image weights.
      prefix: prefix of the transformer's keys, "" for EVA.
    """
    matches = [re.match(re.escape(prefix) + r"blocks\.(\d+)\.", key) for key in state]
    block = f"{prefix}blocks.0."
    dim = state[f"{block}norm1.weight"].shape[0]
    mlp_dim = state[f"{block}mlp.fc2.weight"].shape[1]
    if f"{block}mlp.norm.weight" in state:
        mlp = "swiglu_norm"
    else:
        # A packed gate doubles the first layer of the MLP only.
        packed = state[f"{block}mlp.fc1.weight"].shape[0] == 2 * mlp_dim
        mlp = "swiglu" if packed else "gelu"
    return {
        "dim": dim,
        "depth": 1 + max((int(match[1]) for match in matches if match), default=0),
        # The head sizes of the released models.
        "heads": dim // (88 if mlp == "gelu" else 64),
        "mlp_dim": mlp_dim,
        "mlp": mlp,
    }
