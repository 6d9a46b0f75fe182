# SPDX-License-Identifier: Apache-2.0
"""CLIP teachers match FlaxCLIPModel for all formats of weights; errors name the remedy."""

import io
import json

import flax.traverse_util
import huggingface_hub
import huggingface_hub.errors
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy
import tokenizers
import transformers

from data_prep import teachers
from data_prep.teachers import batching

WORDS = ("<pad>", "<start>", "<unknown>", "<end>", "a", "red", "chair", "lamp", "of", "wood")
TEXTS = [
    "a red chair",
    "lamp",
    "a lamp of red wood",
    "zebra",
    "wood",
    "a",
    "red",
    "chair of a lamp",
    "of",
]


@pytest.fixture(scope="module")
def model():
    layers = {"intermediate_size": 32, "num_attention_heads": 2}
    text = {"hidden_size": 16, "vocab_size": len(WORDS), "max_position_embeddings": 8}
    text |= {"num_hidden_layers": 2, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 3}
    vision = {"hidden_size": 24, "image_size": 32, "patch_size": 16, "num_hidden_layers": 1}
    config = transformers.CLIPConfig(
        text_config=text | layers, vision_config=vision | layers, projection_dim=12
    )
    model = transformers.FlaxCLIPModel(config, _do_init=False)
    random = np.random.default_rng(0)
    # Initial biases of 0 and scales of 1 would hide a wrong name.
    model.weights = jax.tree.map(
        lambda leaf: random.normal(0.1, 0.3, leaf.shape).astype(np.float32),
        model.params_shape_tree,
    )
    return model


@pytest.fixture(scope="module")
def processor():
    vocabulary = {word: number for number, word in enumerate(WORDS)}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unknown>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    words.post_processor = tokenizers.processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=[("<start>", 1), ("<end>", 3)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="<end>", unk_token="<unknown>"
    )
    images = transformers.CLIPImageProcessor(
        size={"shortest_edge": 40}, crop_size=32, image_mean=[0.4, 0.5, 0.6], image_std=[0.2] * 3
    )
    return images, tokenizer


def pictures(count):
    random = np.random.default_rng(1)
    sizes = [(40 + 3 * number, 50) for number in range(count)]
    return [
        PIL.Image.fromarray(random.integers(0, 256, (*size, 3), dtype=np.uint8)) for size in sizes
    ]


def encoded(image):
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def save(folder, model, processor):
    model.save_pretrained(folder, params=model.weights)
    for part in processor:
        part.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def teacher(tmp_path_factory, model, processor):
    folder = tmp_path_factory.mktemp("clip")
    return teachers.load_teacher(save(folder, model, processor), batch_size=8)


@pytest.fixture(scope="module")
def direct(model, processor):
    """Features of `pictures(11)` and `TEXTS` from the model itself, with minimal padding."""
    images, tokenizer = processor
    pixels = images(images=pictures(11), return_tensors="np")["pixel_values"]
    tokens = tokenizer(
        TEXTS,
        padding=True,
        return_token_type_ids=False,
        return_attention_mask=True,
        return_tensors="np",
    )
    embed_images = jax.jit(lambda params: model.get_image_features(pixels, params=params))
    embed_texts = jax.jit(lambda params: model.get_text_features(**tokens, params=params))
    return np.asarray(embed_images(model.weights)), np.asarray(embed_texts(model.weights))


def to_pytorch(params):
    """Converts the weights to a state dict of PyTorch, written out by hand."""
    state = {}
    for path, leaf in flax.traverse_util.flatten_dict(params).items():
        *stem, last = path
        name = {"kernel": "weight", "scale": "weight", "embedding": "weight"}.get(last, last)
        if last == "kernel":
            leaf = leaf.transpose({2: (1, 0), 4: (3, 2, 0, 1)}[leaf.ndim])
        state[".".join((*stem, name))] = leaf.copy("C")
    state["text_model.embeddings.position_ids"] = np.arange(8)[None]
    return state


def save_pytorch(folder, model, processor, *, shards=1, dtype=np.float32):
    """Writes a folder as PyTorch's save_pretrained does, with one or several shards."""
    save(folder, model, processor)
    (folder / "flax_model.msgpack").unlink()
    state = to_pytorch(model.weights)
    state = {k: v.astype(dtype) if v.dtype == np.float32 else v for k, v in state.items()}
    names = [f"model-{n + 1:05}-of-{shards:05}.safetensors" for n in range(shards)]
    names = ["model.safetensors"] if shards == 1 else names
    index = {key: names[number % shards] for number, key in enumerate(state)}
    for name in names:
        part = {key: value for key, value in state.items() if index[key] == name}
        safetensors.numpy.save_file(part, folder / name, metadata={"format": "pt"})
    if shards > 1:
        (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    return folder


@pytest.mark.parametrize("count", [1, 8, 11])
def test_image_features_match_the_model(teacher, direct, count):
    got = teacher.encode_images(pictures(count))
    np.testing.assert_allclose(got, direct[0][:count], atol=1e-5)
    assert got.dtype == np.float32


@pytest.mark.parametrize("count", [1, 8, 9])
def test_text_features_match_the_model(teacher, direct, count):
    got = teacher.encode_texts(TEXTS[:count])
    np.testing.assert_allclose(got, direct[1][:count], atol=1e-5)
    assert got.dtype == np.float32


def test_features_of_different_inputs_differ(direct):
    for features in direct:
        distances = np.linalg.norm(features[:, None] - features, axis=-1)
        assert (distances + np.eye(len(features)) > 0.01).all()


def test_truncated_texts_keep_the_end_token(teacher):
    long, short = teacher.encode_texts(["a red lamp of wood a chair", "a red lamp of wood a"])
    np.testing.assert_allclose(long, short, atol=1e-6)


def test_texts_beyond_the_context_are_counted(teacher):
    """Start and end take 2 of 8 tokens."""
    six, seven = "a red lamp of wood a", "a red lamp of wood a chair"
    assert teacher.count_truncated([]) == 0
    assert teacher.count_truncated([six, seven, "lamp", seven + " of wood"] * 2_000) == 4_000


def test_empty_input_gives_empty_features(teacher):
    assert teacher.encode_images([]).shape == teacher.encode_texts([]).shape == (0, 12)


def test_encoded_and_opened_images_give_the_same_features(teacher, direct):
    blob = encoded(pictures(1)[0])
    opened = PIL.Image.open(io.BytesIO(blob))
    got = teacher.encode_images([opened, blob, opened])
    np.testing.assert_allclose(got, np.repeat(direct[0][:1], 3, axis=0), atol=1e-5)


def test_transparent_images_are_composited_on_white(teacher):
    clear = PIL.Image.new("RGBA", (40, 40), (200, 0, 0, 0))
    got = teacher.encode_images([clear, PIL.Image.new("RGB", (40, 40), "white")])
    np.testing.assert_allclose(got[0], got[1], atol=1e-6)


def test_the_error_for_a_corrupt_image_gives_its_position(teacher):
    with pytest.raises(ValueError, match="picture 1 cannot be decoded"):
        teacher.encode_images([encoded(pictures(1)[0]), b"no picture"])


@pytest.mark.parametrize("shards", [1, 3])
def test_pytorch_safetensors_give_the_same_features_without_pytorch(
    tmp_path, model, processor, direct, shards
):
    folder = save_pytorch(tmp_path, model, processor, shards=shards)
    teacher = teachers.load_teacher(folder, batch_size=8)
    np.testing.assert_allclose(teacher.encode_images(pictures(2)), direct[0][:2], atol=1e-5)
    np.testing.assert_allclose(teacher.encode_texts(TEXTS), direct[1], atol=1e-5)


def test_images_can_have_another_batch_size(tmp_path, model, processor, monkeypatch):
    """A search encodes one image at a time, or a name in all prompts."""
    folder = save_pytorch(tmp_path, model, processor)
    sizes = []
    monkeypatch.setattr(
        batching, "BatchedFunction", lambda *_, batch_size, row: sizes.append(batch_size)
    )
    teachers.load_teacher(folder, batch_size=8)
    teachers.load_teacher(folder, batch_size=8, picture_batch_size=2)
    assert sizes == [8, 8, 2, 8]


def test_bfloat16_features_are_close_and_returned_as_float32(tmp_path, model, processor, direct):
    folder = save_pytorch(tmp_path, model, processor, dtype=jnp.bfloat16)
    got = teachers.load_teacher(folder, batch_size=8, dtype="bfloat16").encode_texts(TEXTS)
    assert got.dtype == np.float32
    assert 1e-4 < np.abs(got - direct[1]).max() < 0.1 * np.abs(direct[1]).max()


def test_the_revision_of_a_folder_depends_on_its_weights(tmp_path, model, processor):
    folder = save_pytorch(tmp_path, model, processor)
    before = teachers.load_teacher(folder).info
    assert before.dim == 12 and before.kind == "clip" and before.name == tmp_path.name
    assert json.loads(before.preprocessing)["image_mean"] == [0.4, 0.5, 0.6]
    state = safetensors.numpy.load_file(folder / "model.safetensors")
    state["text_projection.weight"] += 1
    safetensors.numpy.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    assert teachers.load_teacher(folder).info.revision != before.revision


def test_the_error_for_a_missing_weight_names_it(tmp_path, model, processor):
    folder = save_pytorch(tmp_path, model, processor)
    state = safetensors.numpy.load_file(folder / "model.safetensors")
    state["visual_projection.extra"] = state.pop("visual_projection.weight")
    safetensors.numpy.save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError) as error:
        teachers.load_teacher(folder)
    assert "visual_projection/kernel: nothing in the file fills it" in str(error.value)
    assert "visual_projection.extra: 0 rules match" in str(error.value)


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("model-00002-of-00003.safetensors", "not found"),
        ("preprocessor_config.json", "image processor is missing.*CLIPProcessor"),
        ("tokenizer.json", "tokenizer is missing.*CLIPProcessor"),
        ("config.json", "folder of a CLIP checkpoint"),
    ],
)
def test_the_error_for_a_missing_file_gives_the_remedy(tmp_path, model, processor, missing, words):
    folder = save_pytorch(tmp_path, model, processor, shards=3)
    (folder / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"(?s){missing}.*{words}"):
        teachers.load_teacher(folder)


def test_the_error_for_pytorch_pickles_gives_the_conversion(tmp_path, model, processor):
    folder = save(tmp_path, model, processor)
    (folder / "flax_model.msgpack").rename(folder / "pytorch_model.bin")
    with pytest.raises(FileNotFoundError, match=r"only PyTorch pickles.*save_pretrained\(FOLDER"):
        teachers.load_teacher(folder)


def test_another_model_type_is_an_error(tmp_path, model, processor):
    folder = save(tmp_path, model, processor)
    (folder / "config.json").write_text('{"model_type": "siglip"}')
    with pytest.raises(ValueError, match="model_type is 'siglip', expected 'clip'"):
        teachers.load_teacher(folder)


def test_the_error_for_an_unreachable_hub_gives_alternatives(monkeypatch):
    def offline(name, *, revision, allow_patterns):
        assert (name, revision) == ("owner/model", "abc")
        raise huggingface_hub.errors.LocalEntryNotFoundError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", offline)
    with pytest.raises(FileNotFoundError, match="(?s)owner/model@abc.*no network.*--teacher lit"):
        teachers.load_teacher("owner/model@abc")


def test_hub_weights_are_downloaded_in_one_format_and_the_commit_is_the_revision(
    tmp_path, monkeypatch, model, processor
):
    folder = save(tmp_path / "0123abc", model, processor)
    requests = []

    def download(name, *, revision, allow_patterns):
        requests.append(allow_patterns)
        weights = folder / "flax_model.msgpack"
        if "flax_model.msgpack" in allow_patterns:
            (folder / "hidden").rename(weights)
        else:
            weights.rename(folder / "hidden")
        return str(folder)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    info = teachers.load_teacher("owner/model").info
    assert (info.name, info.revision) == ("owner/model", "0123abc")
    assert len(requests) == 2 and "model.safetensors" in requests[0]
