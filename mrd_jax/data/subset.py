# SPDX-License-Identifier: Apache-2.0
"""Part of a split, such as its labelled records."""

from collections.abc import Iterable, Sequence
from concurrent import futures
from typing import Any

import numpy as np

from mrd_jax.data import source


class Subset(source.RecordSource):
    """Some records of a split, as a split of their own.

    Args:
      records: the whole split.
      indices: int [count], positions of the records in the split.

    The attributes are those of the whole split.
    """

    def __init__(self, records: source.RecordSource, indices: np.ndarray):
        self.directory, self.split, self.shards = records.directory, records.split, records.shards
        self._whole = records
        self._indices = [int(index) for index in indices]

    def __len__(self) -> int:
        return len(self._indices)

    def read(self, index: int, fields: Sequence[str]) -> dict[str, Any]:
        """Reads some fields of a record, see `RecordSource.read`."""
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of a subset of {len(self)} of {self._whole!r}")
        return self._whole.read(self._indices[index], fields)

    def request(self, indices: Iterable[int], pool: futures.Executor) -> None:
        """Starts to read records in other threads, see `RecordSource.request`."""
        self._whole.request([self._indices[index] for index in indices], pool)

    def corrupt_record_error(self, index: int, reason: Any) -> source.CorruptRecordError:
        """Returns an error that names the shard of a record and its position there."""
        return self._whole.corrupt_record_error(self._indices[index], reason)
