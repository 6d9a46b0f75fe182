# SPDX-License-Identifier: Apache-2.0
"""The LiT teacher: training, saving, loading, and the cache of backbone features."""

import dataclasses
import io
import json

import jax
import numpy as np
import PIL.Image
import pytest
import safetensors.numpy

from data_prep import teachers
from data_prep.teachers import batching, lit
from data_prep.teachers.lit import feature_cache, training
from data_prep.teachers.lit.backbones import Backbones
from data_prep.teachers.lit.frozen import efficientnet, minilm, packages


@pytest.fixture(scope="module")
def frozen():
    """Backbones with the released weights; skips the test if their packages are not installed."""
    try:
        return Backbones(batch_size=8, dtype="float32")
    except FileNotFoundError as error:
        pytest.skip(f"the weight packages of the LiT teacher are not installed: {error}")


@dataclasses.dataclass(frozen=True)
class TrainingShape:
    id: str
    images: tuple
    captions: tuple


def picture(colour, *, size=(40, 40), kind="PNG"):
    buffer = io.BytesIO()
    PIL.Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


COLOURS = ("red", "lime", "blue", "yellow", "black", "white")


def training_shapes():
    return [
        TrainingShape(
            id=f"thing {colour}",
            images=(picture(colour), picture(colour, size=(30, 40))),
            captions=(("name", f"a {colour} thing"), ("other", "not for training")),
        )
        for colour in COLOURS
    ]


@pytest.fixture(scope="module")
def trained(frozen, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers") / "lit_colours"
    settings = training.Settings(steps=60, batch_size=6, learning_rate=1e-2)
    teacher = lit.train_lit(
        training_shapes(), folder, seed=3, settings=settings, encode_batch_size=8
    )
    return folder, teacher


def test_a_cached_image_is_not_encoded_again(frozen, tmp_path, monkeypatch):
    images = [picture(colour) for colour in COLOURS]
    monkeypatch.setattr(frozen, "_cache", feature_cache.FeatureCache(tmp_path))
    first = frozen.backbone_features(images[:4])
    monkeypatch.setattr(frozen, "_cache", feature_cache.FeatureCache(tmp_path))
    batch_sizes = []
    run = frozen._images
    monkeypatch.setattr(
        frozen, "_images", type("Spy", (), {"batch_size": 8, "__call__": lambda _, b: spy(b)})()
    )

    def spy(batches):
        for batch in batches:
            batch_sizes.append(len(batch["pixels"]))
            yield from run([batch])

    opened = [PIL.Image.open(io.BytesIO(image)) for image in images]
    np.testing.assert_array_equal(frozen.backbone_features(opened)[:4], first)
    assert batch_sizes == [2]


def test_a_key_depends_on_pixels_shape_weights_and_dtype():
    black, white = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    keys = {
        feature_cache.picture_key(pixels, context=context)
        for pixels in (black, white, black.reshape(1, 4, 3))
        for context in ("w float32", "w bfloat16", "v float32")
    }
    assert len(keys) == 9 and all(len(key) == 16 for key in keys)


def test_a_read_only_cache_is_not_modified(tmp_path):
    cache = feature_cache.FeatureCache(tmp_path / "c", write=False)
    cache.add([b"0" * 16], np.ones((1, 3), np.float32))
    cache.save()
    np.testing.assert_array_equal(cache.rows([b"0" * 16]), np.ones((1, 3)))
    assert not (tmp_path / "c").exists()


def test_keys_with_trailing_zeros_are_saved_and_loaded(tmp_path):
    keys = [bytes(16), b"1" + bytes(15)]
    cache = feature_cache.FeatureCache(tmp_path)
    cache.add(keys, np.eye(2, dtype=np.float32))
    cache.save()
    np.testing.assert_array_equal(feature_cache.FeatureCache(tmp_path).rows(keys), np.eye(2))


def test_saved_features_are_read_from_a_few_files_at_a_time(tmp_path, monkeypatch):
    monkeypatch.setattr(feature_cache, "PART_ROWS", 3)
    monkeypatch.setattr(feature_cache, "RECENT_PARTS", 2)
    keys = [bytes([number] * 16) for number in range(14)]
    features = np.random.default_rng(0).normal(size=(14, 5)).astype(np.float32)
    cache = feature_cache.FeatureCache(tmp_path)
    for start in range(0, 14, 2):
        cache.add(keys[start : start + 2], features[start : start + 2])
    # Twelve are in three files, two are not saved yet.
    assert len(list(tmp_path.glob("part-*.npz"))) == 3 and len(cache._rows) == 2
    order = np.random.default_rng(1).permutation(14)
    np.testing.assert_array_equal(cache.rows([keys[n] for n in order]), features[order])
    assert len(cache._recent) == 2 and len(cache._rows) == 2
    cache.save()
    assert not cache._rows and all(key in cache for key in keys)
    again = feature_cache.FeatureCache(tmp_path, write=False)
    np.testing.assert_array_equal(again.rows(keys), features)


def test_the_error_for_a_corrupt_cache_file_names_it(tmp_path):
    (tmp_path / "part-0.npz").write_bytes(b"PK\x03\x04 not a zip")
    with pytest.raises(ValueError, match="(?s)part-0.npz.*Delete the file"):
        feature_cache.FeatureCache(tmp_path)


def random_examples(*, shapes, seed=0):
    random = np.random.default_rng(seed)
    texts = random.normal(size=(shapes, minilm.DIM)).astype(np.float32)
    texts /= np.linalg.norm(texts, axis=1, keepdims=True)
    images = random.uniform(size=(2 * shapes, efficientnet.FEATURES)).astype(np.float32)
    rows = np.arange(2 * shapes).reshape(shapes, 2)
    return training.Examples(images, texts, list(rows), [np.array([n]) for n in range(shapes)])


def test_ignored_pairs_are_excluded_from_both_denominators():
    scores = np.array([[1.0, 0.5, 2.0], [0.0, 3.0, 1.0], [0.2, 0.1, 0.7]])
    ignored = np.array([[False, False, True], [False, False, False], [True, False, False]])
    total = 0.0
    for row in range(3):
        across = sum(np.exp(scores[row, n]) for n in range(3) if not ignored[row, n])
        down = sum(np.exp(scores[n, row]) for n in range(3) if not ignored[n, row])
        total -= 2 * scores[row, row] - np.log(across) - np.log(down)
    got = training.masked_infonce(scores, ignored)
    np.testing.assert_allclose(got, total / 6, rtol=1e-6)


def test_an_ignored_pair_has_zero_gradient():
    ignored = np.array([[False, True], [False, False]])
    gradient = jax.grad(training.masked_infonce)(np.ones((2, 2), np.float32), ignored)
    assert np.isfinite(gradient).all()
    assert gradient[0, 1] == 0 and gradient[1, 0] != 0


def test_shapes_are_sampled_without_replacement_within_an_epoch():
    examples = random_examples(shapes=7)
    settings = training.Settings(steps=7, batch_size=3)
    batches = list(training.draw_batches(examples, seed=0, settings=settings))
    order = np.concatenate([shapes for _, _, shapes in batches])
    assert sorted(order[:7]) == sorted(order[7:14]) == list(range(7))
    for images, texts, shapes in batches:
        assert (images // 2 == shapes).all() and (texts == shapes).all()
    assert {row % 2 for images, _, _ in batches for row in images} == {0, 1}


def test_training_is_deterministic_and_depends_on_the_seed():
    examples, settings = random_examples(shapes=5), training.Settings(steps=4, batch_size=5)
    maps = [training.fit(examples, seed=seed, settings=settings)[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(maps[0].kernel, maps[1].kernel)
    assert np.abs(maps[0].kernel - maps[2].kernel).max() > 1e-3


def test_shapes_with_the_same_name_are_not_negatives():
    """The loss is 0 if all shapes have the same name; it could not be with negatives."""
    examples = random_examples(shapes=4)
    examples = dataclasses.replace(examples, text_rows=[np.array([0])] * 4)
    _, losses = training.fit(examples, seed=0, settings=training.Settings(steps=2, batch_size=4))
    np.testing.assert_allclose(losses, 0, atol=1e-6)


def test_images_retrieve_the_names_they_were_trained_on(trained):
    _, teacher = trained
    images = teacher.encode_images([picture(colour) for colour in COLOURS])
    texts = teacher.encode_texts([f"a {colour} thing" for colour in COLOURS])
    assert ((images @ texts.T).argmax(axis=1) == np.arange(len(COLOURS))).all()


def test_a_loaded_teacher_gives_the_same_features(trained):
    folder, teacher = trained
    loaded = teachers.load_teacher(folder, batch_size=8)
    images, texts = [picture("red"), picture("teal")], ["a red thing", "zebra"]
    np.testing.assert_array_equal(loaded.encode_images(images), teacher.encode_images(images))
    np.testing.assert_array_equal(loaded.encode_texts(texts), teacher.encode_texts(texts))
    assert loaded.info == teacher.info
    assert (loaded.info.name, loaded.info.dim, loaded.info.kind) == ("lit_colours", 384, "lit")


def test_images_can_have_another_batch_size(trained, monkeypatch):
    """A search encodes one image at a time, or a name in all prompts."""
    folder, _ = trained
    sizes = []
    monkeypatch.setattr(
        batching, "BatchedFunction", lambda *_, batch_size, row: sizes.append(batch_size)
    )
    teachers.load_teacher(folder, batch_size=8)
    teachers.load_teacher(folder, batch_size=8, picture_batch_size=2)
    assert sizes == [8, 8, 2, 8]


def test_the_folder_records_the_training(trained):
    folder, _ = trained
    assert (folder / "training_ids.txt").read_text().splitlines() == [
        shape.id for shape in training_shapes()
    ]
    config = json.loads((folder / lit.CONFIG_FILE).read_text())
    assert config["training"]["seed"] == 3 and config["training"]["texts"] == len(COLOURS)
    hashes = {package["sha256"] for package in config["weights"].values()}
    assert hashes == {packages.EFFICIENTNET.weights_sha256, packages.MINILM.weights_sha256}


def test_a_modified_projection_is_an_error(trained, tmp_path):
    folder, _ = trained
    for name in (lit.CONFIG_FILE, "projection.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    path = tmp_path / "projection.safetensors"
    tensors = safetensors.numpy.load_file(path)
    tensors["bias"][0] += 1e-3
    safetensors.numpy.save_file(tensors, path)
    with pytest.raises(ValueError, match="(?s)the revision is .* train the teacher again"):
        teachers.load_teacher(tmp_path)


def test_a_teacher_is_not_overwritten(trained):
    folder, _ = trained
    with pytest.raises(FileExistsError, match="already holds a teacher"):
        lit.train_lit(training_shapes(), folder)


def test_training_without_captions_is_an_error(frozen, tmp_path):
    del frozen
    with pytest.raises(ValueError, match="no training shape has an image and a caption"):
        lit.train_lit([TrainingShape("a", (picture("red"),), (("other", "x"),))], tmp_path / "t")


def test_loading_the_untrained_teacher_lit_is_an_error():
    with pytest.raises(FileNotFoundError, match="data_prep.build --teacher lit"):
        teachers.load_teacher("lit")
