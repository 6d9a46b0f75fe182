# SPDX-License-Identifier: Apache-2.0
"""Changes of a valid file that a disk, a network or an attacker might make."""

import re
from collections.abc import Sequence

import numpy as np

# Numbers at which counts, sizes and indices go wrong.
NUMBERS = (0, 1, -1, 2, 127, 255, 65_535, 2**31 - 1, 2**31, 2**32 - 1, 10**12, 2**63 - 1, 2**64)
WORDS = (b"nan", b"inf", b"-1", b"1e999", b"\0", b"../../etc/passwd", b"/", b"\xff\xfe", b"[[[[")
_DIGITS = re.compile(rb"-?\d+")


def mutate(data: bytes, *, others: Sequence[bytes], rng: np.random.Generator) -> bytes:
    """One change, or up to four after one another: most readers give up at the first large one.

    Args:
      data: of a valid file.
      others: further valid files, to splice with.
      rng: the only source of randomness.
    """
    for _ in range(min(4, rng.geometric(0.6))):
        data = _CHANGES[rng.integers(len(_CHANGES))](data, others, rng)
    return data


def _place(data: bytes, rng: np.random.Generator) -> int:
    """A position; half of them in the first 128 bytes, where headers are."""
    return int(rng.integers(min(len(data), 128) + 1 if rng.random() < 0.5 else len(data) + 1))


def _range(data: bytes, rng: np.random.Generator) -> tuple[int, int]:
    start = _place(data, rng)
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
    return data[: _place(data, rng)] + other[_place(other, rng) :]


def _inflate_text(data, others, rng):
    """Another number in place of one that is written in digits."""
    found = list(_DIGITS.finditer(data, 0, 4096))
    if not found:
        return data
    start, stop = found[rng.integers(len(found))].span()
    return data[:start] + str(NUMBERS[rng.integers(len(NUMBERS))]).encode() + data[stop:]


def _inflate_binary(data, others, rng):
    """Another number in place of two, four or eight bytes."""
    width, start = int(2 ** rng.integers(1, 4)), _place(data, rng)
    number = NUMBERS[rng.integers(len(NUMBERS))] % 2 ** (8 * width)
    order = "big" if rng.random() < 0.2 else "little"
    return data[:start] + number.to_bytes(width, order) + data[start + width :]


def _word(data, others, rng):
    """A word that readers stumble over, put in or put over."""
    word, start = WORDS[rng.integers(len(WORDS))], _place(data, rng)
    return data[:start] + word + data[start + len(word) * int(rng.integers(2)) :]


def _exchange(data, others, rng):
    """Two lines, or words, exchanged."""
    for separator in (b"\n", b" ") if rng.random() < 0.5 else (b" ", b"\n"):
        parts = data.split(separator)
        if 2 < len(parts):
            one, two = rng.integers(len(parts), size=2)
            parts[one], parts[two] = parts[two], parts[one]
            return separator.join(parts)
    return data


_CHANGES = (
    *(_flip, _overwrite, _truncate, _remove, _repeat, _splice),
    *(_inflate_text, _inflate_binary, _inflate_text, _word, _exchange),
)
