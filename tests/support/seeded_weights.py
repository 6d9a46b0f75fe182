# SPDX-License-Identifier: Apache-2.0
"""Weights of fixtures, drawn from a seed and the key of each array, so that none are stored."""

import re
import zlib

import numpy as np


def seeded_state(keys, seed):
    """Draws the weights of a fixture; every array depends on its seed and key alone."""
    state = {}
    for key, shape, _ in keys:
        sequence = np.random.SeedSequence([seed, zlib.crc32(key.encode())])
        draw = np.random.Generator(np.random.PCG64(sequence)).standard_normal
        state[key] = _shaped(key, draw(tuple(shape), dtype=np.float32))
    return state


def _shaped(key, noise):
    leaf = key.split(".")[-1]
    if leaf == "num_batches_tracked":
        return np.array(17, np.int64)
    if key == "logit_scale":
        return np.array(np.log(1 / 0.07), np.float32)
    if leaf == "running_var":
        return (0.6 + 0.4 * np.tanh(noise)).astype(np.float32)
    if noise.ndim == 1 and leaf == "weight":  # scales of norms
        return (1 + 0.2 * noise).astype(np.float32)
    for pattern, scale in (
        (r"running_mean", 0.2),
        (r"(q_|v_|in_proj_)?bias", 0.05),
        (r"class_embedding|positional_embedding", 0.05),
        (r"cls_.*|pos_embed", 0.3),
    ):
        if re.fullmatch(pattern, leaf):
            return (scale * noise).astype(np.float32)
    return (noise / np.sqrt(np.prod(noise.shape[1:], dtype=np.float64))).astype(np.float32)
