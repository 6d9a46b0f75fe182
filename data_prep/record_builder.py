# SPDX-License-Identifier: Apache-2.0
"""TFDS builder: writes the record files of a data set, in several processes."""

import concurrent.futures
import contextlib
import dataclasses
import functools
import io
import multiprocessing
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import tensorflow_datasets as tfds
import tqdm

from data_prep import evaluation, progress, records
from mrd_jax.data import picture_files

# Shape shards (32 shapes each) per record file: about 100 MB with 10,000 points.
SHARDS_PER_FILE = 32
# Record files for which another process is started, which takes seconds.
FILES_PER_PROCESS = 4


@dataclasses.dataclass(frozen=True)
class Plan:
    """Content of a data set.

    Attributes:
      name: name of the data set.
      shards: files of the shapes and features.
      splits: split -> ids of its shapes; records are in the order of the files.
      classes: class names; the label of a record is an index into them.
      points: points per record.
      dim: length of a feature.
      metadata: JSON-serialisable facts for readers.
    """

    name: str
    shards: Sequence[records.Shard]
    splits: Mapping[str, Sequence[str]]
    classes: Sequence[str]
    points: int
    dim: int
    metadata: Mapping[str, Any]


class RecordBuilder(tfds.core.ShardBasedBuilder, skip_registration=True):
    """TFDS builder whose record files are pure functions of the plan, written in any order.

    TFDS's own writer serialises all records in one process, and keeps a whole file in memory; its
    generator-based builder shuffles through TensorFlow's file system above 1 GB.

    Args:
      plan: content of the data set.
      data_dir: parent folder; the data set is written to data_dir/NAME/VERSION.
      pictures_dir: folder of the zip files of pictures, which exists.
      workers: processes; 0 to work in this process.
      on_file: called with the number of records of every file, in their order.
    """

    VERSION = tfds.core.Version(records.VERSION)
    # Nothing is downloaded. TFDS would read checksums with a package that it does not require.
    url_infos = None

    def __init__(
        self,
        plan: Plan,
        *,
        data_dir: Path,
        pictures_dir: Path,
        workers: int,
        on_file: Callable[[int], Any],
    ):
        self.name = plan.name
        self._plan, self._pictures_dir = plan, pictures_dir
        self._workers, self._on_file = workers, on_file
        self._files: list[records.RecordFile] = []
        super().__init__(data_dir=data_dir)

    def _info(self) -> tfds.core.DatasetInfo:
        plan = self._plan
        return tfds.core.DatasetInfo(
            builder=self,
            description="Coloured point clouds with frozen image and text features of a teacher.",
            features=records.schema(points=plan.points, dim=plan.dim),
            metadata=tfds.core.MetadataDict(plan.metadata),
        )

    def _shard_iterators_per_split(self, dl_manager: tfds.download.DownloadManager):
        del dl_manager  # nothing is downloaded
        counts = {}
        for split, ids in self._plan.splits.items():
            files = self._list_files(split, frozenset(ids))
            self._files += files
            # TFDS counts the examples of each file, and leaves the writing to `_example_writer`.
            counts[split] = [
                functools.partial(iter, [("", None)] * sum(len(s.ids & f.ids) for s in f.shards))
                for f in files
            ]
        return counts

    def _list_files(self, split: str, wanted: frozenset[str]) -> list[records.RecordFile]:
        """Returns the record files of a split."""
        shards = [shard for shard in self._plan.shards if shard.ids & wanted]
        groups = [
            tuple(shards[start : start + SHARDS_PER_FILE])
            for start in range(0, len(shards), SHARDS_PER_FILE)
        ]
        template = self._get_filename_template(split_name=split)
        return [
            records.RecordFile(
                path=Path(template.sharded_filepath(shard_index=i, num_shards=len(groups))),
                pictures=self._pictures_dir / f"{split}-{i:05d}{picture_files.SUFFIX}",
                shards=group,
                # Not those of the whole split, which every process would receive with each file.
                ids=frozenset().union(*(shard.ids for shard in group)) & wanted,
            )
            for i, group in enumerate(groups)
        ]

    def _example_writer(self) -> tfds.core.ExampleWriter:
        plan = self._plan
        write = functools.partial(
            records.write_file,
            points=plan.points,
            dim=plan.dim,
            labels={name: position for position, name in enumerate(plan.classes)},
        )
        return _Writer(self._files, write, workers=self._workers, on_file=self._on_file)


class _Writer(tfds.core.ExampleWriter):
    """Writes all files at the first call, and at every call waits for one of them."""

    def __init__(
        self,
        files: list[records.RecordFile],
        write: Callable[[records.RecordFile], int],
        *,
        workers: int,
        on_file: Callable[[int], Any],
    ):
        super().__init__(tfds.core.FileFormat.ARRAY_RECORD)
        self._files, self._write, self._workers = files, write, workers
        self._on_file = on_file
        self._counts: Iterator[tuple[records.RecordFile, int]] | None = None

    def write(self, path: Any, examples: Any) -> None:
        """Waits until a file is written. TFDS asks for the files in their order."""
        del examples  # read by `records.write_file`
        if self._counts is None:
            self._counts = _write_all(self._files, self._write, workers=self._workers)
        file, count = next(self._counts)
        assert file.path == Path(path), f"TFDS asks for {path}, expected {file.path}"
        self._on_file(count)


def _write_all(
    files: Sequence[records.RecordFile],
    write: Callable[[records.RecordFile], int],
    *,
    workers: int,
) -> Iterator[tuple[records.RecordFile, int]]:
    """Yields each file with its number of records, in order, when it is written."""
    workers = min(workers, len(files) // FILES_PER_PROCESS)
    if workers < 2:
        yield from ((file, write(file)) for file in files)
        return
    # Spawned, not forked: this process may use JAX, whose threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, mp_context=context) as pool:
        yield from zip(files, pool.map(write, files), strict=True)


def write_records(
    plan: Plan,
    output_dir: Path,
    *,
    sidecar: evaluation.Sidecar,
    workers: int = 0,
    listener: progress.Listener = progress.ignore,
) -> Path:
    """Writes a data set atomically; replaces an existing one of the same name.

    Args:
      plan: content of the data set.
      output_dir: parent folder; the data set is written to output_dir/NAME/VERSION.
      sidecar: content of the evaluation files.
      workers: processes; 0 to work in this process. The bytes do not depend on it.
      listener: called with the progress.

    Returns:
      Folder of the data set.

    Raises:
      ValueError: a split is empty or a shape has no features.
    """
    for split, ids in plan.splits.items():
        if not ids:
            raise ValueError(f"split {split!r} of {plan.name} has no shapes; nothing to write")
    target = output_dir / plan.name / records.VERSION
    staging = output_dir / f".{plan.name}.incomplete"
    if staging.exists():
        shutil.rmtree(staging)  # left by an interrupted run
    pictures_dir = staging / "pictures"
    pictures_dir.mkdir(parents=True)
    total = sum(len(ids) for ids in plan.splits.values())
    counter = progress.Counter(listener, "records", unit="record", total=total)
    with tqdm.tqdm(total=total, desc="records", unit="record") as bar:

        def on_file(count: int) -> None:
            bar.update(count)
            counter.add(count)

        builder = RecordBuilder(
            plan, data_dir=staging, pictures_dir=pictures_dir, workers=workers, on_file=on_file
        )
        # TFDS prints that it downloads, and its temporary folder.
        with contextlib.redirect_stdout(io.StringIO()):
            builder.download_and_prepare(
                file_format="array_record", download_dir=staging / "downloads"
            )
    written = Path(builder.data_dir)
    evaluation.write_sidecar(written / "evaluation", sidecar)
    os.rename(pictures_dir, written / "evaluation" / "pictures")
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        os.rename(target, staging / "replaced")
    os.rename(written, target)
    shutil.rmtree(staging)
    counter.finish()
    return target
