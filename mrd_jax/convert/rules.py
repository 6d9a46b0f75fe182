# SPDX-License-Identifier: Apache-2.0
"""Converts a PyTorch state dict by a table of renaming rules, strictly in both directions."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import numpy as np

# Transpositions from the PyTorch layout of a kernel to the Flax layout.
DENSE = (1, 0)
CONV = (2, 3, 1, 0)


@dataclasses.dataclass(frozen=True)
class Rule:
    r"""One row of a conversion table.

    Attributes:
      pattern: regular expression that the whole source key has to match.
      target: path of the Flax leaf, with `\1` for groups; dots become slashes.
      transpose: order of the axes in the Flax layout; None to keep it.
      squeeze: axes of length 1 that are removed first (a convolution of kernel size 1 is a dense
        layer).
      part: (position, count) if the leaf is the concatenation of `count` source arrays along its
        last axis; None if the source fills the leaf alone.
    """

    pattern: str
    target: str
    transpose: tuple[int, ...] | None = None
    squeeze: tuple[int, ...] = ()
    part: tuple[int, int] | None = None

    def destination(self, key: str) -> str:
        """Returns the path of the leaf that a matching key fills."""
        return re.sub(self.pattern, self.target, key).replace(".", "/")

    def arrange(self, value: np.ndarray) -> np.ndarray:
        """Converts a source array to the Flax layout.

        Raises:
          ValueError: the array has another number of axes, or a squeezed axis is longer than 1.
        """
        if any(value.shape[axis : axis + 1] != (1,) for axis in self.squeeze):
            raise ValueError(f"shape {value.shape}, expected length 1 on axes {self.squeeze}")
        value = np.squeeze(value, self.squeeze)
        if self.transpose is None:
            return value
        if len(self.transpose) != value.ndim:
            raise ValueError(f"{value.ndim} axes, expected {len(self.transpose)}")
        return value.transpose(self.transpose)


@dataclasses.dataclass(frozen=True)
class Converted:
    """Result of a conversion.

    Attributes:
      tree: nested dict of numpy arrays with the expected structure.
      destinations: path of the leaf by source key, "" for an ignored key, in the source's order.
    """

    tree: dict[str, Any]
    destinations: dict[str, str]


def apply(
    state: Mapping[str, np.ndarray],
    *,
    rules: Sequence[Rule],
    ignored: Sequence[str],
    expected: Mapping,
    source: str,
) -> Converted:
    """Converts a PyTorch state dict to a Flax tree of exactly the expected shapes.

    A key without a rule or a leaf that no key fills would silently leave a model partly random, so
    all such faults are collected and raised together.

    Args:
      state: array by source key.
      rules: conversion table; every key must match exactly one rule or be ignored.
      ignored: patterns of keys without a counterpart in Flax (counters, unused heads).
      expected: nested tree whose leaves have a `.shape`, such as the result of `jax.eval_shape`.
      source: file or folder of the weights, for the error message.

    Returns:
      The filled tree and the destination of every key.

    Raises:
      ValueError: the state dict does not fit the tree; the message lists every faulty key and leaf.
    """
    shapes = {k: v.shape for k, v in flax.traverse_util.flatten_dict(expected, sep="/").items()}
    # Source arrays of every leaf by (position, count).
    parts: dict[str, dict[tuple[int, int], np.ndarray]] = {}
    destinations: dict[str, str] = {}
    faults = []
    for key, value in state.items():
        destinations[key] = ""
        if any(re.fullmatch(pattern, key) for pattern in ignored):
            continue
        matching = [rule for rule in rules if re.fullmatch(rule.pattern, key)]
        if len(matching) != 1:
            faults.append(f"{key}: {len(matching)} rules match, expected 1")
            continue
        (rule,) = matching
        path = destinations[key] = rule.destination(key)
        try:
            array = rule.arrange(np.asarray(value))
        except ValueError as error:
            faults.append(f"{key}: {error}")
            continue
        if path not in shapes:
            faults.append(f"{key}: the model has no {path}")
            continue
        fault = _add_part(parts.setdefault(path, {}), array, rule.part, shape=shapes[path])
        if fault:
            faults.append(f"{key}: {path} {fault}")
    filled = {}
    for path in shapes:
        arrays = parts.get(path, {})
        count = next(iter(arrays), (0, 1))[1]
        missing = [f"part {n + 1} of {count} of " for n in range(count) if (n, count) not in arrays]
        if missing:
            names = missing if arrays else [""]
            faults += [f"{name}{path}: nothing in the file fills it" for name in names]
        elif not faults:
            ordered = [arrays[n, count] for n in range(count)]
            filled[path] = ordered[0] if count == 1 else np.concatenate(ordered, axis=-1)
    if faults:
        raise ValueError(f"{source} does not fit the model:\n  " + "\n  ".join(faults))
    return Converted(flax.traverse_util.unflatten_dict(filled, sep="/"), destinations)


def _add_part(
    arrays: dict[tuple[int, int], np.ndarray],
    array: np.ndarray,
    part: tuple[int, int] | None,
    *,
    shape: tuple[int, ...],
) -> str:
    """Adds an array to those of a leaf of this shape; returns a fault, "" if there is none."""
    position, count = part or (0, 1)
    fault = ""
    if any(other_count != count for _, other_count in arrays) or (position, count) in arrays:
        fault = "is filled twice"
    elif count == 1 and array.shape != shape:
        fault = f"expects {shape}, found shape {array.shape}"
    elif count > 1 and (array.shape[:-1], array.shape[-1] * count) != (shape[:-1], shape[-1]):
        fault = f"expects {count} parts of {shape} in all, found shape {array.shape}"
    arrays[position, count] = array
    return fault
