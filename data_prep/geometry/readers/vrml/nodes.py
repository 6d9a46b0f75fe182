# SPDX-License-Identifier: Apache-2.0
"""Nodes of VRML and X3D files, and the values of their fields."""

import dataclasses
import re

import numpy as np

from data_prep.geometry import scene

Value = np.ndarray | list[str]


@dataclasses.dataclass(eq=False)
class Node:
    """Node with its fields; nodes in fields are children, in the order of the file.

    Attributes:
      kind: type, such as "Transform".
      fields: values by name: an array of numbers, or words.
      children: names of fields ("" where the format has none) and nodes in them.
    """

    kind: str
    fields: dict[str, Value] = dataclasses.field(default_factory=dict)
    children: list[tuple[str, "Node"]] = dataclasses.field(default_factory=list)

    def child(self, *kinds: str) -> "Node | None":
        """Returns the first child of one of some types, or None."""
        return next((node for _, node in self.children if node.kind in kinds), None)

    def numbers(self, name: str, *default: float) -> np.ndarray:
        """Returns the numbers of a field, float64 [n]; the default if it is absent.

        Raises:
          scene.MeshError: a word is not a number.
        """
        value = self.fields.get(name)
        if value is None:
            return np.array(default, np.float64)
        return value if isinstance(value, np.ndarray) else to_numbers(" ".join(value))

    def vector(self, name: str, *default: float) -> np.ndarray:
        """Returns as many numbers of a field as the default has; the default if there are fewer."""
        values = self.numbers(name, *default)
        count = len(default)
        return values[:count] if len(values) >= count else np.array(default, np.float64)

    def rows(self, name: str, width: int) -> np.ndarray:
        """Returns the numbers of a field as float64 [n, width], without an incomplete row."""
        values = self.numbers(name)
        return values[: len(values) // width * width].reshape(-1, width)

    def indices(self, name: str) -> np.ndarray:
        """Returns the integers of a field, int64 [n]."""
        values = self.numbers(name)
        if len(values) and not (np.abs(values) < 2**31).all():
            raise scene.MeshError("an index that is too large")
        return values.astype(np.int64)

    def flag(self, name: str, default: bool) -> bool:
        """Returns a boolean field."""
        words = self.words(name)
        return words[0].upper() == "TRUE" if words else default

    def words(self, name: str) -> list[str]:
        """Returns the strings of a field."""
        value = self.fields.get(name, [])
        return [f"{number:g}" for number in value] if isinstance(value, np.ndarray) else value


def to_numbers(text: str) -> np.ndarray:
    """Parses numbers between white space and commas; decimal, or hexadecimal after 0x.

    Raises:
      scene.MeshError: a word is not a number.
    """
    words = text.replace(",", " ").split()
    try:
        return np.array(words, np.float64)
    except ValueError:
        pass
    try:
        return np.array(
            [int(w, 16) if re.match("0[xX]", w) else float(w) for w in words], np.float64
        )
    except (ValueError, OverflowError) as error:
        raise scene.MeshError("a list with something else than numbers") from error
