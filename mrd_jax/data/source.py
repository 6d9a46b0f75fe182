# SPDX-License-Identifier: Apache-2.0
"""Random access to prepared records, and the check that they fit a config."""

import bisect
import hashlib
import itertools
import json
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import tensorflow_datasets as tfds
from google.protobuf import json_format
from ml_collections import ConfigDict

from mrd_jax.data import batch_spec, example

TEXTS = ("id", "source", "name", "creator", "licence", "picture")
TEXT_LISTS = ("captions", "caption_kinds", "image_kinds")
# Every field of a record, as data_prep.records writes it.
FIELDS = (*TEXTS, *TEXT_LISTS, "xyz", "rgb", "image_features", "text_features", "label")
# What describes a data set, beside its shards.
INFO_FILES = ("dataset_info.json", "features.json", "metadata.json")

# With the same options, data_prep.build leaves a data set alone that is there.
_COPY_AGAIN = "copy it again, or delete the data set's folder and run data_prep.build"


class CorruptRecordError(RuntimeError):
    """A record that cannot be read; names its shard and its place in it."""


class RecordSource:
    """One split as a sequence of decoded records.

    Strings come back as `str`; everything else as data_prep.records describes it. A source is safe
    to read from several threads.

    Args:
      records: each gives its fields by name, as TFDS decodes them.
      shards: (file name, records in it) in the order of the split.
      directory: folder of the data set; the evaluation files lie in `evaluation/` below it.
      split: name of the split, for messages.
      cache: keep every field that was read.
      skipped: records at the start of each shard that the split leaves out; () is none.

    Attributes:
      directory: as given.
      split: as given.
      shards: as given.
    """

    def __init__(
        self,
        records: Any,
        *,
        shards: list[tuple[str, int]],
        directory: str | pathlib.Path,
        split: str,
        cache: bool,
        skipped: Sequence[int] = (),
    ):
        self.directory = pathlib.Path(directory)
        self.split = split
        self.shards = tuple(shards)
        self._records = records
        self._ends = list(itertools.accumulate(count for _, count in shards))
        self._skipped = skipped or [0] * len(shards)
        self._cached: dict[int, dict[str, Any]] | None = {} if cache else None

    def __len__(self) -> int:
        return len(self._records)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Every record in order, with every field."""
        return (self[index] for index in range(len(self)))

    def __repr__(self) -> str:
        return f"RecordSource({str(self.directory)!r}, split={self.split!r}, records={len(self)})"

    def __getitem__(self, index: int) -> dict[str, Any]:
        """Record number index of the split; as `read`, with every field."""
        return self.read(index, FIELDS)

    def read(self, index: int, fields: Sequence[str]) -> dict[str, Any]:
        """Some fields of a record; the others are not decoded.

        Args:
          index: of the record in the split.
          fields: names among FIELDS.

        Raises:
          IndexError: the split has no such record.
          CorruptRecordError: the record cannot be read; names its shard and place.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"record {index} of split {self.split!r}, which has {len(self)}.")
        if self._cached is None:
            return self._decode(index, fields)
        known = self._cached.setdefault(index, {})
        missing = [name for name in fields if name not in known]
        if missing:
            known.update(self._decode(index, missing))
        return {name: known[name] for name in fields}

    def _decode(self, index: int, fields: Sequence[str]) -> dict[str, Any]:
        try:
            record = self._records[index]
            return {name: _decoded(name, record[name]) for name in fields}
        except (RuntimeError, ValueError) as error:
            raise self.damaged(index, error) from error

    def damaged(self, index: int, reason: Any) -> CorruptRecordError:
        """The error that says where a record lies and what is wrong with it."""
        shard = bisect.bisect_right(self._ends, index)
        place = index - (self._ends[shard - 1] if shard else 0) + self._skipped[shard]
        return CorruptRecordError(
            f"cannot read record {place} of {self.shards[shard][0]} (record {index} of split "
            f"{self.split!r}): {reason}. The shard is damaged or missing: {_COPY_AGAIN}."
        )


def _decoded(name: str, value: Any) -> Any:
    """A field with text as text."""
    if name in TEXTS:
        return value.decode("utf-8")
    if name in TEXT_LISTS:
        return [text.decode("utf-8") for text in value]
    return value


def first_corrupt(records: RecordSource) -> CorruptRecordError | None:
    """What is wrong with the first record that cannot be read; None where all can."""
    for index in range(len(records)):
        try:
            records[index]
        except CorruptRecordError as error:
            return error
    return None


def open_split(directory: str | pathlib.Path, split: str, *, cache: bool = False) -> RecordSource:
    """Opens one split of a prepared data set.

    Args:
      directory: folder of the data set, version included, such as OUTPUT/furniture/1.0.0.
      split: "train", "test", or a TFDS slice such as "train[:10%]".
      cache: keep decoded records in memory (90 KB each with 10,000 points, and the features).

    Returns:
      the split; nothing is read yet.

    Raises:
      FileNotFoundError: there is no data set in directory, or a file that describes it is missing.
      ValueError: the data set has no such split, or a file that describes it is damaged.
    """
    builder = _builder(directory)
    try:
        instructions = builder.info.splits[split].file_instructions
    except (KeyError, ValueError) as error:
        raise ValueError(
            f"{directory} has no split {split!r}; expected one of {sorted(builder.info.splits)}."
        ) from error
    try:
        stored = builder.as_data_source(
            split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES
        )
        records = example.Examples(stored, builder.info.features, names=FIELDS)
    except (NotImplementedError, ValueError) as error:
        raise ValueError(
            f"{directory} does not hold records as data_prep writes them: {error}"
        ) from error
    return RecordSource(
        records,
        # A slice of a split may leave out records at the start and end of a shard.
        shards=[(pathlib.Path(shard.filename).name, shard.take) for shard in instructions],
        skipped=[shard.skip for shard in instructions],
        directory=directory,
        split=split,
        cache=cache,
    )


def read_metadata(directory: str | pathlib.Path) -> dict[str, Any]:
    """What data_prep wrote about a data set.

    Args:
      directory: as in `open_split`.

    Returns:
      teacher (name, revision, dim, preprocessing), up_axis, from_y_up, normalisation, points,
      source, counts.

    Raises:
      FileNotFoundError: there is no data set in directory.
    """
    return dict(_builder(directory).info.metadata)


def fingerprint(metadata: Mapping[str, Any]) -> str:
    """Tells data sets apart: a short hash of everything that `read_metadata` returns."""
    text = json.dumps(metadata, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]


def check_metadata(metadata: Mapping[str, Any], config: ConfigDict) -> None:
    """Refuses a data set that the config was not written for.

    Args:
      metadata: from `read_metadata`.
      config: the run's config; reads teacher.name ("" accepts any), teacher.dim and data.points.

    Raises:
      ValueError: names the first field that differs and both values.
    """
    teacher = metadata["teacher"]
    expected = [
        ("teacher.dim", teacher["dim"], config.teacher.dim, "config.teacher.dim"),
        ("points", metadata["points"], config.data.points, "config.data.points"),
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
                f"{want!r}; change the config or prepare the data again."
            )


def check_test_set(directory: str | pathlib.Path, config: ConfigDict) -> None:
    """Refuses a test set that the run's training set does not prepare for.

    Args:
      directory: of the data set that the run is tested on.
      config: the run's config; reads data.directory and what `check_metadata` reads.

    Raises:
      FileNotFoundError: there is no data set in directory.
      ValueError: names the field that differs, both values and both data sets.
    """
    metadata = read_metadata(directory)
    check_metadata(metadata, config)
    trained = read_metadata(config.data.directory)
    for field in ("teacher", "from_y_up"):
        if metadata[field] != trained[field]:
            raise ValueError(
                f"config.data.test_directory, {directory}, was prepared with {field} = "
                f"{metadata[field]!r}, but config.data.directory, {config.data.directory}, with "
                f"{trained[field]!r}; prepare one of them again"
            )


def check_exists(directory: str | pathlib.Path) -> None:
    """Refuses a folder that is no data set.

    Raises:
      FileNotFoundError: says what was expected there.
    """
    if not (pathlib.Path(directory) / INFO_FILES[0]).is_file():
        raise FileNotFoundError(
            f"no data set in {str(directory)!r}: expected {INFO_FILES[0]} there; give the folder "
            f"that ends in a version, such as data/furniture/1.0.0, or run data_prep.build."
        )


def _builder(directory: str | pathlib.Path) -> tfds.core.DatasetBuilder:
    """TFDS's view of a data set; an error names the file that is missing or damaged."""
    check_exists(directory)
    folder = pathlib.Path(directory)
    for name in INFO_FILES:
        try:
            if not isinstance(json.loads((folder / name).read_bytes()), dict):
                raise ValueError("it is no JSON object")
        except FileNotFoundError as error:
            raise FileNotFoundError(f"{folder / name} is missing; {_COPY_AGAIN}") from error
        except ValueError as error:
            raise ValueError(f"{folder / name} is damaged: {error}; {_COPY_AGAIN}") from error
    try:
        return tfds.builder_from_directory(str(directory))
    except (ValueError, json_format.ParseError) as error:
        raise ValueError(
            f"dataset_info.json and features.json in {folder} do not describe a data set: {error}; "
            f"{_COPY_AGAIN}"
        ) from error
