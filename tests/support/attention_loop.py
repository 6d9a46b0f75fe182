# SPDX-License-Identifier: Apache-2.0
"""Attention as a plain loop in double precision, and inputs for it."""

import numpy as np


def inputs(queries=7, tokens=7, heads=3, width=5):
    """Draws queries, keys, values and the gradient of the output, [2, n, heads, width] each."""
    rng = np.random.default_rng(0)
    counts = (queries, tokens, tokens, queries)
    return [rng.normal(size=(2, n, heads, width)).astype(np.float32) for n in counts]


def pack(*parts):
    """Concatenates parts [batch, tokens, heads, width] to [batch, tokens, dims]."""
    return np.concatenate([part.reshape(*part.shape[:2], -1) for part in parts], axis=-1)


def plain(query, key, value, gradient):
    """Computes values and gradients head by head and sample by sample, in double precision."""
    query, key, value, gradient = (x.astype(np.float64) for x in (query, key, value, gradient))
    mixed, to_query = np.zeros_like(query), np.zeros_like(query)
    to_key, to_value = np.zeros_like(key), np.zeros_like(value)
    scale = query.shape[-1] ** -0.5
    for sample, head in np.ndindex(query.shape[0], query.shape[2]):
        at = (sample, slice(None), head)
        scores = query[at] @ key[at].T * scale
        weights = np.exp(scores)
        weights /= weights.sum(axis=1, keepdims=True)
        mixed[at] = weights @ value[at]
        to_value[at] = weights.T @ gradient[at]
        to_weights = gradient[at] @ value[at].T
        common = (to_weights * weights).sum(axis=1, keepdims=True)
        to_scores = weights * (to_weights - common) * scale
        to_query[at], to_key[at] = to_scores @ key[at], to_scores.T @ query[at]
    return mixed, to_query, to_key, to_value
