# SPDX-License-Identifier: Apache-2.0
"""Random access to the records of a prepared data set, and checks against a config."""

import bisect
import hashlib
import itertools
import json
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent import futures
from typing import Any

import tensorflow_datasets as tfds
from google.protobuf import json_format
from ml_collections import ConfigDict

from mrd_jax import storage
from mrd_jax.data import batch_spec, example

TEXTS = ("id", "source", "name", "creator", "licence", "picture")
TEXT_LISTS = ("captions", "caption_kinds", "image_kinds")
# Every field of a record, as data_prep.records writes it.
FIELDS = (*TEXTS, *TEXT_LISTS, "xyz", "rgb", "image_features", "text_features", "label")
# Files that describe a data set, beside its shards.
INFO_FILES = ("dataset_info.json", "features.json", "metadata.json")
# Names of sources that publish arrays of points begin with one of these.
_PUBLISHED = ("modelnet40", "objaverse_lvis", "openshape", "scanobjectnn")
# data_prep.build does not rebuild an existing data set if the options are the same.
_COPY_AGAIN = "copy it again, or delete the folder of the data set and run data_prep.build"

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
            f"{self.split!r}): {reason}. The shard is corrupt or missing: {_COPY_AGAIN}."
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
    builder = _builder(directory)
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


def read_metadata(directory: storage.PathLike) -> dict[str, Any]:
    """Reads the metadata of a data set.

    Args:
      directory: folder of the data set, version included.

    Returns:
      teacher (name, revision, dim, preprocessing), up_axis, from_y_up, normalisation, points,
      source, counts.

    Raises:
      FileNotFoundError: `directory` is not a data set.
    """
    return dict(_builder(directory).info.metadata)


def reader_version(metadata: Mapping[str, Any]) -> int | None:
    """Returns the version of the readers of mesh files that a data set was made with.

    Data sets that were written before the version was recorded are of version 1.

    Args:
      metadata: metadata of the data set, from `read_metadata`.

    Returns:
      The version; None for published point clouds, which need no reader of mesh files.
    """
    if str(metadata.get("source", "")).startswith(_PUBLISHED):
        return None
    return metadata.get("reader_version", 1)


def fingerprint(metadata: Mapping[str, Any]) -> str:
    """Returns a fingerprint of a data set: a hash of its metadata, 16 hex digits."""
    text = json.dumps(metadata, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def check_metadata(metadata: Mapping[str, Any], config: ConfigDict) -> None:
    """Checks that a data set fits a config.

    Args:
      metadata: metadata of the data set, from `read_metadata`.
      config: config of the run; reads teacher.name ("" accepts any), teacher.dim and data.points
        (0 accepts any).

    Raises:
      ValueError: a field differs; names the first one and both values.
    """
    teacher = metadata["teacher"]
    expected = [
        ("teacher.dim", teacher["dim"], config.teacher.dim, "config.teacher.dim"),
        (
            "points",
            metadata["points"],
            config.data.points or metadata["points"],
            "config.data.points",
        ),
        ("up_axis", metadata["up_axis"], batch_spec.UP_AXIS, "mrd_jax"),
        ("normalisation", metadata["normalisation"], batch_spec.NORMALISATION, "mrd_jax"),
    ]
    if config.teacher.name:
        name = ("teacher.name", teacher["name"], config.teacher.name, "config.teacher.name")
        expected.insert(0, name)
    for field, found, want, where in expected:
        if found != want:
            raise ValueError(
                f"the data set was prepared with {field} = {found!r}, but {where} expects "
                f"{want!r}; change the config or prepare the data again"
            )


def with_points(config: ConfigDict, *, assumed: int = 0) -> ConfigDict:
    """Returns a config whose number of points is that of its data set, if it is 0.

    Args:
      config: config of the run; reads data.points and data.directory.
      assumed: number without a data set, which a log line names; 0 for none.

    Raises:
      FileNotFoundError: the number is 0, and there is no data set and no assumption.
    """
    if config.data.points:
        return config
    resolved = ConfigDict(config).copy_and_resolve_references()
    folder = config.data.directory
    if assumed and not (folder and (storage.path(folder) / INFO_FILES[0]).is_file()):
        resolved.data.points = assumed
        LOGGER.warning(
            "config.data.points is 0, the number of the data set, but there is none in %r: %d "
            "points per record are assumed",
            folder,
            assumed,
        )
    else:
        resolved.data.points = read_metadata(folder)["points"]
    return resolved


def check_test_set(directory: storage.PathLike, config: ConfigDict) -> None:
    """Checks that a separate test set fits a config and its training set.

    Args:
      directory: folder of the test set.
      config: config of the run; reads data.directory and the fields of `check_metadata`.

    Raises:
      FileNotFoundError: `directory` is not a data set.
      ValueError: a field differs; names it, both values and both data sets.
    """
    metadata = read_metadata(directory)
    check_metadata(metadata, config)
    trained = read_metadata(config.data.directory)
    versions = reader_version(metadata), reader_version(trained)
    if None not in versions and versions[0] != versions[1]:
        LOGGER.warning(
            "config.data.test_directory was made with version %d of the readers of mesh files, but "
            "config.data.directory with version %d: their points and colours may differ; build the "
            "older one again to compare like with like",
            *versions,
        )
    for field in ("teacher", "from_y_up"):
        if metadata[field] != trained[field]:
            raise ValueError(
                f"config.data.test_directory, {directory}, was prepared with {field} = "
                f"{metadata[field]!r}, but config.data.directory, {config.data.directory}, with "
                f"{trained[field]!r}; prepare one of them again"
            )


def check_exists(directory: storage.PathLike) -> None:
    """Checks that a folder is a data set.

    Raises:
      FileNotFoundError: it is not.
    """
    if not (storage.path(directory) / INFO_FILES[0]).is_file():
        raise FileNotFoundError(
            f"no data set in {str(directory)!r}: expected {INFO_FILES[0]} there; give the folder "
            f"that ends in a version, such as data/furniture/1.0.0, or run data_prep.build"
        )


def _builder(directory: storage.PathLike) -> tfds.core.DatasetBuilder:
    """Returns the TFDS builder of a data set; errors name a missing or corrupt file."""
    check_exists(directory)
    folder = storage.path(directory)
    for name in INFO_FILES:
        try:
            if not isinstance(json.loads((folder / name).read_bytes()), dict):
                raise ValueError("not a JSON object")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder / name} is missing; {_COPY_AGAIN}") from error
        except ValueError as error:
            raise ValueError(f"{folder / name} is corrupt: {error}; {_COPY_AGAIN}") from error
    try:
        return tfds.builder_from_directory(str(folder))
    except (ValueError, json_format.ParseError) as error:
        raise ValueError(
            f"dataset_info.json and features.json in {folder} do not describe a data set: {error}; "
            f"{_COPY_AGAIN}"
        ) from error
