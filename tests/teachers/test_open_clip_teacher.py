# SPDX-License-Identifier: Apache-2.0
"""OpenCLIP teachers: folders and files, preprocessing and tokens, the text tower alone, errors."""

import json
import shutil
import sys

import jax.numpy as jnp
import numpy as np
import open_clip_small
import open_clip_towers
import peers
import PIL.Image
import pytest
import safetensors.numpy

from data_prep import teachers
from data_prep.teachers import names
from data_prep.teachers.open_clip import (
    architectures,
    configs,
    pixels,
    places,
    tensors,
    text_tower,
    tokens,
)

pytestmark = pytest.mark.usefixtures("fast_compile", "small_architectures")
WEIGHTS = "open_clip_model.safetensors"


@pytest.fixture(scope="module")
def small_architectures():
    with open_clip_towers.small_architectures():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_architectures):
    """Folder of a small EVA-CLIP; do not change it."""
    return open_clip_small.write_folder(tmp_path_factory.mktemp("hub") / "eva_clip", "eva_sub")


@pytest.fixture(scope="module")
def inputs():
    with np.load(open_clip_small.FIXTURES / "open_clip_inputs.npz") as archive:
        return dict(archive)


@pytest.fixture
def copy(folder, tmp_path):
    """Copy of the folder that a test may change."""
    return shutil.copytree(folder, tmp_path / "eva_clip")


def test_a_folder_gives_the_features_of_open_clip(folder):
    teacher = teachers.load_teacher(folder, batch_size=8, picture_batch_size=8)
    want, _ = open_clip_small.read("eva_sub")
    got = teacher.encode_texts(open_clip_small.TEXTS)
    np.testing.assert_allclose(got, want["text/features"], atol=peers.PARITY, rtol=0)
    images = [PIL.Image.fromarray(image) for image in want["in/pixels"]]
    got = teacher.encode_images(images)
    np.testing.assert_allclose(got, want["image/features"], atol=peers.PARITY, rtol=0)
    assert got.dtype == np.float32 and teacher.has_images
    assert teacher.encode_texts([]).shape == teacher.encode_images([]).shape == (0, 16)
    assert teacher.count_truncated(open_clip_small.TEXTS) == 2
    info = teacher.info
    assert (info.name, info.dim, info.kind) == ("eva_clip", 16, "open_clip")
    assert json.loads(info.preprocessing)["size"] == 40


def test_a_teacher_in_bfloat16_is_close_and_returns_float32(tmp_path):
    folder = open_clip_small.write_folder(tmp_path, "eva_post", dtype=jnp.bfloat16)
    teacher = teachers.load_teacher(folder, batch_size=8, dtype="bfloat16")
    want, _ = open_clip_small.read("eva_post")
    got = teacher.encode_images([PIL.Image.fromarray(image) for image in want["in/pixels"]])
    error = np.abs(got - want["image/features"]).max()
    assert got.dtype == np.float32 and 1e-3 < error < 0.1 * np.abs(want["image/features"]).max()


@pytest.mark.parametrize("clean", configs.CLEANINGS)
def test_tokens_equal_those_of_open_clip(folder, inputs, clean):
    tokenizer = tokens.Tokenizer(
        folder,
        length=open_clip_small.LENGTH,
        vocabulary=open_clip_small.VOCABULARY,
        clean=clean,
    )
    np.testing.assert_array_equal(tokenizer(open_clip_small.TEXTS), inputs[f"tokens/{clean}"])


@pytest.mark.parametrize("clean", configs.CLEANINGS)
def test_repaired_texts_have_the_tokens_of_open_clip(folder, inputs, clean):
    pytest.importorskip("ftfy")
    tokenizer = tokens.Tokenizer(
        folder,
        length=open_clip_small.LENGTH,
        vocabulary=open_clip_small.VOCABULARY,
        clean=clean,
    )
    want = inputs[f"other_tokens/{clean}"]
    np.testing.assert_array_equal(tokenizer(open_clip_small.OTHER_TEXTS), want)


def test_a_text_that_needs_ftfy_is_an_error_without_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    assert tokens.clean("Salt & Pepper", "lower") == "salt & pepper"
    for text in ("chair’s", "a &amp; b"):
        with pytest.raises(ImportError, match=r"pip install \"mrd_jax\[prep\]\""):
            tokens.clean(text, "lower")


@pytest.mark.parametrize("name", open_clip_small.PREPROCESSINGS)
def test_preprocessed_images_equal_those_of_open_clip(inputs, name):
    model = open_clip_small.MODELS["vit_gelu"]
    content = {"model_cfg": model, "preprocess_cfg": open_clip_small.PREPROCESSINGS[name]}
    preprocessing = configs.parse(content, source=name).preprocessing
    for picture, want in zip(open_clip_small.pictures(), inputs[f"pixels/{name}"], strict=True):
        got = open_clip_towers.normalised(pixels.prepare(picture, preprocessing), preprocessing)
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_texts_are_embedded_without_reading_the_image_tower(folder, monkeypatch):
    read = []
    opened = tensors.open_file(folder / WEIGHTS)

    def record(key):
        read.append(key)
        return opened.read(key)

    recorded = tensors.TensorFile(opened.path, opened.shapes, record, {})
    monkeypatch.setattr(tensors, "open_file", lambda path: recorded)
    teacher = teachers.load_teacher(folder, batch_size=8)
    assert not read
    teacher.encode_texts(["a"])
    assert read and not [key for key in read if key.startswith("visual.")]


def test_the_text_tower_alone_is_a_teacher_of_the_same_name(folder, tmp_path, capsys):
    output = tmp_path / "texts"
    assert text_tower.main(["--teacher", str(folder), "--output", str(output)]) == 0
    assert f"parameters, to {output}" in capsys.readouterr().out
    whole, texts = (teachers.load_teacher(path, batch_size=8) for path in (folder, output))
    assert whole.info == texts.info and not texts.has_images
    assert (output / WEIGHTS).stat().st_size < 0.5 * (folder / WEIGHTS).stat().st_size
    want = open_clip_small.read("eva_sub")[0]["text/features"]
    got = texts.encode_texts(open_clip_small.TEXTS)
    np.testing.assert_allclose(got, want, atol=peers.PARITY, rtol=0)
    with pytest.raises(ValueError, match="holds the text tower alone"):
        texts.encode_images([PIL.Image.new("RGB", (8, 8))])
    names.check(str(output), released=True)
    with pytest.raises(ValueError, match="holds the text tower alone"):
        names.check(str(output), released=False)


def test_a_file_is_found_with_its_config_or_with_a_named_architecture(copy, monkeypatch):
    model = open_clip_small.MODELS["eva_sub"]
    monkeypatch.setitem(architectures.NAMED, "EVA-small", model)
    path = copy / WEIGHTS
    by_config = places.find(str(path))
    assert (by_config.name, by_config.weights) == ("eva_clip", path)
    (copy / places.CONFIG_FILE).unlink()
    by_name = places.find(f"EVA-small={path}")
    assert (by_name.name, by_name.config) == ("EVA-small", by_config.config)
    names.check(f"EVA-small={path}", released=False)


def rewrite(folder, change):
    """Changes the state dict of a folder."""
    state = safetensors.numpy.load_file(folder / WEIGHTS)
    change(state)
    safetensors.numpy.save_file(state, folder / WEIGHTS, metadata={"format": "pt"})


def test_a_missing_and_an_unknown_tensor_are_named(copy):
    def change(state):
        state["text.extra"] = state.pop("text.ln_final.weight")

    rewrite(copy, change)
    with pytest.raises(ValueError) as error:
        teachers.load_teacher(copy)
    assert "text_model/final_layer_norm/scale: nothing in the file fills it" in str(error.value)
    assert "text.extra: 0 rules match" in str(error.value)


def test_an_incomplete_image_tower_is_an_error_before_it_is_used(copy):
    rewrite(copy, lambda state: state.pop("visual.trunk.blocks.1.attn.q_proj.bias"))
    with pytest.raises(ValueError, match="layers/1/attention/query_bias: nothing in the file"):
        teachers.load_teacher(copy)


def test_weights_of_transformers_are_recognised(copy):
    rewrite(copy, lambda state: state.update({"text_model.final_layer_norm.bias": np.zeros(16)}))
    with pytest.raises(ValueError, match="those of a CLIP of transformers; pass their folder"):
        teachers.load_teacher(copy)


def test_a_folder_with_both_layouts_is_a_clip_of_transformers(copy):
    (copy / "config.json").write_text('{"model_type": "clip"}')
    assert places.is_open_clip(str(copy))
    (copy / "model.safetensors").touch()
    assert not places.is_open_clip(str(copy))


@pytest.mark.parametrize(
    ("missing", "message"),
    [
        (WEIGHTS, "expected one of open_clip_model.safetensors, .*open_clip_pytorch_model.bin"),
        ("tokenizer", "expected tokenizer.json or vocab.json, the tokenizer of the model"),
        (places.CONFIG_FILE, "config.json: not found; .* or OpenCLIP with its open_clip_config"),
    ],
)
def test_a_missing_file_is_named(copy, missing, message):
    for path in copy.iterdir():
        if path.name.startswith(missing) or missing == "tokenizer" and path.name == "vocab.json":
            path.unlink()
    with pytest.raises(FileNotFoundError, match=message):
        teachers.load_teacher(copy)


def test_the_tokenizer_of_another_model_is_an_error(copy):
    content = json.loads((copy / places.CONFIG_FILE).read_text())
    content["model_cfg"]["text_cfg"]["vocab_size"] += 1
    (copy / places.CONFIG_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="the tokenizer has 525 tokens .* model has 526"):
        teachers.load_teacher(copy)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ViT-Z-9={file}", "unknown architecture 'ViT-Z-9'; expected one of .*ViT-bigG-14"),
        ("ViT-L-14={file}", "releases of ViT-L-14 differ in their preprocessing"),
        ("ViT-B-32={file}.bin", "not found; expected a file of weights of OpenCLIP"),
    ],
)
def test_a_wrong_architecture_or_file_is_an_error_at_start_up(folder, name, message):
    with pytest.raises(ValueError, match=message):
        names.check(name.format(file=folder / WEIGHTS), released=False)


def change_config(name, part, **fields):
    content = {"model_cfg": json.loads(json.dumps(open_clip_small.MODELS[name]))}
    target = content if part == "preprocess_cfg" else content["model_cfg"]
    if part == "model_cfg":
        target.update(fields)
    else:
        target[part] = target.get(part, {}) | fields
    return content


@pytest.mark.parametrize(
    ("part", "fields", "message"),
    [
        ("vision_cfg", {"timm_model_name": "resnet50"}, "'resnet50'; expected one of eva02_base"),
        ("vision_cfg", {"timm_pool": "avg"}, "timm_pool is 'avg', expected 'token'"),
        ("vision_cfg", {"image_size": 99}, "image_size is 99; small_sub has 40"),
        ("text_cfg", {"pool_type": "last"}, "text_cfg.pool_type is 'last', expected 'argmax'"),
        ("text_cfg", {"no_causal_mask": True}, "no_causal_mask is True, expected False"),
        ("text_cfg", {"hf_model_name": "bert"}, "hf_model_name is 'bert', expected None"),
        ("text_cfg", {"tokenizer_kwargs": {"clean": "x"}}, "clean is 'x', expected 'lower' or"),
        ("text_cfg", {"widht": 3}, "has the unknown fields widht"),
        ("model_cfg", {"embed_dim": None}, "model_cfg.embed_dim is missing"),
        ("preprocess_cfg", {"resize_mode": "fit"}, "resize_mode is 'fit', expected 'shortest'"),
        ("preprocess_cfg", {"mean": [1, 2]}, r"mean is \[1, 2\], expected three numbers"),
        ("preprocess_cfg", {"size": 224}, "preprocess_cfg.size is 224, expected 40"),
    ],
)
def test_unsupported_settings_are_errors_that_name_the_field(part, fields, message):
    with pytest.raises(ValueError, match=message):
        configs.parse(change_config("eva_sub", part, **fields), source="a.json")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": [3, 4, 6, 3]}, "a ResNet, expected a ViT"),
        ({"attentional_pool": True}, "attentional_pool is True, expected False"),
        ({"pool_type": "avg"}, "pool_type is 'avg', expected 'tok'"),
    ],
)
def test_other_image_towers_are_errors(fields, message):
    with pytest.raises(ValueError, match=message):
        configs.parse(change_config("vit_gelu", "vision_cfg", **fields), source="a.json")
