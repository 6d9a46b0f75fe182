# SPDX-License-Identifier: Apache-2.0
"""Towers of the small OpenCLIP models with their random weights, and what they compute."""

import contextlib
import functools
import pathlib

import flax.traverse_util
import jax
import numpy as np
import open_clip_small

from data_prep.teachers.open_clip import architectures, configs, tensors, towers, weights


@contextlib.contextmanager
def small_architectures():
    """Adds the small EVA towers to those that a config can name."""
    sizes = {
        name: architectures.Eva(*numbers, **switches)
        for name, (numbers, switches) in open_clip_small.EVA_SIZES.items()
    }
    before = dict(architectures.EVA)
    architectures.EVA.update(sizes)
    try:
        yield
    finally:
        architectures.EVA.clear()
        architectures.EVA.update(before)


def config(name):
    """Returns the parsed config of a small model."""
    with small_architectures():
        return configs.parse({"model_cfg": open_clip_small.MODELS[name]}, source=name)


def memory_file(state):
    """Returns a state dict as an open file."""
    shapes = {key: value.shape for key, value in state.items()}
    return tensors.TensorFile(pathlib.Path("memory"), shapes, state.__getitem__, {})


@functools.cache
def parameters(name):
    """Returns the parameters of the image and the text tower of a small model."""
    parsed, file = config(name), memory_file(open_clip_small.read(name)[1])
    image = towers.image_tower(parsed, "float32").parameters()
    text = towers.text_tower(parsed, "float32").parameters()
    return (
        weights.image_weights(file, image, parsed.image).load(np.float32),
        weights.text_weights(file, text).load(np.float32),
    )


def run(tower, params, batch):
    """Returns the features of a batch, and the first output of every module by its path."""

    @jax.jit
    def apply(params, batch):
        features, state = tower.module.apply(
            {"params": params}, *batch.values(), capture_intermediates=True
        )
        outputs = flax.traverse_util.flatten_dict(state["intermediates"], sep="/")
        return features, {
            path.removesuffix("/__call__"): jax.tree.leaves(output)[0]
            for path, output in outputs.items()
        }

    with jax.default_matmul_precision("highest"):
        return jax.device_get(apply(params, batch))


def normalised(pixels, preprocessing):
    """Returns pixels as the module expects them."""
    return ((pixels / np.float32(255) - preprocessing.mean) / preprocessing.std).astype(np.float32)
