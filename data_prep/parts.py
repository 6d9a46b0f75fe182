# SPDX-License-Identifier: Apache-2.0
"""Parts of a preparation, for schedulers that only start processes."""

import argparse
import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class Part:
    """Every `count`-th shard of a source, starting with shard `index`.

    Attributes:
      index: 0 to `count` - 1.
      count: number of parts.
    """

    index: int = 0
    count: int = 1

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"

    def has(self, number: int) -> bool:
        """Returns whether a shard belongs to this part."""
        return number % self.count == self.index


WHOLE = Part()


def parse(text: str) -> Part:
    """Converts the value of --part.

    Args:
      text: "INDEX/COUNT", such as "0/3".

    Raises:
      argparse.ArgumentTypeError: the text is no such value.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text)
    if not match or not int(match[1]) < int(match[2]):
        raise argparse.ArgumentTypeError(
            f"expected INDEX/COUNT with an index from 0 to COUNT - 1, such as 0/3, found {text!r}"
        )
    return Part(int(match[1]), int(match[2]))
