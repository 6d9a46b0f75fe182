# SPDX-License-Identifier: Apache-2.0
"""Types of command-line flags that reject values out of range."""

import argparse
import math
from collections.abc import Callable

# Value of a flag that leaves the choice to the program.
AUTO = "auto"


def integer(minimum: int, maximum: int | None = None) -> Callable[[str], int]:
    """Returns an argparse type for integers in a range.

    Args:
      minimum: smallest allowed value.
      maximum: largest allowed value; None for no upper limit.

    Returns:
      A function from the text of a flag to its value. It raises argparse.ArgumentTypeError, which
      states the allowed range and the text, for anything else.
    """
    upper = "" if maximum is None else f" and at most {maximum}"
    allowed = f"an integer of at least {minimum}{upper}"

    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum or (maximum is not None and value > maximum):
            raise argparse.ArgumentTypeError(f"expected {allowed}, found {text!r}")
        return value

    return parse


def auto_or(parse: Callable[[str], int]) -> Callable[[str], int | None]:
    """Returns an argparse type for "auto", which becomes None, or for what `parse` takes."""

    def parse_or_auto(text: str) -> int | None:
        if text == AUTO:
            return None
        try:
            return parse(text)
        except argparse.ArgumentTypeError as error:
            message = str(error).replace("expected ", f"expected {AUTO} or ", 1)
            raise argparse.ArgumentTypeError(message) from None

    return parse_or_auto


def positive_number(text: str) -> float:
    """Converts the text of a flag to a number above 0, as an argparse type."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"expected a number above 0, found {text!r}")
    return value
