# SPDX-License-Identifier: Apache-2.0
"""Conversion table of OpenShape's PointBERT models (github.com/Colin97/OpenShape_code)."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from mrd_jax.convert.rules import DENSE, Rule

_LAYER = r"ppat\.transformer\.layers\.(\d+)\."
_TO = r"params/transformer/layers/\1/"

RULES = (
    Rule(r"ppat\.cls_token", "params/cls_token"),
    Rule(r"ppat\.sa\.mlp_convs\.(\d)\.weight", r"params/tokenizer/layer_\1/kernel", DENSE, (2, 3)),
    Rule(r"ppat\.sa\.mlp_convs\.(\d)\.bias", r"params/tokenizer/layer_\1/bias"),
    Rule(r"ppat\.sa\.mlp_bns\.(\d)\.weight", r"params/tokenizer/layer_\1/scale"),
    Rule(r"ppat\.sa\.mlp_bns\.(\d)\.bias", r"params/tokenizer/layer_\1/shift"),
    Rule(r"ppat\.sa\.mlp_bns\.(\d)\.running_(mean|var)", r"batch_stats/tokenizer/layer_\1/\2"),
    Rule(r"ppat\.lift\.0\.weight", "params/lift/kernel", DENSE, (2,)),
    Rule(r"ppat\.lift\.0\.bias", "params/lift/bias"),
    Rule(r"ppat\.lift\.2\.weight", "params/lift_norm/scale"),
    Rule(r"ppat\.lift\.2\.bias", "params/lift_norm/bias"),
    Rule(_LAYER + r"0\.norm\.weight", _TO + "attention_norm/scale"),
    Rule(_LAYER + r"0\.norm\.bias", _TO + "attention_norm/bias"),
    Rule(_LAYER + r"0\.fn\.to_qkv\.weight", _TO + "attention/qkv", DENSE),
    Rule(_LAYER + r"0\.fn\.to_out\.0\.weight", _TO + "attention/output/kernel", DENSE),
    Rule(_LAYER + r"0\.fn\.to_out\.0\.bias", _TO + "attention/output/bias"),
    Rule(_LAYER + r"1\.norm\.weight", _TO + "mlp_norm/scale"),
    Rule(_LAYER + r"1\.norm\.bias", _TO + "mlp_norm/bias"),
    Rule(_LAYER + r"1\.fn\.net\.0\.weight", _TO + "mlp/expand/kernel", DENSE),
    Rule(_LAYER + r"1\.fn\.net\.0\.bias", _TO + "mlp/expand/bias"),
    Rule(_LAYER + r"1\.fn\.net\.3\.weight", _TO + "mlp/contract/kernel", DENSE),
    Rule(_LAYER + r"1\.fn\.net\.3\.bias", _TO + "mlp/contract/bias"),
    Rule(r"proj\.weight", "params/projection/kernel", DENSE),
    Rule(r"proj\.bias", "params/projection/bias"),
)
# Counters, and parameters of the contrastive loss.
IGNORED = (r".*\.num_batches_tracked", r"logit_scale", r"(text|image)_proj(\..*)?")

# Prefix of the encoder in the files of the students of CLIP ViT-B/32 and ViT-L/14, whose points
# have y up; without a projection, there is no prefix `ppat.` below it.
CLIP_PREFIX = "pc_encoder."
# Channels of the first layer, offset and position with and without colour.
_CHANNELS = {9: True, 6: False}


def is_clip_student(state: Mapping[str, np.ndarray]) -> bool:
    """Returns whether a state dict has the layout of the students of ViT-B/32 and ViT-L/14."""
    return any(key.startswith(CLIP_PREFIX) for key in state)


def published(state: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Returns the published sizes that files of this layout have; their shapes are ambiguous."""
    if is_clip_student(state):
        return "openshape-b32", "openshape-l14"
    return tuple(f"openshape-{number}" for number in range(1, 7))


def canonical(state: Mapping[str, np.ndarray]) -> dict[str, str]:
    """Returns the key of the table by the key of the file, without the keys of other modules."""
    if not is_clip_student(state):
        return {key: key for key in state}
    keys = {key: key.removeprefix(CLIP_PREFIX) for key in state if key.startswith(CLIP_PREFIX)}
    return {
        key: name if name.startswith(("ppat.", "proj.")) else f"ppat.{name}"
        for key, name in keys.items()
    }


def up_axis(state: Mapping[str, np.ndarray]) -> str:
    """Returns the vertical axis of the clouds that released encoders of this layout take."""
    return "y" if is_clip_student(state) else "z"


def layout(student: Mapping[str, Any]) -> str:
    """Returns the layout of the rules of `rules.invert`; there is one."""
    del student
    return ""


def module_keys(student: Mapping[str, Any]) -> Callable[[str], str]:
    """Returns the function from keys of the table to keys of the module, which may lack `ppat.`."""
    has_projection = student.get("projection", True)
    return str if has_projection else lambda key: key.removeprefix("ppat.")


def fault(student: Mapping[str, Any]) -> str:
    """Returns why OpenShape's module cannot hold a student; "" if it can."""
    if student["dim"] != 64 * student["heads"] or student["heads"] == 1:
        return (
            f"its {student['heads']} heads share {student['dim']} channels; OpenShape's module has "
            "two or more heads of 64 channels each"
        )
    return ""


def unused(student: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns arrays that the module has and the encoder does not use, with values to fill in."""
    del student
    return {f"ppat.sa.mlp_bns.{n}.num_batches_tracked": np.array(0, np.int64) for n in range(3)}


def sizes(state: Mapping[str, np.ndarray]) -> dict[str, object]:
    """Returns the fields of the model config that follow from the shapes of a state dict.

    Raises:
      KeyError: a key that every OpenShape checkpoint has is missing.
      ValueError: the first layer reads another number of channels.
    """
    dim = state["ppat.cls_token"].shape[0]
    channels = state["ppat.sa.mlp_convs.0.weight"].shape[1]
    if channels not in _CHANNELS:
        raise ValueError(
            f"ppat.sa.mlp_convs.0.weight reads {channels} channels; expected 9 (offset, position "
            "and colour) or 6 (without colour)"
        )
    projection = any(key.startswith("proj.") for key in state)
    prefix = "ppat.transformer.layers."
    return {
        "name": "point_bert",
        "dim": dim,
        "depth": 1 + max(int(k.split(".")[3]) for k in state if k.startswith(prefix)),
        "heads": dim // 64,  # head size of every released model
        "mlp_dim": state[f"{prefix}0.1.fn.net.0.weight"].shape[0],
        "sa_dim": state["ppat.sa.mlp_convs.2.weight"].shape[0],
        "colour": _CHANNELS[channels],
        "projection": projection,
        "out_dim": state["proj.weight"].shape[0] if projection else dim,
    }
