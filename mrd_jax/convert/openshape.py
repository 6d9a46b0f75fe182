# SPDX-License-Identifier: Apache-2.0
"""Conversion table of OpenShape's PointBERT models (github.com/Colin97/OpenShape_code)."""

from collections.abc import Mapping

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


def sizes(state: Mapping[str, np.ndarray]) -> dict[str, object]:
    """Returns the fields of the model config that follow from the shapes of a state dict.

    Raises:
      KeyError: a key that every OpenShape checkpoint has is missing.
    """
    dim = state["ppat.cls_token"].shape[0]
    prefix = "ppat.transformer.layers."
    return {
        "name": "point_bert",
        "dim": dim,
        "depth": 1 + max(int(k.split(".")[3]) for k in state if k.startswith(prefix)),
        "heads": dim // 64,  # head size of every released model
        "mlp_dim": state[f"{prefix}0.1.fn.net.0.weight"].shape[0],
        "sa_dim": state["ppat.sa.mlp_convs.2.weight"].shape[0],
        "out_dim": state["proj.weight"].shape[0],
    }
