# SPDX-License-Identifier: Apache-2.0
"""Series of parts: which of them are used, and their splits.

A series is a class and a name with every number replaced, such as "DIP package/DIP-#_W#mm". Parts
of one series are alike, and so are parts of different series with the same geometry; their series
are joined. No joined series is in two splits.
"""

import collections
import hashlib
import re
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import NamedTuple

# Parts of a series that are used: the largest series has 320 of them.
MAX_PARTS = 8
# Fractions of the series of a class.
TEST, VALIDATION = 0.2, 0.15

_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")


class Part(NamedTuple):
    """Part of a series.

    Attributes:
      id: unique id.
      label: class.
      series: result of `name_of`.
      geometry: what parts with the same geometry have in common; "" if it is unknown.
    """

    id: str
    label: str
    series: str
    geometry: str


def name_of(label: str, name: str) -> str:
    """Returns the name of the series of a part.

    Args:
      label: class of the part.
      name: name of its file without suffix.
    """
    return f"{label}/{_NUMBER.sub('#', name)}"


def limit(ids: Mapping[str, str]) -> set[str]:
    """Selects at most `MAX_PARTS` parts of every series, independently of the other parts' order.

    Args:
      ids: id -> name of the series.

    Returns:
      The ids that are selected, those with the smallest hashes.
    """
    members: dict[str, list[str]] = {}
    for part in sorted(ids, key=_hash):
        members.setdefault(ids[part], []).append(part)
    return {part for parts in members.values() for part in parts[:MAX_PARTS]}


def join(parts: Sequence[Part]) -> dict[str, str]:
    """Joins the series of parts with the same geometry.

    Returns:
      Name of a series -> the smallest name of those that it is joined with.
    """
    parent = {part.series: part.series for part in parts}

    def root(series: str) -> str:
        while parent[series] != series:
            series = parent[series]
        return series

    first: dict[Hashable, str] = {}
    for part in parts:
        if part.geometry:
            one, other = root(first.setdefault(part.geometry, part.series)), root(part.series)
            parent[max(one, other)] = min(one, other)
    return {series: root(series) for series in parent}


def drop_duplicates(parts: Iterable[Part]) -> list[Part]:
    """Returns the first of the parts of one class with the same geometry, and all others."""
    seen: set[tuple[str, str]] = set()
    kept = []
    for part in parts:
        key = (part.label, part.geometry)
        if not part.geometry or key not in seen:
            kept.append(part)
        seen.add(key)
    return kept


def split(parts: Sequence[Part]) -> dict[str, list[str]]:
    """Splits parts by joined series, class by class, without duplicates.

    Of the series of a class, ordered by a hash of their names, the first `TEST` are for testing,
    at least one if there are two, and the next `VALIDATION` for choosing settings. A joined series
    with parts of several classes counts as one of its most frequent class.

    Returns:
      "train", "validation" and "test" -> ids in the order of `parts`.
    """
    joined = join(parts)
    kept = drop_duplicates(parts)
    labels: dict[str, collections.Counter[str]] = {}
    for part in kept:
        labels.setdefault(joined[part.series], collections.Counter())[part.label] += 1
    by_class: dict[str, list[str]] = {}
    for series in sorted(labels, key=_hash):
        label = min(labels[series], key=lambda name: (-labels[series][name], name))
        by_class.setdefault(label, []).append(series)
    chosen = {}
    for members in by_class.values():
        test = max(round(TEST * len(members)), 1) if len(members) > 1 else 0
        validation = round(VALIDATION * len(members))
        for rank, series in enumerate(members):
            is_held_out = rank < test + validation
            chosen[series] = "test" if rank < test else "validation" if is_held_out else "train"
    splits: dict[str, list[str]] = {"train": [], "validation": [], "test": []}
    for part in kept:
        splits[chosen[joined[part.series]]].append(part.id)
    return splits


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
