# SPDX-License-Identifier: Apache-2.0
"""Nearest neighbour search by cosine similarity: exact in numpy, or approximate with faiss."""

from pathlib import Path
from typing import Protocol

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
      rows: float16 [shapes, dim], unit norm; may be memory-mapped.
      keep: maximum size in bytes of the rows in float32; larger arrays are converted per query.
    """

    def __init__(self, rows: np.ndarray, *, keep: int = KEEP):
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
      rows: float16 [shapes, dim], unit norm; may be memory-mapped.
      file: file that `write_ann` wrote for these rows.

    Raises:
      AnnUnsupportedError: faiss is not installed.
      FileNotFoundError: the file does not exist.
      ValueError: the file is corrupt or belongs to other rows.
    """

    def __init__(self, rows: np.ndarray, file: Path):
        faiss = _import_faiss()
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing; approximate search needs an index that was built with --ann"
            )
        try:
            self._lists = faiss.read_index(str(file))
        except RuntimeError as error:
            raise ValueError(f"{file} is corrupt; build the index again") from error
        if (self._lists.ntotal, self._lists.d) != rows.shape:
            raise ValueError(
                f"{file} has rows of shape [{self._lists.ntotal}, {self._lists.d}], the index "
                f"{list(rows.shape)}; build the index again"
            )
        self._lists.nprobe = min(_PROBES, self._lists.nlist)
        self._rows = rows

    def nearest(self, query: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Implements `Search.nearest` over the candidates of faiss, with exact similarities."""
        query = np.asarray(query, np.float32)
        candidates = min(_CANDIDATES * count, len(self._rows))
        numbers = self._lists.search(query[None], candidates)[1][0]
        numbers = np.sort(numbers[numbers >= 0])
        return _top(numbers, self._rows[numbers].astype(np.float32) @ query, count=count)


class AnnUnsupportedError(ImportError):
    """faiss is not installed; the message has the command to install it."""


def write_ann(rows: np.ndarray, file: Path) -> None:
    """Writes a faiss index with inverted lists.

    Args:
      rows: float16 [shapes, dim], unit norm, at least `ANN_FROM` rows.
      file: file to write.

    Raises:
      AnnUnsupportedError: faiss is not installed.
      ValueError: there are fewer than `ANN_FROM` rows.
    """
    check_ann(len(rows))
    faiss = _import_faiss()
    lists = int(4 * np.sqrt(len(rows)))
    factory = f"IVF{lists},SQfp16"
    index = faiss.index_factory(rows.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
    sample = np.random.default_rng(0).choice(
        len(rows), min(len(rows), _ROWS_PER_LIST * lists), replace=False
    )
    index.train(rows[np.sort(sample)].astype(np.float32))
    for start in range(0, len(rows), BLOCK):
        index.add(rows[start : start + BLOCK].astype(np.float32))
    faiss.write_index(index, str(file))


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
    _import_faiss()


def _import_faiss():
    try:
        import faiss  # an optional extra
    except ModuleNotFoundError as error:
        raise AnnUnsupportedError(
            f'{error.name} is missing; --ann needs it. Run pip install "mrd_jax[ann]"'
        ) from error
    return faiss


def _top(numbers: np.ndarray, scores: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the `count` highest scores, ties in the order of `numbers`, which are ascending."""
    count = min(count, len(scores))
    if not count:
        return numbers[:0], scores[:0]
    threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
    top = np.flatnonzero(scores >= threshold)
    top = top[np.argsort(-scores[top], kind="stable")[:count]]
    return numbers[top], scores[top]
