# SPDX-License-Identifier: Apache-2.0
"""Restricts a search to shapes of some creators, licences, classes or folders."""

import dataclasses
import functools
from collections.abc import Iterable, Sequence

import numpy as np

from mrd_jax.search import shape_index

FIELDS = ("creator", "licence", "label")


@dataclasses.dataclass(frozen=True)
class Filters:
    """Conditions that a shape has to meet, all of them; an empty one is met by every shape.

    Attributes:
      creator: allowed creators.
      licence: allowed licences.
      label: allowed classes.
      folder: folder that the id of the shape begins with.
    """

    creator: Sequence[str] = ()
    licence: Sequence[str] = ()
    label: Sequence[str] = ()
    folder: str = ""

    def __bool__(self) -> bool:
        return bool(self.creator or self.licence or self.label or self.folder)


class Facets:
    """The values of the fields of all shapes; reads the metadata of an index once.

    Args:
      index: an open index.
    """

    def __init__(self, index: shape_index.ShapeIndex):
        names = (*FIELDS, "folder")
        known: dict[str, dict[str, int]] = {name: {} for name in names}
        codes = np.empty((len(names), len(index)), np.int32)
        for number, item in enumerate(index.items):
            for row, name in enumerate(names):
                values = known[name]
                codes[row, number] = values.setdefault(getattr(item, name), len(values))
        self._index = index
        self._known = known
        self._codes = dict(zip(names, codes, strict=True))

    def counts(self, field: str) -> dict[str, int]:
        """Returns the number of shapes with each value of one of `FIELDS` or "folder"."""
        counts = np.bincount(self._codes[field], minlength=len(self._known[field]))
        return dict(zip(self._known[field], counts.tolist(), strict=True))

    def ranks(self, field: str) -> np.ndarray:
        """Returns the place of each shape in the order of a field; empty values come last.

        Args:
          field: one of `FIELDS`, "folder" or "title".

        Returns:
          int [shapes]; equal values have equal ranks.
        """
        if field == "title":
            return self._title_ranks
        return _places(self._known[field])[self._codes[field]]

    @functools.cached_property
    def _title_ranks(self) -> np.ndarray:
        return _places(item.title for item in self._index.items)

    def numbers(self, filters: Filters) -> np.ndarray:
        """Returns the numbers of the shapes that meet all conditions, ascending."""
        kept = np.ones(len(self._codes["folder"]), bool)
        for field in FIELDS:
            if allowed := getattr(filters, field):
                known = self._known[field]
                wanted = [known[value] for value in allowed if value in known]
                kept &= np.isin(self._codes[field], wanted)
        if folder := filters.folder.rstrip("/"):
            wanted = [
                code
                for value, code in self._known["folder"].items()
                if value == folder or value.startswith(f"{folder}/")
            ]
            kept &= np.isin(self._codes["folder"], wanted)
        return np.flatnonzero(kept)


def _places(values: Iterable[str]) -> np.ndarray:
    """Returns the place of each value in alphabetical order, empty ones last; int64 [values]."""
    keys = [(not value, value.casefold()) for value in values]
    places = {key: place for place, key in enumerate(sorted(set(keys)))}
    return np.array([places[key] for key in keys], np.int64)
