# SPDX-License-Identifier: Apache-2.0
"""Stacking of transformer layers: checkpoints have one array per layer, the models stacked ones.

`transformer/blocks` stacks all blocks except the last along a first axis; `transformer/last_block`
is the last. In the unstacked form, `transformer/layers/N`, every layer is separate.
"""

from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

STACKED, LAST, SINGLE = "transformer/blocks/", "transformer/last_block/", "transformer/layers/"


def unstack_shapes(expected: Mapping) -> dict[str, Any]:
    """Converts the shapes of a model's variables to the unstacked form.

    Args:
      expected: nested tree of the model whose leaves have a `.shape`.

    Returns:
      The same tree with `.../transformer/layers/N/...` for N from 0 to depth - 1.
    """
    flat = {}
    leaves = flax.traverse_util.flatten_dict(expected, sep="/")
    depth = 1 + max((v.shape[0] for k, v in leaves.items() if STACKED in k), default=0)
    for path, leaf in leaves.items():
        if STACKED in path:
            for layer in range(depth - 1):
                name = path.replace(STACKED, f"{SINGLE}{layer}/")
                flat[name] = jax.ShapeDtypeStruct(leaf.shape[1:], leaf.dtype)
        else:
            flat[path.replace(LAST, f"{SINGLE}{depth - 1}/")] = leaf
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def stack(tree: Mapping) -> dict[str, Any]:
    """Stacks the layers of an unstacked tree; the inverse of `unstack_shapes`.

    Args:
      tree: nested dict of numpy arrays with `.../transformer/layers/N/...`.

    Returns:
      Nested dict with the structure of the model's variables.
    """
    flat: dict[str, Any] = {}
    layers: dict[tuple[str, str], dict[int, Any]] = {}
    for path, leaf in flax.traverse_util.flatten_dict(tree, sep="/").items():
        head, separator, tail = path.partition(SINGLE)
        if not separator:
            flat[path] = leaf
            continue
        number, _, name = tail.partition("/")
        layers.setdefault((head, name), {})[int(number)] = leaf
    for (head, name), by_number in layers.items():
        ordered = [by_number[number] for number in sorted(by_number)]
        flat[f"{head}{LAST}{name}"] = ordered[-1]
        if len(ordered) > 1:
            flat[f"{head}{STACKED}{name}"] = np.stack(ordered[:-1])
    return flax.traverse_util.unflatten_dict(flat, sep="/")


def unstack(tree: Mapping) -> dict[str, Any]:
    """Separates the layers of the variables of a model; the inverse of `stack`.

    Args:
      tree: nested dict of numpy arrays with the structure of the model's variables.

    Returns:
      Nested dict of views with `.../transformer/layers/N/...`.
    """
    flat: dict[str, Any] = {}
    leaves = flax.traverse_util.flatten_dict(dict(tree), sep="/")
    depth = 1 + max((len(v) for k, v in leaves.items() if STACKED in k), default=0)
    for path, leaf in leaves.items():
        if STACKED in path:
            for layer, one in enumerate(leaf):
                flat[path.replace(STACKED, f"{SINGLE}{layer}/")] = one
        else:
            flat[path.replace(LAST, f"{SINGLE}{depth - 1}/")] = leaf
    return flax.traverse_util.unflatten_dict(flat, sep="/")
