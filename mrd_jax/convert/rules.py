# SPDX-License-Identifier: Apache-2.0
"""Apply a table of renaming rules to a PyTorch state dict, strictly in both directions."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import numpy as np

# Axes of the source in the order of the Flax layout.
DENSE = (1, 0)
CONV = (2, 3, 1, 0)


@dataclasses.dataclass(frozen=True)
class Rule:
    r"""One row of a table.

    Attributes:
      pattern: regular expression that the whole source key has to match.
      target: path of the Flax leaf, with `\1` for groups; dots become slashes.
      transpose: axes order from the source layout to the Flax layout; None leaves it.
      squeeze: axes of length one to drop before anything else (a convolution of kernel size 1 is a
        dense layer).
      part: (position, count) of the source among several that fill the leaf side by side along
        its last axis; None where it fills the leaf alone.
    """

    pattern: str
    target: str
    transpose: tuple[int, ...] | None = None
    squeeze: tuple[int, ...] = ()
    part: tuple[int, int] | None = None

    def destination(self, key: str) -> str:
        """Path of the leaf that a matching key goes to."""
        return re.sub(self.pattern, self.target, key).replace(".", "/")

    def arrange(self, value: np.ndarray) -> np.ndarray:
        """The source array in the Flax layout.

        Raises:
          ValueError: the array has other axes.
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
    """A filled tree, and where everything in it came from.

    Attributes:
      tree: nested dict with the structure that was expected and numpy leaves.
      destinations: source key -> path of its leaf, "" for an ignored key, in the source's order.
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
    """Turn a PyTorch state dict into a Flax tree of exactly the expected shapes.

    A key without a rule, or a leaf that nothing fills, would leave a model partly random without
    any sign of it; so all such faults are collected and raised together.

    Args:
      state: source key -> array.
      rules: the table; every key has to match exactly one row or be ignored.
      ignored: patterns of keys that have no meaning in Flax (counters, unused heads).
      expected: nested tree whose leaves have a `.shape`, e.g. from `jax.eval_shape`.
      source: the file or folder the weights came from, for the error message.

    Returns:
      The tree and the destinations.

    Raises:
      ValueError: naming every key and leaf that does not fit.
    """
    shapes = {k: v.shape for k, v in flax.traverse_util.flatten_dict(expected, sep="/").items()}
    pieces: dict[str, dict[tuple[int, int], np.ndarray]] = {}
    destinations: dict[str, str] = {}
    faults = []
    for key, value in state.items():
        destinations[key] = ""
        if any(re.fullmatch(pattern, key) for pattern in ignored):
            continue
        hits = [rule for rule in rules if re.fullmatch(rule.pattern, key)]
        if len(hits) != 1:
            faults.append(f"{key}: {len(hits)} rules match, expected 1")
            continue
        path = destinations[key] = hits[0].destination(key)
        try:
            piece = hits[0].arrange(np.asarray(value))
        except ValueError as error:
            faults.append(f"{key}: {error}")
            continue
        if path not in shapes:
            faults.append(f"{key}: the model has no {path}")
            continue
        fault = _put(pieces.setdefault(path, {}), piece, hits[0].part, shape=shapes[path])
        if fault:
            faults.append(f"{key}: {path} {fault}")
    filled = {}
    for path in shapes:
        found = pieces.get(path, {})
        count = next(iter(found), (0, 1))[1]
        missing = [f"part {n + 1} of {count} of " for n in range(count) if (n, count) not in found]
        if missing:
            names = missing if found else [""]
            faults += [f"{name}{path}: nothing in the file fills it" for name in names]
        elif not faults:
            ordered = [found[n, count] for n in range(count)]
            filled[path] = ordered[0] if count == 1 else np.concatenate(ordered, axis=-1)
    if faults:
        raise ValueError(f"{source} does not fit the model:\n  " + "\n  ".join(faults))
    return Converted(flax.traverse_util.unflatten_dict(filled, sep="/"), destinations)


def _put(
    pieces: dict[tuple[int, int], np.ndarray],
    piece: np.ndarray,
    part: tuple[int, int] | None,
    *,
    shape: tuple[int, ...],
) -> str:
    """Adds a piece to a leaf of some shape; says what is wrong with it, "" for nothing."""
    position, count = part or (0, 1)
    fault = ""
    if any(others != count for _, others in pieces) or (position, count) in pieces:
        fault = "is filled twice"
    elif count == 1 and piece.shape != shape:
        fault = f"expects {shape}, found shape {piece.shape}"
    elif count > 1 and (piece.shape[:-1], piece.shape[-1] * count) != (shape[:-1], shape[-1]):
        fault = f"expects {count} parts of {shape} in all, found shape {piece.shape}"
    pieces[position, count] = piece
    return fault
