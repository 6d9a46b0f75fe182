# SPDX-License-Identifier: Apache-2.0
"""OpenCLIP's models equal its own code at every stage, and no convention can be changed unseen."""

import dataclasses
import json

import jax
import numpy as np
import open_clip_small
import open_clip_towers
import peers
import pytest

from data_prep.teachers.open_clip import architectures, configs, eva, tables, towers, weights
from mrd_jax.convert import layers, rules

pytestmark = pytest.mark.usefixtures("fast_compile")


def close(got, want):
    np.testing.assert_allclose(got, want, atol=peers.PARITY, rtol=0)


def image_batch(name, preprocessing=None):
    preprocessing = preprocessing or open_clip_towers.config(name).preprocessing
    pixels = open_clip_small.read(name)[0]["in/pixels"]
    return {"pixels": open_clip_towers.normalised(pixels, preprocessing)}


def text_batch(name):
    return {"tokens": open_clip_small.read(name)[0]["in/tokens"]}


@pytest.mark.parametrize("name", ["vit_gelu", "vit_quick_gelu"])
def test_every_stage_of_a_vit_equals_open_clip(name):
    want, _ = open_clip_small.read(name)
    tower = towers.image_tower(open_clip_towers.config(name), "float32")
    features, got = open_clip_towers.run(
        tower, open_clip_towers.parameters(name)[0], image_batch(name)
    )
    close(got["vision_model/pre_layrnorm"], want["image/embedded"])
    for block in range(2):
        close(got[f"vision_model/encoder/layers/{block}"], want[f"image/block_{block}"])
    close(got["vision_model/post_layernorm"], want["image/normed"][:, 0])
    close(features, want["image/features"])


@pytest.mark.parametrize("name", ["eva_post", "eva_sub"])
def test_every_stage_of_an_eva_equals_open_clip(name):
    want, _ = open_clip_small.read(name)
    tower = towers.image_tower(open_clip_towers.config(name), "float32")
    features, got = open_clip_towers.run(
        tower, open_clip_towers.parameters(name)[0], image_batch(name)
    )
    for block in range(2):
        outputs = got["transformer/blocks"][block].reshape(want[f"image/block_{block}"].shape)
        close(outputs, want[f"image/block_{block}"])
    # The last block computes the class token only.
    close(got["transformer/last_block"], want["image/block_2"][:, 0])
    close(got["norm"], want["image/normed"][:, 0])
    close(features, want["image/features"])


@pytest.mark.parametrize("name", ["vit_gelu", "vit_quick_gelu"])
def test_every_stage_of_a_text_tower_equals_open_clip(name):
    want, _ = open_clip_small.read(name)
    tower = towers.text_tower(open_clip_towers.config(name), "float32")
    features, got = open_clip_towers.run(
        tower, open_clip_towers.parameters(name)[1], text_batch(name)
    )
    close(got["text_model/embeddings"], want["text/embedded"])
    for block in range(2):
        close(got[f"text_model/encoder/layers/{block}"], want[f"text/block_{block}"])
    close(got["text_model/final_layer_norm"], want["text/normed"])
    close(features, want["text/features"])


def change(name, **fields):
    """Returns the config of a small model with other fields of its image tower."""
    config = open_clip_towers.config(name)
    return dataclasses.replace(config, image=dataclasses.replace(config.image, **fields))


IMAGE_CHANGES = {
    "quick GELU for GELU": ("vit_gelu", {"activation": "quick_gelu"}),
    "pre-norm for post-norm": ("eva_post", {"post_norm": False}),
    "no norm inside attention": ("eva_sub", {"inner_norm": False}),
    "no norm inside the MLP": ("eva_sub", {"mlp": "swiglu"}),
    "rotation at another scale": ("eva_sub", {"trained_side": 5}),
}
MORE_IMAGE_CHANGES = {
    "GELU for quick GELU": ("vit_quick_gelu", {"activation": "gelu"}),
    "no rotation": ("eva_sub", {"trained_side": None}),
    "other heads": ("eva_post", {"heads": 4}),
}


def features_of(tower, params, batch):
    with jax.default_matmul_precision("highest"):
        return np.asarray(
            jax.jit(tower.module.apply)({"params": params}, next(iter(batch.values())))
        )


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        *(pytest.param(*change, id=label) for label, change in IMAGE_CHANGES.items()),
        *(
            pytest.param(*change, id=label, marks=pytest.mark.slow)
            for label, change in MORE_IMAGE_CHANGES.items()
        ),
    ],
)
def test_a_changed_convention_changes_the_image_features(name, fields):
    tower = towers.image_tower(change(name, **fields), "float32")
    got = features_of(tower, open_clip_towers.parameters(name)[0], image_batch(name))
    want = open_clip_small.read(name)[0]["image/features"]
    assert np.abs(got - want).max() > peers.PARITY


def test_the_order_of_the_gate_matters():
    params = jax.tree.map(np.copy, open_clip_towers.parameters("eva_sub")[0])
    for part in params["transformer"].values():
        expand = part["mlp"]["expand"]
        for leaf, values in expand.items():
            expand[leaf] = np.roll(values, values.shape[-1] // 2, axis=-1)
    tower = towers.image_tower(open_clip_towers.config("eva_sub"), "float32")
    got = features_of(tower, params, image_batch("eva_sub"))
    want = open_clip_small.read("eva_sub")[0]["image/features"]
    assert np.abs(got - want).max() > peers.PARITY


@pytest.mark.parametrize("name", ["eva_sub", pytest.param("eva_post", marks=pytest.mark.slow)])
def test_the_term_in_the_variance_matters(name, monkeypatch):
    monkeypatch.setattr(eva, "EPSILON", 1e-5)
    tower = towers.image_tower(open_clip_towers.config(name), "float32")
    got = features_of(tower, open_clip_towers.parameters(name)[0], image_batch(name))
    want = open_clip_small.read(name)[0]["image/features"]
    assert np.abs(got - want).max() > peers.PARITY


def test_the_normalisation_of_pixels_matters():
    config = open_clip_towers.config("eva_post")
    other = configs.Preprocessing(size=32, mean=(0.5,) * 3, std=(0.5,) * 3)
    tower = towers.image_tower(config, "float32")
    got = features_of(
        tower, open_clip_towers.parameters("eva_post")[0], image_batch("eva_post", other)
    )
    want = open_clip_small.read("eva_post")[0]["image/features"]
    assert np.abs(got - want).max() > peers.PARITY


def test_the_token_that_is_projected_matters():
    """Means and other positions, computed with numpy from OpenCLIP's own stages."""
    for name in ("vit_gelu", "eva_sub"):
        stages, state = open_clip_small.read(name)
        head = state["visual.trunk.head.weight"].T if name == "eva_sub" else state["visual.proj"]
        bias = state["visual.trunk.head.bias"] if name == "eva_sub" else 0
        close(stages["image/normed"][:, 0] @ head + bias, stages["image/features"])
        mean = stages["image/normed"].mean(axis=1) @ head + bias
        assert np.abs(mean - stages["image/features"]).max() > peers.PARITY


@pytest.mark.parametrize("position", ["first", pytest.param("last", marks=pytest.mark.slow)])
def test_the_position_of_the_end_of_a_text_matters(position):
    name = "vit_gelu"
    tower = towers.text_tower(open_clip_towers.config(name), "float32")
    # transformers takes the first position of this token: the start, or the padding at the end.
    tower.module.config.eos_token_id = {"first": open_clip_small.VOCABULARY - 2, "last": 0}[
        position
    ]
    got = features_of(tower, open_clip_towers.parameters(name)[1], text_batch(name))
    want = open_clip_small.read(name)[0]["text/features"]
    assert (np.abs(got - want).max(axis=1)[:4] > peers.PARITY).all()


def test_the_activation_of_the_text_tower_matters():
    config = open_clip_towers.config("vit_gelu")
    text = dataclasses.replace(config.text, activation="quick_gelu")
    tower = towers.text_tower(dataclasses.replace(config, text=text), "float32")
    got = features_of(tower, open_clip_towers.parameters("vit_gelu")[1], text_batch("vit_gelu"))
    want = open_clip_small.read("vit_gelu")[0]["text/features"]
    assert np.abs(got - want).max() > peers.PARITY


def published():
    """Returns {architecture: {key: shape}} of OpenCLIP's own models."""
    models, rows = {}, {}
    lines = (open_clip_small.FIXTURES / "open_clip_keys.tsv").read_text("utf-8").splitlines()
    for line in lines[1:]:
        if not line.startswith("\t"):
            rows = models[line] = {}
            continue
        _, key, count, shape = line.split("\t")
        for number in range(int(count)):
            rows[key.replace("*", str(number))] = tuple(json.loads(shape))
    return models


def test_the_teacher_of_uni3d_has_the_keys_and_shapes_of_open_clip():
    check_architecture("EVA02-E-14-plus")


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(n for n in architectures.NAMED if "quickgelu" not in n))
def test_all_named_architectures_have_the_keys_and_shapes_of_open_clip(name):
    check_architecture(name)


def check_architecture(name):
    model = {"model_cfg": architectures.NAMED[name]}
    config = configs.parse(model, source=name)
    state = {key: np.broadcast_to(np.float32(0), shape) for key, shape in published()[name].items()}
    file = open_clip_towers.memory_file(state)
    image = towers.image_tower(config, "float32").parameters()
    text = towers.text_tower(config, "float32").parameters()
    image_sources = weights.image_weights(file, image, config.image).sources
    text_sources = weights.text_weights(file, text).sources
    unused = set(state) - {
        key.partition("[")[0]
        for sources in (image_sources, text_sources)
        for entries in sources.values()
        for _, key in entries
    }
    assert unused == {"logit_scale"}


def test_streamed_weights_equal_the_conversion_in_one_piece():
    name = "eva_sub"
    _, state = open_clip_small.read(name)
    image = {key: value for key, value in state.items() if key.startswith(tables.IMAGE_PREFIX)}
    config = open_clip_towers.config(name)
    expected = towers.image_tower(config, "float32").parameters()
    whole = rules.apply(
        image,
        rules=tables.EVA_RULES,
        ignored=(),
        expected=layers.unstack_shapes(expected),
        source=name,
    )
    jax.tree.map(
        np.testing.assert_array_equal,
        open_clip_towers.parameters(name)[0],
        layers.stack(whole.tree),
    )
