# SPDX-License-Identifier: Apache-2.0
"""Selects items by their licence, before they are prepared."""

import collections
import dataclasses
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from data_prep import shapes

# Short names of Creative Commons licences, with those of `--licence` that no item needs to have.
KNOWN = ("by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd", "cc0")
# Short name of items that state no licence.
UNSTATED = "unstated"
_WORDS = {
    "nc": r"non[- ]?commercial|\bnc\b",
    "sa": r"share[- ]?alike|\bsa\b",
    "nd": r"no[- ]?deriv\w*|\bnd\b",
}
# End of the reason to skip an item.
_REASON = ", not in --licence"
# Licences that a message lists.
_EXAMPLES = 10


def short_name(licence: str) -> str:
    """Returns the short name of a licence: "CC BY-SA 4.0" becomes "by-sa".

    Understands short names, full names, and addresses of Creative Commons licences. A work in the
    public domain counts as "cc0". Other names are returned in lower case, and "" as `UNSTATED`.
    """
    text = " ".join(licence.lower().split())
    if not text:
        return UNSTATED
    if re.search(r"\bcc[ -]?0\b|\bcc[ -]zero\b|public ?domain", text):
        return "cc0"
    is_creative_commons = re.search(r"creative ?commons|\bcc[ -]?by\b", text) or text in KNOWN
    if not is_creative_commons or not re.search(r"\bby\b|attribution", text):
        return text
    parts = [part for part, pattern in _WORDS.items() if re.search(pattern, text)]
    return "-".join(["by", *(part for part in ("nc", "sa", "nd") if part in parts)])


def parse(text: str) -> tuple[str, ...]:
    """Parses a value of `--licence` to short names, sorted.

    Raises:
      ValueError: there is no name.
    """
    names = sorted({short_name(name) for name in text.split(",") if name.strip()})
    if not names:
        raise ValueError(f"{text!r}: expected names such as {','.join(KNOWN)}")
    return tuple(names)


@dataclasses.dataclass(frozen=True)
class Filter:
    """Prepares the items with one of some licences, and skips the others; picklable.

    Attributes:
      prepare: `sources.Source.prepare`.
      names: short names of licences.
    """

    prepare: Callable[..., shapes.Shape]
    names: Sequence[str]

    def __call__(self, item: Any, **settings: int) -> shapes.Shape:
        """Prepares one item. Raises shapes.SkipShape if its licence is not wanted."""
        excluded = "" if _is_skipped(item) else reason(item.licence, self.names)
        if excluded:
            raise shapes.SkipShape(excluded)
        return self.prepare(item, **settings)


def reason(licence: str, names: Collection[str]) -> str:
    """Returns why a licence is not wanted, which the summary counts; "" if it is wanted.

    Args:
      licence: licence of an item or a shape.
      names: short names of the licences that are wanted.
    """
    name = short_name(licence)
    return "" if name in names else f"licence {name}{_REASON}"


def is_lacking(skipped: Mapping[str, str], items: Sequence[Any], names: Collection[str]) -> bool:
    """Returns whether an earlier run skipped an item for its licence that is wanted now.

    Args:
      skipped: id -> reason of the items of a shard without a shape.
      items: items of the shard.
      names: short names of the licences that are wanted; () for all.
    """
    return any(
        skipped.get(item.id, "").endswith(_REASON) and not (names and reason(item.licence, names))
        for item in items
    )


def check(items: Sequence[Any], names: Sequence[str], *, source: str) -> str:
    """Checks that the items of a source have some licences.

    Args:
      items: items of a source; those that have an attribute `licence` state it.
      names: short names of `parse`.
      source: name of the source, for messages.

    Returns:
      Counts of the items by licence, in one line.

    Raises:
      ValueError: the source states no licences, a name is unknown, or no item is left.
    """
    if not any(hasattr(item, "licence") for item in items):
        raise ValueError(f"--licence: --source {source} does not state the licences of its shapes")
    # Items that are skipped anyway keep their own reason.
    counts = collections.Counter(
        short_name(item.licence) for item in items if not _is_skipped(item)
    )
    occurring = ", ".join(f"{name} ({count})" for name, count in counts.most_common(_EXAMPLES))
    occurring += ", ..." if len(counts) > _EXAMPLES else ""
    unknown = [name for name in names if name not in (*counts, *KNOWN, UNSTATED)]
    if unknown or not any(name in counts for name in names):
        found = f"{', '.join(unknown)}: unknown" if unknown else f"{', '.join(names)}: no shape"
        raise ValueError(f"--licence {found}; the licences of --source {source} are {occurring}")
    kept = sum(counts[name] for name in names)
    left_out = "".join(
        f", {name}: {count}" for name, count in sorted(counts.items()) if name not in names
    )
    return f"licences: {kept} of {counts.total()} items kept; left out{left_out or ': none'}"


def _is_skipped(item: Any) -> bool:
    return bool(getattr(item, "skip", ""))
