# SPDX-License-Identifier: Apache-2.0
"""Counts the shapes of an index by the nearest name of a list of classes."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from mrd_jax.library import class_names
from mrd_jax.search import shape_index

MISSING, FEW, COVERED, REPEATED = "missing", "few", "covered", "repeated"
# Rows of the index that are scored at a time.
_ROWS = 8_192


@dataclasses.dataclass(frozen=True)
class ClassCoverage:
    """A class of a list and its shapes.

    Attributes:
      name: name of the class.
      status: MISSING, no shape; FEW, fewer than asked for; COVERED; or REPEATED, the name occurred
        before in the list.
      shapes: number of shapes whose nearest class is this one.
      best: row of the shape that is nearest to the class, whatever its own class is.
      best_score: cosine similarity of that shape.
    """

    name: str
    status: str
    shapes: int
    best: int
    best_score: float


class Counts:
    """Nearest class of each shape, and nearest shape of each class, while classes pass.

    Memory is 20 bytes per shape and 20 bytes per class.

    Args:
      index: an open index.
      classes: number of classes.
    """

    def __init__(self, index: shape_index.ShapeIndex, *, classes: int):
        self._rows = index.rows
        self._class_scores = np.full(len(index), -np.inf, np.float32)
        self._class_of = np.zeros(len(index), np.int64)
        self._ids = np.zeros(classes, np.uint64)
        self._best = np.zeros(classes, np.int64)
        self._best_scores = np.full(classes, -np.inf, np.float32)
        self._seen = 0

    def add(self, names: Sequence[str], features: np.ndarray) -> None:
        """Adds a chunk of classes.

        Args:
          names: class names.
          features: [names, dim], unit norm.
        """
        new = slice(self._seen, self._seen + len(names))
        self._ids[new] = [class_names.fingerprint(name) for name in names]
        for start in range(0, len(self._rows), _ROWS):
            part = slice(start, start + _ROWS)
            scores = np.asarray(self._rows[part], np.float32) @ features.T
            # Of equal scores the earlier class counts, so that repeated names have no shapes.
            best = scores.argmax(axis=1)
            values = scores[np.arange(len(scores)), best]
            better = values > self._class_scores[part]
            self._class_scores[part][better] = values[better]
            self._class_of[part][better] = self._seen + best[better]
            nearest = scores.argmax(axis=0)
            values = scores[nearest, np.arange(len(names))]
            better = values > self._best_scores[new]
            self._best_scores[new][better] = values[better]
            self._best[new][better] = start + nearest[better]
        self._seen = new.stop

    def results(self, names: Iterable[str], *, few: int) -> Iterator[ClassCoverage]:
        """Yields the coverage of each class in the order of the list.

        Args:
          names: all names that were added, again.
          few: classes with fewer shapes are FEW.
        """
        _, first, inverse = np.unique(self._ids, return_index=True, return_inverse=True)
        first = first[inverse]
        # The shapes of a repeated name, whose scores differ by rounding only, belong to the first.
        counts = np.bincount(first[self._class_of], minlength=len(self._ids))
        for number, name in enumerate(names):
            shapes = int(counts[number])
            status = MISSING if not shapes else FEW if shapes < few else COVERED
            if first[number] != number:
                status = REPEATED
            yield ClassCoverage(
                name, status, shapes, int(self._best[number]), float(self._best_scores[number])
            )
