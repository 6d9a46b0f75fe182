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
      layout: name of the layout in which checkpoints have this key, if releases store the same leaf
        in several ways; "" if all have it. Read by `invert` only.
    """

    pattern: str
    target: str
    transpose: tuple[int, ...] | None = None
    squeeze: tuple[int, ...] = ()
    part: tuple[int, int] | None = None
    layout: str = ""

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

    def origin(self, path: str) -> str | None:
        r"""Returns the key that fills the leaf at a path; None if the rule fills other leaves.

        The inverse of `destination`, for patterns of literals and groups, such as
        `layers\.(\d+)\.weight`, whose groups the target all names.
        """
        groups = re.findall(r"\([^()]*\)", self.pattern)
        literals = re.split(r"\\\d", self.target)
        names = [int(name) - 1 for name in re.findall(r"\\(\d)", self.target)]
        wanted = [re.escape(literals[0])]
        for name, literal in zip(names, literals[1:], strict=True):
            wanted += [groups[name], re.escape(literal)]
        match = re.fullmatch("".join(wanted), path)
        if match is None:
            return None
        key = self.pattern
        for group, name in enumerate(names, start=1):
            key = key.replace(groups[name], match[group], 1)
        return key.replace("\\", "")

    def restore(self, leaf: np.ndarray) -> np.ndarray:
        """Returns a leaf or its part as a view like the source; the inverse of `arrange`."""
        if self.part is not None:
            position, count = self.part
            leaf = np.split(leaf, count, axis=-1)[position]
        if self.transpose is not None:
            leaf = leaf.transpose(np.argsort(self.transpose))
        return np.expand_dims(leaf, self.squeeze)


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


def invert(tree: Mapping[str, Any], *, rules: Sequence[Rule], layout: str) -> dict[str, np.ndarray]:
    """Converts a Flax tree to a PyTorch state dict; the inverse of `apply`.

    Args:
      tree: nested dict of numpy arrays, every leaf of which some rule must fill.
      rules: conversion table.
      layout: layout of the checkpoint; rules of other layouts do not apply.

    Returns:
      View of the leaves by source key, in the order of the table and then of the tree; without the
      ignored keys.

    Raises:
      ValueError: the table does not cover the tree; the message lists every faulty leaf.
    """
    leaves = flax.traverse_util.flatten_dict(dict(tree), sep="/")
    state: dict[str, np.ndarray] = {}
    covered: dict[str, list[tuple[int, int]]] = {path: [] for path in leaves}
    for rule in rules:
        if rule.layout not in ("", layout):
            continue
        for path, leaf in leaves.items():
            key = rule.origin(path)
            if key is not None:
                state[key] = rule.restore(leaf)
                covered[path].append(rule.part or (0, 1))
    faults = [
        f"{path}: filled by the parts {sorted(parts)} of the table"
        for path, parts in covered.items()
        if not parts or sorted(parts) != [(n, len(parts)) for n in range(len(parts))]
    ]
    if faults:
        raise ValueError(
            f"the table of layout {layout!r} does not cover the model:\n  " + "\n  ".join(faults)
        )
    return state


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
