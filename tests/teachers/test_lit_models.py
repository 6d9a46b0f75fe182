# SPDX-License-Identifier: Apache-2.0
"""The frozen models of the LiT teacher match reference implementations in numpy."""

import jax
import numpy as np
import pytest

from data_prep.teachers.lit.backbones import Backbones
from data_prep.teachers.lit.frozen import efficientnet, minilm, packages, torch_file


@pytest.fixture(scope="module")
def frozen():
    """Backbones with the released weights; skips the test if their packages are not installed."""
    try:
        return Backbones(batch_size=8, dtype="float32")
    except FileNotFoundError as error:
        pytest.skip(f"the weight packages of the LiT teacher are not installed: {error}")


@pytest.mark.parametrize("size", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("shape", [(6, 7), (1, 4)])
def test_depthwise_matches_a_loop_over_all_products(size, stride, shape):
    random = np.random.default_rng(0)
    images = random.normal(size=(2, *shape, 3)).astype(np.float32)
    kernel = random.normal(size=(size, size, 1, 3)).astype(np.float32)
    height, width = (-(-side // stride) for side in shape)
    before = [
        max((n - 1) * stride + size - side, 0) // 2
        for n, side in zip((height, width), shape, strict=True)
    ]
    want = np.zeros((2, height, width, 3))
    for y, x, row, column in np.ndindex(height, width, size, size):
        source = y * stride + row - before[0], x * stride + column - before[1]
        if 0 <= source[0] < shape[0] and 0 <= source[1] < shape[1]:
            want[:, y, x] += images[:, *source] * kernel[row, column, 0]
    got = jax.jit(efficientnet.depthwise, static_argnames="stride")(images, kernel, stride=stride)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_a_block_matches_its_formula():
    random = np.random.default_rng(1)
    block = efficientnet.Block(size=3, stride=1, expansion=6, channels=4, dtype=np.float32)
    images = random.normal(size=(2, 5, 5, 4)).astype(np.float32)
    shapes = jax.eval_shape(block.init, jax.random.key(0), images)
    tree = jax.tree.map(lambda leaf: random.uniform(0.1, 1, leaf.shape).astype("f4"), shapes)
    params, statistics = tree["params"], tree["batch_stats"]

    def norm(values, name):
        centred = values - statistics[name]["mean"]
        scaled = centred / np.sqrt(statistics[name]["var"] + 1e-3)
        return scaled * params[name]["scale"] + params[name]["bias"]

    hidden = np.clip(norm(images @ params["expand"]["kernel"][0, 0], "norm0"), 0, 6)
    padded = np.pad(hidden, ((0, 0), (1, 1), (1, 1), (0, 0)))
    total = np.zeros_like(hidden)
    for row, column in np.ndindex(3, 3):
        kernel = params["depthwise"]["kernel"][row, column, 0]
        total += padded[:, row : row + 5, column : column + 5] * kernel
    hidden = np.clip(norm(total, "norm1"), 0, 6)
    want = images + norm(hidden @ params["project"]["kernel"][0, 0], "norm2")
    np.testing.assert_allclose(jax.jit(block.apply)(tree, images), want, rtol=1e-4, atol=1e-4)


def test_tokens_are_padded_to_a_multiple_of_four():
    got = minilm.pad_tokens([[5, 6], [7, 8, 9, 1, 2]])
    np.testing.assert_array_equal(
        got["input_ids"], [[5, 6, 0, 0, 0, 0, 0, 0], [7, 8, 9, 1, 2, 0, 0, 0]]
    )
    np.testing.assert_array_equal(got["attention_mask"].sum(axis=1), [2, 5])


def test_padding_is_excluded_from_the_mean_of_tokens():
    hidden = np.array([[[3.0, 0.0], [0.0, 4.0], [9.0, 9.0]]], np.float32)
    got = minilm.mean_pool(hidden, mask=np.array([[1, 1, 0]]))
    np.testing.assert_allclose(got, [[0.6, 0.8]], rtol=1e-6)


def test_text_features_do_not_depend_on_other_texts_of_the_batch(frozen):
    texts = ["sofa", "a longer sentence about a table", "couch", "zebra"]
    together = frozen.encode_texts(texts)
    alone = np.concatenate([frozen.encode_texts([text]) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    assert together[0] @ together[2] > 0.7 > 0.4 > together[0] @ together[3]


def test_texts_beyond_the_context_are_counted(frozen):
    """Start and end take 2 of 256 tokens."""
    texts = ["table " * 254, "table " * 255, "sofa"]
    assert frozen.encode_texts.count_truncated(texts) == 1


def test_the_image_model_matches_the_released_network_in_numpy(frozen):
    del frozen
    pixels = np.zeros((1, 40, 40, 3), np.uint8)
    pixels[:, 10:30, 10:25] = (200, 100, 50)
    path = packages.locate(packages.EFFICIENTNET) / packages.EFFICIENTNET.files[0][0]
    model, variables = efficientnet.EfficientNetLite0(), efficientnet.load_variables(path)
    features = np.asarray(jax.jit(model.apply)(variables, pixels))
    want = reference_efficientnet(torch_file.load(path), pixels)
    np.testing.assert_allclose(features, want, atol=1e-4)
    assert features.std() > 0.1


def reference_efficientnet(state, pixels):
    """Computes the released network in numpy from its raw weights, channels first."""

    def conv(images, kernel, stride=1):
        size, groups = kernel.shape[-1], images.shape[1] // kernel.shape[1]
        height, width = (-(-n // stride) for n in images.shape[2:])
        total = max((height - 1) * stride + size - images.shape[2], 0)
        pad = (total // 2, total - total // 2)
        images = np.pad(images, ((0, 0), (0, 0), pad, pad))
        out = 0
        for row, column in np.ndindex(size, size):
            part = images[:, :, row : row + height * stride : stride]
            part = part[:, :, :height, column : column + width * stride : stride][..., :width]
            weight = kernel[:, :, row, column]
            if groups == 1:
                out = out + np.einsum("nchw,oc->nohw", part, weight)
            else:
                out = out + part * weight[:, 0, None, None]
        return out

    def norm(images, name, *, limit=True):
        mean, var, scale, bias = (
            state[f"{name}.{part}"][:, None, None]
            for part in ("running_mean", "running_var", "weight", "bias")
        )
        out = (images - mean) / np.sqrt(var + 0.001) * scale + bias
        return np.clip(out, 0, 6) if limit else out

    images = (pixels.transpose(0, 3, 1, 2).astype(np.float64) - 127) / 128
    images = norm(conv(images, state["_conv_stem.weight"], 2), "_bn0")
    strides = {1: 2, 3: 2, 5: 2, 11: 2}
    for number in range(16):
        name, hidden = f"_blocks.{number}", images
        if number:
            hidden = norm(conv(images, state[f"{name}._expand_conv.weight"]), f"{name}._bn0")
        kernel = state[f"{name}._depthwise_conv.weight"]
        hidden = norm(conv(hidden, kernel, strides.get(number, 1)), f"{name}._bn1")
        hidden = conv(hidden, state[f"{name}._project_conv.weight"])
        hidden = norm(hidden, f"{name}._bn2", limit=False)
        images = images + hidden if images.shape == hidden.shape else hidden
    return norm(conv(images, state["_conv_head.weight"]), "_bn1").mean(axis=(2, 3))
