# SPDX-License-Identifier: Apache-2.0
"""Random access to the records of a prepared data set."""

import bisect
import itertools
import logging
from collections.abc import Iterable, Iterator, Sequence
from concurrent import futures
from typing import Any

import tensorflow_datasets as tfds

from mrd_jax import storage
from mrd_jax.data import dataset_metadata, example

TEXTS = ("id", "source", "name", "creator", "licence", "picture")
TEXT_LISTS = ("captions", "caption_kinds", "image_kinds")
# Every field of a record, as data_prep.records writes it.
FIELDS = (*TEXTS, *TEXT_LISTS, "xyz", "rgb", "image_features", "text_features", "label")

LOGGER = logging.getLogger(__name__)


class CorruptRecordError(RuntimeError):
    """A record cannot be read; the message names its shard and its position there."""


class RecordSource:
    """Sequence of the decoded records of one split; thread-safe.

    Strings are returned as `str`, other fields as data_prep.records describes them.

    Args:
      records: sequence of records whose fields decode by name, as TFDS decodes them.
      shards: (file name, number of records) of each shard, in the order of the split.
      directory: folder of the data set; evaluation files are in `evaluation/` below it.
      split: name of the split, for messages.
      cache: whether to keep decoded fields in memory.
      skipped: number of records at the start of each shard that the split excludes; () for none.

    Attributes:
      directory: folder of the data set.
      split: name of the split.
      shards: tuple of (file name, number of records).
    """

    def __init__(
        self,
        records: Any,
        *,
        shards: list[tuple[str, int]],
        directory: storage.PathLike,
        split: str,
        cache: bool,
        skipped: Sequence[int] = (),
    ):
        self.directory = storage.path(directory)
        self.split = split
        self.shards = tuple(shards)
        self._records = records
        self._ends = list(itertools.accumulate(count for _, count in shards))
        self._skipped = skipped or [0] * len(shards)
        self._cached: dict[int, dict[str, Any]] | None = {} if cache else None
        self._requested: dict[int, futures.Future] = {}

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterates over all records with all fields."""
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"RecordSource({str(self.directory)!r}, split={self.split!r}, records={len(self)})"

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Reads all fields of a record, see `read`."""
        return self.read(index, FIELDS)

    def read(self, index: int, fields: Sequence[str]) -> dict[str, Any]:
        """Reads some fields of a record; the others are not decoded.

        Args:
          index: position of the record in the split.
          fields: names among FIELDS.

        Raises:
          IndexError: the index is out of range.
          CorruptRecordError: the record cannot be read.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of split {self.split!r}, which has {len(self)}")
        if self._cached is None:
            return self._decode(index, fields)
        cached = self._cached.setdefault(index, {})
        missing = [name for name in fields if name not in cached]
        if missing:
            cached.update(self._decode(index, missing))
        return {name: cached[name] for name in fields}

    def request(self, indices: Iterable[int], pool: futures.Executor) -> None:
        """Starts to read records in other threads; the next `read` of each waits for its bytes.

        Args:
          indices: positions in the split.
          pool: threads that read.
        """
        for index in indices:
            if self._cached is None or index not in self._cached:
                self._requested[index] = pool.submit(self._records.__getitem__, index)

    def _decode(self, index: int, fields: Sequence[str]) -> dict[str, Any]:
        requested = self._requested.pop(index, None)
        try:
            record = requested.result() if requested else self._records[index]
            return {name: _decode_text(name, record[name]) for name in fields}
        except (RuntimeError, ValueError) as error:
            raise self.corrupt_record_error(index, error) from error

    def corrupt_record_error(self, index: int, reason: Any) -> CorruptRecordError:
        """Returns an error that names the shard of a record and its position there.

        Args:
          index: position of the record in the split.
          reason: what is wrong with the record.
        """
        shard = bisect.bisect_right(self._ends, index)
        position = index - (self._ends[shard - 1] if shard else 0) + self._skipped[shard]
        return CorruptRecordError(
            f"cannot read record {position} of {self.shards[shard][0]} (record {index} of split "
            f"{self.split!r}): {reason}. The shard is corrupt or missing: "
            f"{dataset_metadata.COPY_AGAIN}."
        )


def _decode_text(name: str, value: Any) -> Any:
    """Decodes text fields from UTF-8; returns other fields as they are."""
    if name in TEXTS:
        return value.decode("utf-8")
    if name in TEXT_LISTS:
        return [text.decode("utf-8") for text in value]
    return value


def find_corrupt_record(records: RecordSource, indices: Iterable[int]) -> CorruptRecordError | None:
    """Reads records; returns the error of the first corrupt one, or None if all are intact.

    Args:
      records: split to read from.
      indices: positions of the records to read.
    """
    for index in map(int, indices):
        try:
            records[index]
        except CorruptRecordError as error:
            return error
    return None


def open_split(directory: storage.PathLike, split: str, *, cache: bool = False) -> RecordSource:
    """Opens one split of a prepared data set.

    Args:
      directory: folder of the data set, version included, such as OUTPUT/furniture/1.0.0.
      split: "train", "test", or a TFDS slice such as "train[:10%]".
      cache: whether to keep decoded records in memory (90 KB each with 10,000 points, and the
        features).

    Returns:
      Source of the split; records are read on access.

    Raises:
      FileNotFoundError: `directory` is not a data set, or a file that describes it is missing.
      ValueError: the data set has no such split, or a file that describes it is corrupt.
    """
    builder = dataset_metadata.builder(directory)
    try:
        instructions = builder.info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{directory} has no split {split!r}; expected one of {sorted(builder.info.splits)}"
        ) from error
    try:
        stored = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        records = example.Examples(stored, builder.info.features, names=FIELDS)
    except (NotImplementedError, ValueError) as error:
        raise ValueError(
            f"{directory} does not hold records written by data_prep: {error}"
        ) from error
    return RecordSource(
        records,
        # A slice of a split may exclude records at the start and the end of a shard.
        shards=[(storage.path(shard.filename).name, shard.take) for shard in instructions],
        skipped=[shard.skip for shard in instructions],
        directory=directory,
        split=split,
        cache=cache,
    )
