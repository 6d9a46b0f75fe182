# SPDX-License-Identifier: Apache-2.0
"""Apply a table of renaming rules to a PyTorch state dict, strictly in both directions."""

import dataclasses
import re
from collections.abc import Mapping, Sequence

import flax.traverse_util
import numpy as np

DENSE = (1, 0)
CONV = (2, 3, 1, 0)


@dataclasses.dataclass(frozen=True)
class Rule:
    r"""One row of a weight map.

    Args:
      pattern: regular expression that the whole source key has to match.
      target: path of the Flax leaf, with `\1` for groups; dots become slashes.
      transpose: axes order from the source layout to the Flax layout; None leaves it.
    """

    pattern: str
    target: str
    transpose: tuple[int, ...] | None = None


def convert(
    state: Mapping[str, np.ndarray],
    *,
    rules: Sequence[Rule],
    ignored: Sequence[str],
    expected: Mapping,
    source: str,
) -> dict:
    """Turn a PyTorch state dict into a Flax tree of exactly the expected shapes.

    A key without a rule, or a leaf that nothing fills, would leave a teacher partly random
    without any sign of it; so all such faults are collected and raised together.

    Args:
      state: source key -> array.
      rules: the table; every key has to match exactly one row or be ignored.
      ignored: patterns of keys that have no meaning in Flax (counters, unused heads).
      expected: nested tree whose leaves have a `.shape`, e.g. from `jax.eval_shape`.
      source: the file or folder the weights came from, for the error message.

    Returns:
      Nested dict with the structure of `expected` and numpy leaves.

    Raises:
      ValueError: naming every key and leaf that does not fit.
    """
    shapes = {k: v.shape for k, v in flax.traverse_util.flatten_dict(expected, sep="/").items()}
    filled: dict[str, np.ndarray] = {}
    faults = []
    for key, value in state.items():
        if any(re.fullmatch(pattern, key) for pattern in ignored):
            continue
        hits = [rule for rule in rules if re.fullmatch(rule.pattern, key)]
        if len(hits) != 1:
            faults.append(f"{key}: {len(hits)} rules match, expected 1")
            continue
        path = re.sub(hits[0].pattern, hits[0].target, key).replace(".", "/")
        axes = hits[0].transpose
        if axes is not None and len(axes) != value.ndim:
            faults.append(f"{key}: {value.ndim} axes, expected {len(axes)}")
            continue
        leaf = value if axes is None else value.transpose(axes)
        if path not in shapes:
            faults.append(f"{key}: the model has no {path}")
        elif path in filled:
            faults.append(f"{key}: {path} is filled twice")
        elif leaf.shape != shapes[path]:
            faults.append(f"{key}: shape {leaf.shape}, {path} expects {shapes[path]}")
        filled[path] = leaf
    faults += [f"{path}: nothing in the file fills it" for path in shapes if path not in filled]
    if faults:
        raise ValueError(f"{source} does not fit the model:\n  " + "\n  ".join(faults))
    return flax.traverse_util.unflatten_dict(filled, sep="/")
