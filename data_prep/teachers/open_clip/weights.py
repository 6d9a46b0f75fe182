# SPDX-License-Identifier: Apache-2.0
"""Weights of one tower of a checkpoint: checked by their shapes, then read tensor by tensor."""

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from typing import Any

import flax.traverse_util
import numpy as np

from data_prep.teachers.open_clip import architectures, tables, tensors
from mrd_jax.convert import layers, rules

# Arrays that hold queries, keys and values.
_PACKED = re.compile(r".*\.attn\.in_proj_(?:weight|bias)")
_PART = re.compile(r"(.*)\[([012])\]")
# Keys of a CLIP of transformers.
_OF_TRANSFORMERS = re.compile(r"(?:text_model|vision_model)\..*")


@dataclasses.dataclass(frozen=True)
class TowerWeights:
    """Weights of a tower that fit its module.

    Attributes:
      file: the open file.
      expected: nested tree of the parameters, whose leaves have a `.shape`.
      sources: rule and source keys by path of the unstacked parameters.
    """

    file: tensors.TensorFile
    expected: Mapping
    sources: dict[str, list[tuple[rules.Rule, str]]]

    def load(self, dtype: Any) -> dict:
        """Reads the parameters as numpy arrays of a type, with one source array at a time."""
        leaves = flax.traverse_util.flatten_dict(self.expected, sep="/")
        depth = 1 + max((v.shape[0] for k, v in leaves.items() if layers.STACKED in k), default=0)
        filled = {}
        for path, leaf in leaves.items():
            filled[path] = np.empty(leaf.shape, dtype)
            if layers.STACKED in path:
                for number, layer in enumerate(filled[path]):
                    self._fill(layer, path.replace(layers.STACKED, f"{layers.SINGLE}{number}/"))
            else:
                self._fill(filled[path], path.replace(layers.LAST, f"{layers.SINGLE}{depth - 1}/"))
        return flax.traverse_util.unflatten_dict(filled, sep="/")

    def _fill(self, target: np.ndarray, path: str) -> None:
        """Writes the source arrays of an unstacked parameter into it."""
        for rule, key in self.sources[path]:
            position, count = rule.part or (0, 1)
            width = target.shape[-1] // count
            columns = slice(position * width, (position + 1) * width)
            target[..., columns] = rule.arrange(_read(self.file, key))


def text_weights(file: tensors.TensorFile, expected: Mapping) -> TowerWeights:
    """Checks the weights of the text tower.

    Args:
      file: an open file.
      expected: shapes of the parameters of the module.

    Raises:
      ValueError: a weight is missing, unknown or of another shape; the message lists all of them.
    """
    _check_origin(file)
    keys = [key for key in file.shapes if not key.startswith(tables.IMAGE_PREFIX)]
    return _check(file, keys, expected, tables.TEXT_RULES, tables.TEXT_IGNORED)


def image_weights(
    file: tensors.TensorFile, expected: Mapping, sizes: architectures.Vit | architectures.Eva
) -> TowerWeights | None:
    """Checks the weights of the image tower; returns None if the file has none of them.

    Args:
      file: an open file.
      expected: shapes of the parameters of the module.
      sizes: sizes of the tower.

    Raises:
      ValueError: see `text_weights`.
    """
    keys = [key for key in file.shapes if key.startswith(tables.IMAGE_PREFIX)]
    if not keys:
        return None
    table = tables.EVA_RULES if isinstance(sizes, architectures.Eva) else tables.VIT_RULES
    return _check(file, keys, expected, table, ())


def checksum(file: tensors.TensorFile) -> str:
    """Returns a checksum of a file of weights."""
    with open(file.path, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()[:16]


def _check_origin(file: tensors.TensorFile) -> None:
    if any(_OF_TRANSFORMERS.fullmatch(key) for key in file.shapes):
        raise ValueError(
            f"{file.path}: the weights are those of a CLIP of transformers; pass their folder, "
            "with its config.json, or the weights of OpenCLIP"
        )


def _check(
    file: tensors.TensorFile,
    keys: Sequence[str],
    expected: Mapping,
    table: Sequence[rules.Rule],
    ignored: Sequence[str],
) -> TowerWeights:
    """Matches keys and shapes with the module, without reading an array."""
    stubs = {}
    for key in keys:
        shape = file.shapes[key]
        if _PACKED.fullmatch(key) and shape and shape[0] % 3 == 0:
            parts = [f"{key}[{part}]" for part in range(3)]
            stubs.update(dict.fromkeys(parts, _stub((shape[0] // 3, *shape[1:]))))
        else:
            stubs[key] = _stub(shape)
    converted = rules.apply(
        stubs,
        rules=table,
        ignored=ignored,
        expected=layers.unstack_shapes(expected),
        source=str(file.path),
    )
    sources: dict[str, list[tuple[rules.Rule, str]]] = {}
    for key, path in converted.destinations.items():
        if path:
            rule = next(rule for rule in table if re.fullmatch(rule.pattern, key))
            sources.setdefault(path, []).append((rule, key))
    return TowerWeights(file, expected, sources)


def _stub(shape: tuple[int, ...]) -> np.ndarray:
    """Returns an array of a shape that takes no memory."""
    return np.broadcast_to(np.zeros((), bool), shape)


def _read(file: tensors.TensorFile, key: str) -> np.ndarray:
    """Reads an array, or a third of one."""
    if match := _PART.fullmatch(key):
        rows = file.shapes[match[1]][0] // 3
        return file.read(match[1])[int(match[2]) * rows :][:rows]
    return file.read(key)
