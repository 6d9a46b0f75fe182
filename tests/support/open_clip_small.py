# SPDX-License-Identifier: Apache-2.0
"""Small OpenCLIP models, inputs and folders, for the fixtures and for their tests.

It imports neither JAX nor PyTorch: `open_clip_reference` runs where JAX is not installed.
"""

import json
import pathlib

import numpy as np
import PIL.Image
import seeded_weights

FIXTURES = pathlib.Path(__file__).parents[1] / "fixtures"
SEED = 21
# Merges of the tokenizer; a real one has 48,894.
MERGES = (
    *(("c", "h"), ("a", "i"), ("ai", "r</w>"), ("ch", "air</w>"), ("r", "e"), ("re", "d</w>")),
    *(("l", "a"), ("m", "p</w>"), ("la", "mp</w>"), ("o", "f</w>"), ("'", "s</w>")),
)
VOCABULARY = 2 * 256 + len(MERGES) + 2
LENGTH = 10
# Case, spaces, punctuation, digits, contractions, names of tokens, and a text that is truncated.
TEXTS = (
    "a red chair",
    "  Lamp of\tRED   ",
    "chair's lamp, 42!",
    "a & b, <|endoftext|> red",
    "",
    "a red chair of a red lamp of a red chair",
)
# Texts that need ftfy: curly quotes, ligatures, wrong encodings, composed letters, entities.
OTHER_TEXTS = ("a &amp; b", "chair’s lamp", "ﬁne caf\u0065\u0301", "lampâ€™s", "стол 椅子")

_TEXT = {"context_length": LENGTH, "vocab_size": VOCABULARY, "width": 16, "heads": 2, "layers": 2}
_VIT = {"image_size": 32, "patch_size": 8, "width": 24, "layers": 2, "head_width": 12}
# Sizes of small EVA towers by a name that timm does not have.
EVA = {
    "small_post": dict(
        img_size=32, patch_size=8, embed_dim=32, depth=3, num_heads=2, mlp_ratio=2.5,
        use_post_norm=True,
    ),
    "small_sub": dict(
        img_size=40, patch_size=8, embed_dim=32, depth=3, num_heads=2, mlp_ratio=4 * 2 / 3,
        qkv_fused=False, swiglu_mlp=True, scale_mlp=True, scale_attn_inner=True,
        use_rot_pos_emb=True, ref_feat_shape=(4, 4),
    ),
}  # fmt: skip
# What an EVA tower is for our code: (size, patch, width, layers, heads, mlp_dim), and its switches.
EVA_SIZES = {
    "small_post": ((32, 8, 32, 3, 2, 80), {"post_norm": True}),
    "small_sub": (
        (40, 8, 32, 3, 2, 85),
        {"mlp": "swiglu_norm", "inner_norm": True, "trained_side": 4},
    ),
}


def _eva(name):
    return {
        "image_size": EVA[name]["img_size"],
        "timm_model_name": name,
        "timm_pool": "token",
        "timm_proj": None,
    }


# Content of `model_cfg` by fixture.
MODELS = {
    "vit_gelu": {
        "embed_dim": 12,
        "vision_cfg": _VIT | {"mlp_ratio": 2.51},
        "text_cfg": _TEXT | {"mlp_ratio": 3.0},
    },
    "vit_quick_gelu": {
        "embed_dim": 12,
        "quick_gelu": True,
        "vision_cfg": _VIT,
        "text_cfg": _TEXT,
    },
    "eva_post": {
        "embed_dim": 16,
        "vision_cfg": _eva("small_post"),
        "text_cfg": _TEXT,
        "custom_text": True,
    },
    "eva_sub": {
        "embed_dim": 16,
        "vision_cfg": _eva("small_sub"),
        "text_cfg": _TEXT,
        "custom_text": True,
    },
}
# Preprocessing by name, as OpenCLIP's config has it.
PREPROCESSINGS = {
    "default": {},
    "squash": {"resize_mode": "squash", "interpolation": "bilinear", "mean": [0.5] * 3},
    "longest": {"resize_mode": "longest", "fill_color": 77, "std": [0.5, 0.4, 0.3]},
}


def pictures():
    """Returns RGB images of uneven sizes, larger and smaller than the model's."""
    random = np.random.default_rng(SEED)
    shapes = ((32, 32), (47, 90), (61, 33), (9, 20))
    return [
        PIL.Image.fromarray(random.integers(0, 256, (*shape, 3), dtype=np.uint8))
        for shape in shapes
    ]


def read(name):
    """Returns the arrays of a fixture, and its random weights by OpenCLIP's key."""
    with np.load(FIXTURES / f"open_clip_{name}.npz") as archive:
        arrays = dict(archive)
    keys = json.loads(str(arrays.pop("keys")))
    return arrays, seeded_weights.seeded_state(keys, SEED)


def write_tokenizer(folder):
    """Writes the small tokenizer as transformers saves that of a CLIP."""
    import transformers

    characters = [chr(code) for code in _byte_codes()]
    vocabulary = [*characters, *(f"{character}</w>" for character in characters)]
    vocabulary += ["".join(pair) for pair in MERGES]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: n for n, word in enumerate(vocabulary)}))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in MERGES)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    tokenizer = transformers.CLIPTokenizerFast(
        str(folder / "vocab.json"), str(folder / "merges.txt")
    )
    tokenizer.save_pretrained(folder)


def _byte_codes():
    """Returns the code points that stand for bytes in the vocabulary, in its order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return [*printable, *range(256, 256 + 256 - len(printable))]


def write_folder(folder, name, *, preprocessing=None, dtype=np.float32):
    """Writes a folder as OpenCLIP's repositories are laid out; returns it."""
    import safetensors.numpy

    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder)
    config = {"model_cfg": MODELS[name], "preprocess_cfg": preprocessing or {}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    state = {key: np.asarray(value, dtype) for key, value in read(name)[1].items()}
    safetensors.numpy.save_file(
        state, folder / "open_clip_model.safetensors", metadata={"format": "pt"}
    )
    return folder
