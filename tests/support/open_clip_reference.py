# SPDX-License-Identifier: Apache-2.0
r"""Writes the fixtures of OpenCLIP: numbers that its own code computes from random weights.

python -m venv reference
reference/bin/pip install open_clip_torch==3.3.0 timm==1.0.31 transformers==4.57.6
reference/bin/python tests/support/open_clip_reference.py

JAX is not needed. Run it again only to add a number; the fixtures change with the versions above.
"""

import functools
import gzip
import json
import re
import tempfile

import numpy as np
import open_clip
import open_clip.tokenizer
import open_clip.transform
import open_clip_small
import seeded_weights
import timm.models
import timm.models.eva
import torch

# Architectures whose keys and shapes are stored.
NAMES = (
    *("ViT-B-32", "ViT-B-16", "ViT-L-14", "ViT-L-14-336", "ViT-H-14", "ViT-g-14", "ViT-bigG-14"),
    *("EVA01-g-14", "EVA01-g-14-plus", "EVA02-B-16", "EVA02-L-14", "EVA02-L-14-336"),
    *("EVA02-E-14", "EVA02-E-14-plus"),
)


def build(name):
    """Builds a small model with its random weights, on the CPU in float32."""
    config = dict(open_clip_small.MODELS[name])
    custom = config.pop("custom_text", False)
    kind = open_clip.model.CustomTextCLIP if custom else open_clip.model.CLIP
    model = kind(**config).eval()
    keys = [
        (key, list(value.shape), str(value.dtype).removeprefix("torch."))
        for key, value in sorted(model.state_dict().items())
    ]
    state = seeded_weights.seeded_state(keys, open_clip_small.SEED)
    model.load_state_dict({key: torch.from_numpy(value) for key, value in state.items()})
    return model, keys


def register_small():
    """Registers the small EVA towers in timm."""
    for name, sizes in open_clip_small.EVA.items():

        def create(pretrained=False, *, sizes=sizes, **options):
            for name in ("pretrained_cfg", "pretrained_cfg_overlay", "cache_dir"):
                options.pop(name, None)
            return timm.models.eva.Eva(**sizes, **options)

        create.__name__ = name
        create.__module__ = timm.models.eva.__name__
        timm.models.register_model(create)


class Recorder:
    """Records the outputs of modules by the name of a stage."""

    def __init__(self):
        self.arrays = {}

    def watch(self, module, stage):
        def keep(_, inputs, output):
            self.arrays[stage] = output.detach().numpy()

        module.register_forward_hook(keep)

    def watch_input(self, module, stage):
        def keep(_, inputs):
            self.arrays[stage] = inputs[0].detach().numpy()

        module.register_forward_pre_hook(keep)


@torch.no_grad()
def record(name):
    """Computes every stage of a small model."""
    model, keys = build(name)
    recorder = Recorder()
    custom = hasattr(model, "text")
    text = model.text if custom else model
    image_blocks = model.visual.trunk.blocks if custom else model.visual.transformer.resblocks
    for tower, blocks in (("image", image_blocks), ("text", text.transformer.resblocks)):
        recorder.watch_input(blocks[0], f"{tower}/embedded")
        for number, block in enumerate(blocks):
            recorder.watch(block, f"{tower}/block_{number}")
    recorder.watch(text.ln_final, "text/normed")
    recorder.watch(model.visual.trunk.norm if custom else model.visual.ln_post, "image/normed")

    size = model.visual.image_size[0]
    random = np.random.default_rng(open_clip_small.SEED)
    pixels = random.integers(0, 256, (3, size, size, 3), dtype=np.uint8)
    mean, std = (torch.tensor(value) for value in (open_clip.OPENAI_DATASET_MEAN,
                                                   open_clip.OPENAI_DATASET_STD))  # fmt: skip
    scaled = (torch.from_numpy(pixels).float().div(255) - mean) / std
    tokens = torch.from_numpy(tokenize(open_clip_small.TEXTS))
    arrays = {
        "in/pixels": pixels,
        "in/tokens": tokens.numpy().astype(np.int32),
        "image/features": model.encode_image(scaled.permute(0, 3, 1, 2)).numpy(),
        "text/features": model.encode_text(tokens).numpy(),
    }
    return arrays | recorder.arrays | {"keys": json.dumps(keys)}


@functools.cache
def tokenizer(clean):
    with tempfile.NamedTemporaryFile(suffix=".gz") as file:
        lines = ["header", *(" ".join(pair) for pair in open_clip_small.MERGES)]
        file.write(gzip.compress("\n".join(lines).encode()))
        file.flush()
        return open_clip.tokenizer.SimpleTokenizer(
            file.name, context_length=open_clip_small.LENGTH, clean=clean
        )


def tokenize(texts, clean="lower"):
    return tokenizer(clean)(list(texts)).numpy()


def inputs():
    """Computes tokens and preprocessed images."""
    arrays = {}
    for clean in ("lower", "canonicalize"):
        arrays[f"tokens/{clean}"] = tokenize(open_clip_small.TEXTS, clean)
        arrays[f"other_tokens/{clean}"] = tokenize(open_clip_small.OTHER_TEXTS, clean)
    for name, fields in open_clip_small.PREPROCESSINGS.items():
        config = open_clip.transform.PreprocessCfg(**({"size": 32} | fields))
        transform = open_clip.transform.image_transform_v2(config, is_train=False)
        images = [transform(picture) for picture in open_clip_small.pictures()]
        arrays[f"pixels/{name}"] = torch.stack(images).permute(0, 2, 3, 1).numpy()
    return arrays | {"keys": json.dumps([])}


def key_lines():
    """Yields keys and shapes of full sizes; blocks of equal shapes share a line, with a *."""
    yield "# Keys and shapes of OpenCLIP's architectures; * stands for the number of a block."
    for name in NAMES:
        with torch.device("meta"):
            state = open_clip.create_model(name, pretrained=None, device="meta").state_dict()
        rows, counts = {}, {}
        for key, value in state.items():
            row = re.sub(r"(blocks\.)\d+", r"\1*", key)
            assert rows.setdefault(row, list(value.shape)) == list(value.shape)
            counts[row] = counts.get(row, 0) + 1
        yield name
        for row, shape in rows.items():
            yield f"\t{row}\t{counts[row]}\t{json.dumps(shape)}"


def tensors():
    """Returns tensors of the types of released weights; two of them share their elements."""
    rising = torch.arange(24, dtype=torch.float32)
    return {
        "module.float": rising.reshape(4, 6),
        "module.transposed": rising.reshape(4, 6).T,
        "module.half": (rising[:5] / 8).half(),
        "module.bfloat16": (rising[1:7] / 3).bfloat16(),
        "module.scalar": torch.tensor(2.5),
        "module.integers": torch.arange(3),
    }


def main():
    """Writes all fixtures."""
    register_small()
    for name in open_clip_small.MODELS:
        np.savez_compressed(open_clip_small.FIXTURES / f"open_clip_{name}.npz", **record(name))
    np.savez_compressed(open_clip_small.FIXTURES / "open_clip_inputs.npz", **inputs())
    checkpoint = {"epoch": 3, "state_dict": tensors()}
    torch.save(checkpoint, open_clip_small.FIXTURES / "open_clip_weights.bin")
    lines = [*key_lines(), ""]
    (open_clip_small.FIXTURES / "open_clip_keys.tsv").write_text("\n".join(lines), "utf-8")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
