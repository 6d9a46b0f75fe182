# SPDX-License-Identifier: Apache-2.0
"""Selects items by their licence, before they are prepared."""

import collections
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

# Short names of Creative Commons licences, with those of `--licence` that no item needs to have.
KNOWN = ("by", "by-sa", "by-nd", "by-nc", "by-nc-sa", "by-nc-nd", "cc0")
# Short name of items that state no licence.
UNSTATED = "unstated"
HELP = (
    "licences of the shapes to use, separated by commas, such as by,by-sa,cc0; others are not "
    "prepared. For sources that state licences: furniture, folder and objaverse; default: all"
)
_WORDS = {
    "nc": r"non-?commercial|\bnc\b",
    "sa": r"share-?alike|\bsa\b",
    "nd": r"no-?deriv\w*|\bnd\b",
}
# End of the reason to skip an item.
_REASON = ", not in --licence"
# Licences that a message lists.
_EXAMPLES = 10


@dataclasses.dataclass(frozen=True)
class Selection:
    """Items by licence.

    Attributes:
      excluded: id of each item that is left out -> reason, which the summary counts.
      kept: number of the other items.
    """

    excluded: Mapping[str, str]
    kept: int

    def __str__(self) -> str:
        """Returns the counts in one line."""
        counts = collections.Counter(self.excluded.values())
        reasons = "".join(f"; {reason}: {count}" for reason, count in sorted(counts.items()))
        return f"--licence: {self.kept} of {self.kept + len(self.excluded)} items kept{reasons}"


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
        raise ValueError(f"--licence {text!r}: expected names such as {','.join(KNOWN)}")
    return tuple(names)


def lacks(skipped: Mapping[str, str], *, excluded: Mapping[str, str]) -> bool:
    """Returns whether a shard lacks an item that an earlier run excluded, and this one does not.

    Args:
      skipped: id -> reason of the items without a shape in the shard.
      excluded: id -> reason of the items that this run excludes.
    """
    return any(
        reason.endswith(_REASON) and item_id not in excluded for item_id, reason in skipped.items()
    )


def select(items: Sequence[Any], names: Sequence[str], *, source: str) -> Selection:
    """Selects the items with one of some licences.

    Args:
      items: items of a source; those that have an attribute `licence` state it.
      names: short names of `parse`.
      source: name of the source, for messages.

    Raises:
      ValueError: the source states no licences, a name is unknown, or no item is left.
    """
    if not any(hasattr(item, "licence") for item in items):
        raise ValueError(f"--licence: --source {source} does not state the licences of its shapes")
    # Items that are skipped anyway keep their own reason.
    items = [item for item in items if not getattr(item, "skip", "")]
    found = {item.id: short_name(item.licence) for item in items}
    counts = collections.Counter(found.values())
    occurring = ", ".join(f"{name} ({count})" for name, count in counts.most_common(_EXAMPLES))
    occurring += ", ..." if len(counts) > _EXAMPLES else ""
    unknown = [name for name in names if name not in (*counts, *KNOWN, UNSTATED)]
    if unknown:
        raise ValueError(
            f"--licence {','.join(unknown)}: unknown; the licences of --source {source} are "
            f"{occurring}"
        )
    excluded = {
        item_id: f"licence {name}{_REASON}" for item_id, name in found.items() if name not in names
    }
    if items and len(excluded) == len(items):
        raise ValueError(
            f"--licence {','.join(names)}: no shape has it; the licences of --source {source} are "
            f"{occurring}"
        )
    return Selection(excluded, kept=len(items) - len(excluded))
