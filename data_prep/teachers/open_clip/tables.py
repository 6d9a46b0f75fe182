# SPDX-License-Identifier: Apache-2.0
"""Conversion tables from OpenCLIP's keys to the parameters of the Flax modules.

OpenCLIP stores queries, keys and values of a CLIP tower as one array; `weights` presents it as
three, with the suffixes [0], [1] and [2].
"""

import dataclasses

from mrd_jax.convert import uni3d
from mrd_jax.convert.rules import CONV, DENSE, Rule


def _block_rules(source: str, target: str) -> tuple[Rule, ...]:
    """Returns the rules of a CLIP transformer, by the patterns of its keys and its path."""
    source += r"transformer\.resblocks\.(\d+)\."
    target += r"/encoder/layers/\1/"
    projections = enumerate(("q_proj", "k_proj", "v_proj"))
    return (
        *(
            rule
            for part, name in projections
            for rule in (
                Rule(
                    source + rf"attn\.in_proj_weight\[{part}\]",
                    f"{target}self_attn/{name}/kernel",
                    DENSE,
                ),
                Rule(source + rf"attn\.in_proj_bias\[{part}\]", f"{target}self_attn/{name}/bias"),
            )
        ),
        Rule(source + r"attn\.out_proj\.weight", target + "self_attn/out_proj/kernel", DENSE),
        Rule(source + r"attn\.out_proj\.bias", target + "self_attn/out_proj/bias"),
        Rule(source + r"mlp\.c_fc\.weight", target + "mlp/fc1/kernel", DENSE),
        Rule(source + r"mlp\.c_fc\.bias", target + "mlp/fc1/bias"),
        Rule(source + r"mlp\.c_proj\.weight", target + "mlp/fc2/kernel", DENSE),
        Rule(source + r"mlp\.c_proj\.bias", target + "mlp/fc2/bias"),
        Rule(source + r"ln_([12])\.weight", target + r"layer_norm\2/scale"),
        Rule(source + r"ln_([12])\.bias", target + r"layer_norm\2/bias"),
    )


# Models whose image tower is not a CLIP put "text." before the keys of the text tower.
_TEXT = r"(?:text\.)?"
TEXT_RULES = (
    *_block_rules(_TEXT, "text_model"),
    Rule(_TEXT + r"token_embedding\.weight", "text_model/embeddings/token_embedding/embedding"),
    Rule(_TEXT + r"positional_embedding", "text_model/embeddings/position_embedding/embedding"),
    Rule(_TEXT + r"ln_final\.weight", "text_model/final_layer_norm/scale"),
    Rule(_TEXT + r"ln_final\.bias", "text_model/final_layer_norm/bias"),
    Rule(_TEXT + r"text_projection", "text_projection/kernel"),
)
# Parameters of the contrastive loss, and sizes that OpenAI stored with the weights.
TEXT_IGNORED = (r"logit_(?:scale|bias)", r"input_resolution|context_length|vocab_size")

IMAGE_PREFIX = "visual."
_VIT = r"visual\."
VIT_RULES = (
    *_block_rules(_VIT, "vision_model"),
    Rule(_VIT + r"class_embedding", "vision_model/embeddings/class_embedding"),
    Rule(_VIT + r"positional_embedding", "vision_model/embeddings/position_embedding/embedding"),
    Rule(_VIT + r"conv1\.weight", "vision_model/embeddings/patch_embedding/kernel", CONV),
    Rule(_VIT + r"ln_pre\.weight", "vision_model/pre_layrnorm/scale"),
    Rule(_VIT + r"ln_pre\.bias", "vision_model/pre_layrnorm/bias"),
    Rule(_VIT + r"ln_post\.weight", "vision_model/post_layernorm/scale"),
    Rule(_VIT + r"ln_post\.bias", "vision_model/post_layernorm/bias"),
    Rule(_VIT + r"proj", "visual_projection/kernel"),
)

_EVA = r"visual\.trunk\."
# The blocks are those of Uni3D.
_EVA_BLOCKS = tuple(
    dataclasses.replace(
        rule, pattern=_EVA + rule.pattern, target=rule.target.removeprefix("params/")
    )
    for rule in uni3d.BLOCK_RULES
    if rule.pattern.startswith("blocks")
)
EVA_RULES = (
    *_EVA_BLOCKS,
    Rule(
        _EVA + r"blocks\.(\d+)\.attn\.norm\.weight", r"transformer/layers/\1/attention/norm/scale"
    ),
    Rule(_EVA + r"blocks\.(\d+)\.attn\.norm\.bias", r"transformer/layers/\1/attention/norm/bias"),
    Rule(_EVA + r"cls_token", "class_token", squeeze=(0, 1)),
    Rule(_EVA + r"pos_embed", "positions", squeeze=(0,)),
    Rule(_EVA + r"patch_embed\.proj\.weight", "patches/kernel", CONV),
    Rule(_EVA + r"patch_embed\.proj\.bias", "patches/bias"),
    Rule(_EVA + r"norm\.weight", "norm/scale"),
    Rule(_EVA + r"norm\.bias", "norm/bias"),
    Rule(_EVA + r"head\.weight", "projection/kernel", DENSE),
    Rule(_EVA + r"head\.bias", "projection/bias"),
)
