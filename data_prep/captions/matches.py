# SPDX-License-Identifier: Apache-2.0
"""Collects the rows of a file that match shapes, in 25 bytes per row."""

import array

import numpy as np

from data_prep.captions.ids import Level, ShapeIds
from data_prep.geometry.listing import printable

# Ids that a message shows.
EXAMPLES = 3


class Matches:
    """Rows of a file with the shapes that they belong to.

    Args:
      ids: index of the shapes.

    Attributes:
      examples: the first ids that match no shape.
      ambiguous: number of rows whose id may mean several shapes, or is one of several ids that may
        mean the same shape.
    """

    def __init__(self, ids: ShapeIds):
        self._ids = ids
        self.positions, self.starts, self.stops = (array.array("q") for _ in range(3))
        self._levels = array.array("b")
        # Per shape: the best level, the id that matched it, and whether several did loosely.
        self._best = bytearray([Level.NONE]) * len(ids)
        self._matched_by = array.array("q", bytes(8 * len(ids)))
        self._several = bytearray(len(ids))
        self._unmatched = array.array("q")
        self.examples: list[str] = []
        self.ambiguous = 0

    def add(self, found_id: str, start: int = 0, stop: int = 0) -> None:
        """Adds a row."""
        position, level = self._ids.find(found_id)
        if position is None:
            self.ambiguous += level is Level.LOOSE
            if level is Level.NONE:
                self._unmatched.append(hash(found_id))
                if len(self.examples) < EXAMPLES and found_id not in self.examples:
                    self.examples.append(found_id)
            return
        if level is Level.LOOSE:
            key = hash(found_id)
            is_other = self._best[position] == level and self._matched_by[position] != key
            self._several[position] |= is_other
            self._matched_by[position] = key
        self._best[position] = min(level, self._best[position])
        for values, value in (
            (self.positions, position),
            (self.starts, start),
            (self.stops, stop),
            (self._levels, level),
        ):
            values.append(value)

    def finish(self) -> np.ndarray:
        """Returns the rows that match one shape, by shape and in the order of the file.

        Returns:
          int64 [rows, 3]: position of the shape, first byte, and the byte behind the last one.
        """
        positions = np.frombuffer(self.positions, np.int64)
        levels = np.frombuffer(self._levels, np.int8)
        best = np.frombuffer(self._best, np.uint8)[positions]
        loose = levels == Level.LOOSE
        several = loose & np.frombuffer(self._several, np.uint8)[positions].astype(bool)
        kept = (levels == best) & ~several
        self.ambiguous += int(np.count_nonzero(~kept))
        columns = [np.frombuffer(values, np.int64)[kept] for values in (self.starts, self.stops)]
        rows = np.stack([positions[kept], *columns], axis=1)
        return rows[np.argsort(rows[:, 0], kind="stable")]

    def unmatched(self) -> int:
        """Returns the number of distinct ids that match no shape."""
        return len(set(self._unmatched))

    def describe_unmatched(self) -> str:
        """Returns the number of ids that match no shape, with examples."""
        count = self.unmatched()
        if not count:
            return "0 ids match no shape"
        more = ", ..." if count > len(self.examples) else ""
        return f"{count} ids match no shape ({', '.join(map(printable, self.examples))}{more})"
