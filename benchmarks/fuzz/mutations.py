# SPDX-License-Identifier: Apache-2.0
"""Mutations of a valid file, as a disk, a network or an attacker might cause them."""

import re
from collections.abc import Sequence

import numpy as np

# Numbers that break counts, sizes and indices.
NUMBERS = (0, 1, -1, 2, 127, 255, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 10**12, 2**63 - 1, 2**64)
WORDS = (b"nan", b"inf", b"-1", b"1e999", b"\0", b"../../etc/passwd", b"/", b"\xff\xfe", b"[[[[")
_DIGITS = re.compile(rb"-?\d+")


def mutate(data: bytes, *, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """Applies one to four mutations; most readers stop at the first large one.

    Args:
      data: content of a valid file.
      others: other valid files, for splicing.
      rng: random generator.
    """
    for _ in range(min(4, rng.geometric(0.6))):
        data = _MUTATIONS[rng.integers(len(_MUTATIONS))](data, others, rng)
    return data


def _position(data: bytes, rng: np.random.Generator) -> int:
    """Returns a random position; half of them are in the first 128 bytes, where headers are."""
    return int(rng.integers(min(len(data), 128) + 1 if rng.random() < 0.5 else len(data) + 1))


def _range(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = _position(data, rng)
    longest = min(10.0, np.log2(1 + len(data) / 4))
    return start, min(len(data), start + int(2 ** rng.uniform(0, longest)))


def _flip(data, others, rng):
    changed = bytearray(data)
    for _ in range(rng.integers(1, 9)):
        if changed:
            changed[rng.integers(len(changed))] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _overwrite(data, others, rng):
    start, stop = _range(data, rng)
    return data[:start] + rng.bytes(stop - start) + data[stop:]


def _truncate(data, others, rng):
    return data[: int(rng.integers(len(data) + 1))]


def _remove(data, others, rng):
    start, stop = _range(data, rng)
    return data[:start] + data[stop:]


def _repeat(data, others, rng):
    start, stop = _range(data, rng)
    return data[:stop] + data[start:stop] * int(rng.integers(1, 5)) + data[stop:]


def _splice(data, others, rng):
    other = others[rng.integers(len(others))]
    return data[: _position(data, rng)] + other[_position(other, rng) :]


def _inflate_text(data, others, rng):
    """Replaces a decimal number by another one."""
    matches = list(_DIGITS.finditer(data, 0, 4096))
    if not matches:
        return data
    start, stop = matches[rng.integers(len(matches))].span()
    return data[:start] + str(NUMBERS[rng.integers(len(NUMBERS))]).encode() + data[stop:]


def _inflate_binary(data, others, rng):
    """Replaces two, four or eight bytes by a number."""
    width, start = int(2 ** rng.integers(1, 4)), _position(data, rng)
    number = NUMBERS[rng.integers(len(NUMBERS))] % 2 ** (8 * width)
    order = "big" if rng.random() < 0.2 else "little"
    return data[:start] + number.to_bytes(width, order) + data[start + width :]


def _word(data, others, rng):
    """Inserts a problematic word, or overwrites bytes with it."""
    word, start = WORDS[rng.integers(len(WORDS))], _position(data, rng)
    return data[:start] + word + data[start + len(word) * int(rng.integers(2)) :]


def _exchange(data, others, rng):
    """Exchanges two lines or words."""
    for separator in (b"\n", b" ") if rng.random() < 0.5 else (b" ", b"\n"):
        parts = data.split(separator)
        if 2 < len(parts):
            first, second = rng.integers(len(parts), size=2)
            parts[first], parts[second] = parts[second], parts[first]
            return separator.join(parts)
    return data


_MUTATIONS = (
    *(_flip, _overwrite, _truncate, _remove, _repeat, _splice),
    *(_inflate_text, _inflate_binary, _inflate_text, _word, _exchange),
)
