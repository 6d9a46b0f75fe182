# SPDX-License-Identifier: Apache-2.0
"""The rows of an index that are nearest to a query: exact in numpy, or approximate by faiss."""

from pathlib import Path
from typing import Protocol

import numpy as np

# Rows that are widened to single precision at a time.
BLOCK = 8_192
# Bytes of rows in single precision that are kept: widening half floats takes ten times as long as
# multiplying them.
KEEP = 2**30
# Shapes below which exact search takes tens of milliseconds, and is all that one needs.
ANN_FROM = 200_000
ANN_FILE = "ann.faiss"
# Of all lists, this many are looked through; of what they give, this many times the count is
# measured again.
_PROBES, _SPARE = 32, 4
# faiss asks for 39 rows a list, and takes no more than 256.
_ROWS_PER_LIST = 64


class Search(Protocol):
    """Finds rows."""

    def nearest(self, query: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
        """The nearest rows by cosine.

        Args:
          query: [dim], unit norm.
          count: of rows; fewer where there are fewer.

        Returns:
          int64 [count] numbers of rows, nearest first and the lower number first among equals,
          and their float32 [count] cosines.
        """


class ExactSearch:
    """Compares with every row.

    Args:
      rows: float16 [shapes, dim], unit norm; may be mapped.
      keep: most bytes of rows in single precision to keep; more are widened anew at every query.
    """

    def __init__(self, rows: np.ndarray, *, keep: int = KEEP):
        self._rows = rows
        if rows.size * 4 <= keep:
            self._rows = np.asarray(rows, np.float32)

    def nearest(self, query: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Search` says."""
        query = np.asarray(query, np.float32)
        scores = np.empty(len(self._rows), np.float32)
        for start in range(0, len(scores), BLOCK):
            block = self._rows[start : start + BLOCK].astype(np.float32, copy=False)
            np.matmul(block, query, out=scores[start : start + BLOCK])
        return _best(np.arange(len(scores)), scores, count=count)


class AnnSearch:
    """Compares with the rows in the lists nearest to the query; may miss some.

    Args:
      rows: float16 [shapes, dim], unit norm; may be mapped.
      file: that `write_ann` wrote for them.

    Raises:
      AnnUnsupportedError: faiss is not installed.
      FileNotFoundError: there is no such file.
      ValueError: the file is of other rows.
    """

    def __init__(self, rows: np.ndarray, file: Path):
        faiss = _faiss()
        if not file.is_file():
            raise FileNotFoundError(
                f"{file} is missing: build the index with --ann to search it with --ann"
            )
        try:
            self._lists = faiss.read_index(str(file))
        except RuntimeError as error:
            raise ValueError(f"{file} is damaged; build the index again") from error
        if (self._lists.ntotal, self._lists.d) != rows.shape:
            raise ValueError(
                f"{file} is of rows [{self._lists.ntotal}, {self._lists.d}], the index has "
                f"{list(rows.shape)}; build it again"
            )
        self._lists.nprobe = min(_PROBES, self._lists.nlist)
        self._rows = rows

    def nearest(self, query: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
        """As `Search` says, among the rows that were looked at; their cosines are exact."""
        query = np.asarray(query, np.float32)
        wanted = min(_SPARE * count, len(self._rows))
        numbers = self._lists.search(query[None], wanted)[1][0]
        numbers = np.sort(numbers[numbers >= 0])
        return _best(numbers, self._rows[numbers].astype(np.float32) @ query, count=count)


class AnnUnsupportedError(ImportError):
    """faiss is missing; says what to install."""


def write_ann(rows: np.ndarray, file: Path) -> None:
    """Sorts rows into lists of near ones.

    Args:
      rows: float16 [shapes, dim], unit norm, at least `ANN_FROM`.
      file: to write.

    Raises:
      AnnUnsupportedError: faiss is not installed.
      ValueError: there are too few rows for lists to be worth it.
    """
    check_ann(len(rows))
    faiss = _faiss()
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
    """Refuses lists that cannot be made, or are not worth it, before any work is done.

    Args:
      shapes: how many there are.

    Raises:
      AnnUnsupportedError: faiss is not installed.
      ValueError: there are too few.
    """
    if shapes < ANN_FROM:
        raise ValueError(
            f"--ann is for {ANN_FROM} shapes and more, and there are {shapes}: leave it out, exact "
            "search is fast here"
        )
    _faiss()


def _faiss():
    try:
        import faiss  # an optional extra
    except ModuleNotFoundError as error:
        raise AnnUnsupportedError(
            f'{error.name} is missing, and --ann needs it: pip install "mrd_jax[ann]"'
        ) from error
    return faiss


def _best(numbers: np.ndarray, scores: np.ndarray, *, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The best `count` by score, the lower number first among equals; numbers are ascending."""
    count = min(count, len(scores))
    if not count:
        return numbers[:0], scores[:0]
    least = np.partition(scores, len(scores) - count)[len(scores) - count]
    kept = np.flatnonzero(scores >= least)
    kept = kept[np.argsort(-scores[kept], kind="stable")[:count]]
    return numbers[kept], scores[kept]
