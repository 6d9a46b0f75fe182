# SPDX-License-Identifier: Apache-2.0
"""Terms of a query, as the page and the API send them, and the shapes that are found."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from starlette.exceptions import HTTPException

from mrd_jax.demo import upload_store
from mrd_jax.search import filters, queries

# Limits per request: results, parts of a query, classes, and characters of a text.
MAX_RESULTS, MAX_PARTS, MAX_CLASSES, MAX_CHARACTERS = 60, 8, 50, 300
KINDS = ("text", "upload", "shape")
# Orders of results. All but the first apply to so many of the most similar shapes.
ORDERS = ("similarity", "title", "creator", "label")
MAX_SORTED = 240


@dataclasses.dataclass(frozen=True)
class Term:
    """A part of a query.

    Attributes:
      kind: one of `KINDS`.
      value: text, id of an upload, or key of a shape.
      weight: weight of the part; a negative one searches away from it.
    """

    kind: str
    value: str
    weight: float = 1.0


@dataclasses.dataclass(frozen=True)
class Page:
    """A part of the results of a query.

    Attributes:
      found: the shapes as JSON, see `Engine.describe`.
      total: number of results on all pages.
    """

    found: list[dict[str, Any]]
    total: int


class Engine:
    """Answers queries on one version of an index.

    Args:
      searcher: searcher of the version.
      uploads: uploaded files that terms refer to.
    """

    def __init__(self, searcher: queries.Searcher, uploads: upload_store.UploadStore):
        self.searcher = searcher
        self.index = searcher.index
        self._uploads = uploads

    def number(self, key: str) -> int:
        """Returns the number of a shape by its key.

        Raises:
          HTTPException: there is no such shape.
        """
        try:
            return self.index.number(key)
        except KeyError as error:
            raise HTTPException(404, f"shape {key[:40]} does not exist") from error

    def embed(self, terms: Sequence[Term]) -> np.ndarray:
        """Returns the embedding of a query, unit norm.

        Raises:
          HTTPException: a term cannot be used.
        """
        if not terms:
            raise HTTPException(400, "nothing to search for; pass text, upload or shape")
        if len(terms) > MAX_PARTS:
            raise HTTPException(400, f"the query has {len(terms)} parts; at most {MAX_PARTS}")
        rows = [self._embed(term) for term in terms]
        try:
            return queries.mix(rows, [term.weight for term in terms])
        except ValueError as error:
            raise HTTPException(400, str(error)) from error

    def _embed(self, term: Term) -> np.ndarray:
        if term.kind == "upload":
            return self._uploads.get(term.value).row
        if term.kind == "shape":
            return self.searcher.shape_row(self.number(term.value))
        check_length(term.value)
        try:
            return self.searcher.embed_text(term.value)
        except ValueError as error:
            raise HTTPException(400, str(error)) from error

    def find(
        self,
        terms: Sequence[Term],
        *,
        count: int,
        wanted: filters.Filters | None = None,
        offset: int = 0,
        order: str = "similarity",
    ) -> Page:
        """Returns the shapes nearest to a query, without the last shape that is a term of it.

        Args:
          terms: the query.
          count: number of shapes.
          wanted: conditions that the shapes have to meet.
          offset: number of results to skip.
          order: one of `ORDERS`; all but the first sort the `MAX_SORTED` nearest shapes.

        Raises:
          HTTPException: a term cannot be used.
        """
        row = self.embed(terms)
        shapes = [term.value for term in terms if term.kind == "shape"]
        exclude = self.number(shapes[-1]) if shapes else None
        among = self.searcher.facets().numbers(wanted) if wanted else None
        total = len(self.index) if among is None else len(among)
        if exclude is not None and (among is None or exclude in among):
            total -= 1
        if order != "similarity":
            total = min(total, MAX_SORTED)
        reach = min(total, offset + count) if order == "similarity" else total
        matches = self.searcher.find(row, count=reach, exclude=exclude, among=among)
        numbers, scores = matches.numbers, matches.scores
        if order != "similarity":
            places = np.argsort(self.searcher.facets().ranks(order)[numbers], kind="stable")
            numbers, scores = numbers[places], scores[places]
        chosen = slice(offset, offset + count)
        pairs = zip(numbers[chosen].tolist(), scores[chosen].tolist(), strict=True)
        return Page([self.describe(number, score) for number, score in pairs], total)

    def browse(
        self, *, count: int, wanted: filters.Filters, offset: int = 0, order: str = "similarity"
    ) -> Page:
        """Returns shapes without a query, in the order of the index or of a field.

        Args:
          count: as in `find`, as are the following.
          wanted: conditions that the shapes have to meet.
          offset: number of results to skip.
          order: one of `ORDERS`; the first is the order of the index.
        """
        facets = self.searcher.facets()
        numbers = facets.numbers(wanted)
        if order != "similarity":
            numbers = numbers[np.argsort(facets.ranks(order)[numbers], kind="stable")]
        found = numbers[offset : offset + count].tolist()
        return Page([self.describe(number) for number in found], len(numbers))

    def describe(self, number: int, score: float | None = None) -> dict[str, Any]:
        """Returns a shape as JSON, with the similarity if it is a result of a query."""
        item = self.index.items[number]
        return {
            "key": item.key,
            "id": item.id,
            "score": None if score is None else round(score, 4),
            "title": item.title,
            "name": item.name,
            "creator": item.creator,
            "licence": item.licence,
            "label": item.label,
            "mesh": self.index.mesh_size(number),
        }

    def classify(self, terms: Sequence[Term], names: Sequence[str]) -> list[dict[str, Any]]:
        """Returns class names by their similarity with a query, highest first.

        Raises:
          HTTPException: a term or a name cannot be used.
        """
        names = [name for name in names if name.strip()]
        if not 0 < len(names) <= MAX_CLASSES:
            raise HTTPException(400, f"{len(names)} classes; expected 1 to {MAX_CLASSES}")
        for name in names:
            check_length(name)
        classes = self.searcher.classify(self.embed(terms), names)
        return [{"name": name, "score": round(score, 6)} for name, score in classes]


def check_length(text: str) -> None:
    """Raises HTTPException if a text is too long."""
    if len(text) > MAX_CHARACTERS:
        raise HTTPException(
            400, f"the text has {len(text)} characters; at most {MAX_CHARACTERS} are allowed"
        )


def parse_number(text: str, *, name: str) -> float:
    """Returns a finite number; raises HTTPException with the name of the parameter."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not np.isfinite(value):
        raise HTTPException(400, f"{name} is {text!r}; expected a number")
    return value


def parse_order(text: str) -> str:
    """Returns an order of results; raises HTTPException if there is no such order."""
    if text not in ORDERS:
        raise HTTPException(400, f"sort is {text[:40]!r}; expected one of {', '.join(ORDERS)}")
    return text


def parse_offset(text: str) -> int:
    """Returns a number of results to skip; raises HTTPException if it is not allowed."""
    value = parse_number(text, name="offset")
    if not 0 <= value < 2**31:
        raise HTTPException(400, f"offset is {value:g}; expected 0 or more")
    return int(value)


def parse_count(text: str) -> int:
    """Returns a number of results; raises HTTPException if it is not allowed."""
    value = parse_number(text, name="count")
    if not 1 <= value <= MAX_RESULTS:
        raise HTTPException(400, f"count is {value:g}; expected 1 to {MAX_RESULTS}")
    return int(value)
