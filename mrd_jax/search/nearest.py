# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbour search by cosine similarity: exact in numpy, or approximate with faiss.

Arrays of rows may be memory-mapped, or the `live_shapes.Column` of an index.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

# Rows per block of the exact search; a block is converted to float32 at once.
BLOCK = 8_192
# Maximum size in bytes of rows that are kept in float32: converting float16 rows takes ten times as
# long as multiplying them.
KEEP = 2**30
# Exact search over fewer shapes takes tens of milliseconds.
ANN_FROM = 200_000
ANN_FILE = "ann.faiss"
# Inverted lists to search, and candidates per requested row; candidates are scored exactly.
_PROBES, _CANDIDATES = 32, 4
# Training rows per inverted list; faiss expects 39 to 256.
_ROWS_PER_LIST = 64
# Queries and neighbours that the recall is measured with.
_RECALL_QUERIES, _RECALL_AT = 200, 10


class Search(Protocol):
    """Finds the rows nearest to a query."""

    def nearest(self, query: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Returns the nearest rows by cosine similarity.

        Args:
          query: [dim], unit norm.
          count: number of rows; all rows if there are fewer.

        Returns:
          Row numbers int64 [count], nearest first and ties in ascending order, and their cosine
          similarities float32 [count].
        """


class ExactSearch:
    """Compares the query with every row.

    Args:
      rows: float16 [shapes, dim], unit norm.
      keep: maximum size in bytes of the rows in float32; larger arrays are converted per query.
    """

    def __init__(self, rows: Any, *, keep: int = KEEP):
        self._rows = rows
        if rows.size * 4 <= keep:
            self._rows = np.asarray(rows, np.float32)

    def nearest(self, query: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Implements `Search.nearest`."""
        query = np.asarray(query, np.float32)
        scores = np.empty(len(self._rows), np.float32)
        for start in range(0, len(scores), BLOCK):
            block = self._rows[start : start + BLOCK].astype(np.float32, copy=False)
            np.matmul(block, query, out=scores[start : start + BLOCK])
        return _top(np.arange(len(scores)), scores, count=count)


class AnnSearch:
    """Compares the query with the rows of the nearest inverted lists; may miss neighbours.

    Args:
      rows: float16 [shapes, dim], unit norm.
      file: file that `write_ann` wrote for these rows.
      live: numbers of the rows to search, ascending; None for all.

    Raises:
      AnnUnsupportedError: faiss is not installed.
      FileNotFoundError: the file does not exist.
      ValueError: the file is corrupt or belongs to other rows.
    """

    def __init__(self, rows: np.ndarray, file: Path, *, live: np.ndarray | None = None):
        self._faiss = import_faiss()
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing; approximate search needs an index that was built with --ann"
            )
        # Mapped into memory, so that several processes share it.
        flags = self._faiss.IO_FLAG_MMAP | self._faiss.IO_FLAG_READ_ONLY
        try:
            self._lists = self._faiss.read_index(str(file), flags)
        except RuntimeError as error:
            raise ValueError(f"{file} is corrupt; build the index again") from error
        if (self._lists.ntotal, self._lists.d) != rows.shape:
            raise ValueError(
                f"{file} has rows of shape [{self._lists.ntotal}, {self._lists.d}], the index "
                f"{list(rows.shape)}; build the index again"
            )
        self._rows = rows
        self._live = np.arange(len(rows)) if live is None else live
        mask = np.zeros(len(rows), bool)
        mask[self._live] = True
        self._mask = np.packbits(mask, bitorder="little")

    def nearest(self, query: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Implements `Search.nearest` over the candidates of faiss, with exact similarities.

        The numbers are positions in `live`.
        """
        query = np.asarray(query, np.float32)
        candidates = min(_CANDIDATES * count, len(self._live))
        if not candidates:
            return np.zeros(0, np.int64), np.zeros(0, np.float32)
        options = self._faiss.SearchParametersIVF(
            nprobe=min(_PROBES, self._lists.nlist), sel=self._faiss.IDSelectorBitmap(self._mask)
        )
        numbers = self._lists.search(query[None], candidates, params=options)[1][0]
        numbers = np.sort(numbers[numbers >= 0])
        scores = self._rows[numbers].astype(np.float32) @ query
        return _top(np.searchsorted(self._live, numbers), scores, count=count)


class UnionSearch:
    """Searches several arrays of rows, each in its own way, as if they were one.

    Args:
      searches: a search for each array.
      numbers: int64 [rows of the array] each, the numbers of its rows in the result.
    """

    def __init__(self, searches: Sequence[Search], numbers: Sequence[np.ndarray]):
        self._searches, self._numbers = tuple(searches), tuple(numbers)

    def nearest(self, query: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Implements `Search.nearest`."""
        found = [search.nearest(query, count=count) for search in self._searches]
        pairs = zip(found, self._numbers, strict=True)
        numbers = np.concatenate([of[local] for (local, _), of in pairs])
        order = np.argsort(numbers)
        scores = np.concatenate([scores for _, scores in found])
        return _top(numbers[order], scores[order], count=count)


class AnnUnsupportedError(ImportError):
    """faiss is not installed; the message has the command to install it."""


def write_ann(rows: np.ndarray, file: Path) -> float:
    """Writes a faiss index with inverted lists, and measures how much it finds.

    Args:
      rows: float16 [shapes, dim], unit norm, at least `ANN_FROM` rows.
      file: file to write.

    Returns:
      The fraction of the ten nearest rows that approximate search finds, over some of the rows.

    Raises:
      AnnUnsupportedError: faiss is not installed.
      ValueError: there are fewer than `ANN_FROM` rows.
    """
    check_ann(len(rows))
    faiss = import_faiss()
    lists = int(4 * np.sqrt(len(rows)))
    factory = f"IVF{lists},SQfp16"
    index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    random = np.random.default_rng(0)
    sample = random.choice(len(rows), min(len(rows), _ROWS_PER_LIST * lists), replace=False)
    index.train(rows[np.sort(sample)].astype(np.float32))
    for start in range(0, len(rows), BLOCK):
        index.add(rows[start : start + BLOCK].astype(np.float32))
    faiss.write_index(index, str(file))
    del index
    return _measure_recall(rows, file, random)


def write_ann_of(segment: Path) -> float:
    """Writes the file for approximate search into the folder of a segment; see `write_ann`."""
    rows = np.load(segment / "rows.npy", mmap_mode="r", allow_pickle=False)
    return write_ann(rows, segment / ANN_FILE)


def _measure_recall(rows: np.ndarray, file: Path, random: np.random.Generator) -> float:
    """Returns the fraction of the nearest rows of some rows that approximate search finds."""
    count = min(_RECALL_AT, len(rows))
    sample = random.choice(len(rows), min(len(rows), _RECALL_QUERIES), replace=False)
    queries = rows[np.sort(sample)].astype(np.float32)
    best = np.full((len(queries), count), -np.inf, np.float32)
    numbers = np.zeros((len(queries), count), np.int64)
    for start in range(0, len(rows), BLOCK):
        scores = queries @ rows[start : start + BLOCK].astype(np.float32).T
        both = np.concatenate([best, scores], axis=1)
        order = np.argsort(-both, axis=1, kind="stable")[:, :count]
        own = np.broadcast_to(np.arange(start, start + scores.shape[1]), scores.shape)
        numbers = np.take_along_axis(np.concatenate([numbers, own], axis=1), order, axis=1)
        best = np.take_along_axis(both, order, axis=1)
    search = AnnSearch(rows, file)
    found = [search.nearest(query, count=count)[0] for query in queries]
    hits = [len(np.intersect1d(a, b)) for a, b in zip(found, numbers, strict=True)]
    return float(np.mean(hits)) / count


def check_ann(shapes: int) -> None:
    """Checks, before any shape is embedded, that `write_ann` can run.

    Args:
      shapes: number of shapes in the index.

    Raises:
      AnnUnsupportedError: faiss is not installed.
      ValueError: there are fewer than `ANN_FROM` shapes.
    """
    if shapes < ANN_FROM:
        raise ValueError(
            f"--ann needs at least {ANN_FROM} shapes, found {shapes}; omit it, exact search is "
            "fast at this size"
        )
    import_faiss()


def import_faiss() -> Any:
    """Returns the module faiss; raises AnnUnsupportedError if it is not installed."""
    try:
        import faiss  # an optional extra
    except ModuleNotFoundError as error:
        raise AnnUnsupportedError(
            f'{error.name} is missing; --ann needs it. Run pip install "mrd_jax[ann]"'
        ) from error
    return faiss


def nearest_among(
    rows: Any, numbers: np.ndarray, query: np.ndarray, *, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Compares a query with some rows; see `Search.nearest`.

    Args:
      rows: float16 [shapes, dim], unit norm.
      numbers: numbers of the rows to compare, ascending.
      query: [dim], unit norm.
      count: number of rows to find.
    """
    query = np.asarray(query, np.float32)
    scores = np.empty(len(numbers), np.float32)
    for start in range(0, len(numbers), BLOCK):
        block = rows[numbers[start : start + BLOCK]].astype(np.float32)
        np.matmul(block, query, out=scores[start : start + BLOCK])
    return _top(np.asarray(numbers), scores, count=count)


def _top(numbers: np.ndarray, scores: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `count` highest scores, ties in the order of `numbers`, which are ascending."""
    count = min(count, len(scores))
    if not count:
        return numbers[:0], scores[:0]
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    top = np.flatnonzero(scores >= threshold)
    top = top[np.argsort(-scores[top], kind="stable")[:count]]
    return numbers[top], scores[top]
