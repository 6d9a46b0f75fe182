# SPDX-License-Identifier: Apache-2.0
"""Summary of a preparation of shapes: counts by reason, with examples."""

import collections
import dataclasses
import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from data_prep import shards
from data_prep.geometry.listing import printable

# Item ids that a summary lists for each reason.
EXAMPLES = shards.EXAMPLES
# Whole numbers, but neither parts of words nor of decimal fractions such as glTF 1.0.
_NUMBER = re.compile(r"(?<![\w.])\d+(?!\w|\.\d)")


@dataclasses.dataclass
class Summary:
    """Counts and times of a preparation.

    Attributes:
      read: number of items that the source lists.
      written: number of shapes in the cache.
      reused: number of items in shards of an earlier run.
      notes: what the source does not read, and other facts about the input, one line each.
      skipped: reason -> number of items without a shape.
      aborted: number of skipped items that --retry_skipped tries again.
      retried: reason -> number of items whose first attempt failed.
      faults: kind -> number of repairs and omissions in the shapes that were kept.
      examples: reason or kind -> the smallest ids of its items, in order.
      bytes: size of the shards in the cache.
      cpu_seconds: stage -> CPU seconds over all processes, without reused shards.
      seconds: wall time.
    """

    read: int = 0
    written: int = 0
    reused: int = 0
    notes: list[str] = dataclasses.field(default_factory=list)
    skipped: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    aborted: int = 0
    retried: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    faults: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    examples: dict[str, list[str]] = dataclasses.field(default_factory=dict)
    bytes: int = 0
    cpu_seconds: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    seconds: float = 0.0

    def add_shard(self, path: Path, header: Mapping, *, written: int) -> None:
        """Adds one shard.

        Args:
          path: file of the shard.
          header: its header.
          written: number of its shapes.
        """
        self.written += written
        self.bytes += path.stat().st_size
        self.skipped.update(header["skipped"].values())
        self.aborted += len(header.get(shards.ABORTED, ()))
        self.faults.update(header["faults"])
        skipped = [(reason, [item_id]) for item_id, reason in header["skipped"].items()]
        # Shards of earlier versions have no "faulty".
        for reason, ids in [*skipped, *header.get("faulty", {}).items()]:
            # The smallest ids: shards are added in the order in which they are finished.
            known = self.examples.get(reason, [])
            self.examples[reason] = sorted([*known, *ids])[:EXAMPLES]

    def check(self) -> None:
        """Raises RuntimeError unless every item has a shape or a reason for having none."""
        if self.read != self.written + self.skipped.total():
            raise RuntimeError(
                f"{self.read} items were read, but {self.written} were written and "
                f"{self.skipped.total()} skipped; this is a fault of data_prep"
            )

    def __str__(self) -> str:
        """Returns a summary of a few lines."""
        lines = [
            f"{self.read} items read, {self.written} shapes in the cache "
            f"({self.reused} items found prepared), {self.skipped.total()} skipped, "
            f"{self.bytes} bytes, {self.seconds:.1f} s"
        ]
        lines += [f"  note: {note}" for note in self.notes]
        for outcome, counts in (("skipped", self.skipped), ("kept", self.faults)):
            for reason, texts in group(counts):
                count = sum(counts[text] for text in texts)
                examples = [each for text in texts for each in self.examples.get(text, [])]
                lines.append(f"  {outcome}, {reason}: {count}")
                if examples:
                    more = ["..."] if len(examples) > EXAMPLES or EXAMPLES < count else []
                    lines.append(f"    {', '.join([*map(printable, examples[:EXAMPLES]), *more])}")
        for reason, texts in group(self.retried):
            count = sum(self.retried[text] for text in texts)
            lines.append(f"  tried a second time, {reason}: {count}")
        if self.aborted:
            lines.append(f"  --retry_skipped tries {self.aborted} of the skipped items again")
        if self.cpu_seconds:
            stages = ", ".join(f"{name} {sec:.1f}" for name, sec in self.cpu_seconds.items())
            lines.append(f"  CPU seconds: {stages}")
        return "\n".join(lines)


def group(counts: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Groups texts that differ in numbers only, such as "points that are not finite, dropped: 12".

    Returns:
      Pairs of a text, with "N" for the numbers that differ, and the texts of the group; sorted.
    """
    groups = collections.defaultdict(list)
    for text in sorted(counts):
        groups[_NUMBER.sub("N", text)].append(text)
    return sorted((texts[0] if len(texts) == 1 else text, texts) for text, texts in groups.items())
