# SPDX-License-Identifier: Apache-2.0
"""Stream of training batches, a pure function of (seed, step)."""

from collections.abc import Iterable, Iterator
from typing import Any

import grain
import numpy as np
from ml_collections import ConfigDict

from mrd_jax.data import batch_spec, corrupt_records, read_ahead, teacher_features
from mrd_jax.data.hard_negatives import neighbour_index, sampler
from mrd_jax.data.source import CorruptRecordError, RecordSource

# Fields of a record that a step needs; the others stay undecoded.
FIELDS = (
    *("xyz", "rgb", "label"),
    *("image_features", "image_kinds", "text_features", "caption_kinds"),
)

# More than any run needs. By default Grain repeats up to sys.maxsize, too large for its float
# arithmetic.
MAX_SAMPLES = 2**48


def train_stream(
    source: RecordSource,
    config: ConfigDict,
    *,
    neighbours: neighbour_index.NeighbourIndex | None = None,
    corrupt: corrupt_records.CorruptRecords | None = None,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    device_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Returns an infinite iterator of the batches of one process, from `start_step` on.

    The batch of a step has the same samples, views and captions wherever the run was started and
    however many processes load it: concatenated in order, the batches of the processes are the
    global batch. An epoch ends at any row, so a batch may span two epochs. With hard negatives, the
    last `data.hard_negatives` rows of a batch are neighbours of the other rows. Corrupt records are
    replaced as in `mrd_jax.data.corrupt_records`.

    Args:
      source: training split.
      config: config of the run; reads seed, batch_size, data.hard_negatives, data.corrupt_records
        and the fields of `teacher_features.draw`.
      neighbours: neighbours of the records, from `neighbour_index.open_for`; needed if
        `data.hard_negatives` is positive.
      corrupt: corrupt records of the run so far; none by default.
      start_step: first step; the only state of the stream that a checkpoint has to hold.
      process_index: index of this process.
      process_count: number of processes, each of which loads a part of every batch.
      device_count: number of devices of all processes.

    Returns:
      Iterator of dicts as in `batch_spec.batch_spec`, with batch_size / process_count rows.

    Raises:
      ValueError: the split is empty, the neighbours are missing, or the batch does not divide over
        the processes or the devices.
      mrd_jax.data.corrupt_records.TooManyCorruptRecordsError: raised by the iterator when it meets
        more corrupt records than the config allows.
    """
    local_batch = batch_spec.check_batch_size(
        config.batch_size, process_count=process_count, device_count=device_count
    )
    count = len(source)
    if not count:
        raise ValueError(f"split {source.split!r} of {source.directory} has no records")

    order = _order(count, config, neighbours)
    corrupt = corrupt or corrupt_records.CorruptRecords(source, config)

    def batch(step: int) -> list[int]:
        rows = range(step * config.batch_size, (step + 1) * config.batch_size)
        return [int(order[row]) for row in rows]

    def read(index: int, rng: np.random.Generator) -> dict[str, Any]:
        record = source.read(index, FIELDS)
        if reason := corrupt_records.find_inconsistency(record):
            raise source.corrupt_record_error(index, reason)
        return draw_sample(record | {"index": index}, config, rng=rng)

    def sample(index: int, rng: np.random.Generator) -> dict[str, Any]:
        try:
            return read(index, rng)
        except CorruptRecordError as error:
            return {"index": index, "error": error}  # `finish` knows the position, and replaces it

    def finish(position: int, sample: dict[str, Any]) -> dict[str, Any]:
        epoch = sampler.epoch_of(position, count, config)
        if "error" in sample:
            rng = np.random.default_rng((config.seed, position, 1))
            sample = corrupt.replace(
                **sample, position=position, read=lambda index: read(index, rng), batch=batch
            )
            epoch = sampler.unscheduled_epoch(position, config)
        return sample | {"epoch": np.int32(epoch)}

    dataset = (
        order.random_map(sample)
        .map_with_index(finish)[:MAX_SAMPLES]
        .batch(local_batch)[process_index::process_count]
    )
    planned = order[:MAX_SAMPLES].batch(local_batch)[process_index::process_count]
    batches = read_ahead.iterate(
        dataset.__getitem__,
        indices=lambda number: planned[number].tolist(),
        records=source,
        batch_size=local_batch,
        length=len(dataset),
        start=start_step,
        threads=read_ahead.thread_count(config.data.directory, config.data.read_threads),
    )
    return _checked(batches, corrupt, start_step=start_step)


def _checked(
    batches: Iterable[dict[str, np.ndarray]],
    corrupt: corrupt_records.CorruptRecords,
    *,
    start_step: int,
) -> Iterator[dict[str, np.ndarray]]:
    """Yields batches in order, and stops at the first with too many corrupt records up to it.

    The threads that load batches meet the corrupt records of later steps earlier or later.
    """
    for step, batch in enumerate(batches, start_step):
        corrupt.check(step)
        yield batch


def _order(
    count: int, config: ConfigDict, neighbours: neighbour_index.NeighbourIndex | None
) -> grain.MapDataset:
    """Returns the record of each row of the stream, for a split of count records."""
    shuffled = grain.MapDataset.range(count).seed(config.seed).shuffle().repeat()
    if not config.data.hard_negatives:
        return shuffled
    if neighbours is None:
        raise ValueError(
            f"config.data.hard_negatives is {config.data.hard_negatives}, but no neighbours "
            "were passed; open them with mrd_jax.data.hard_negatives.neighbour_index.open_for"
        )
    rows = sampler.HardNegativeSampler(shuffled, neighbours.indices, config, length=MAX_SAMPLES)
    return grain.MapDataset.source(rows).seed(config.seed)


def draw_sample(
    record: dict[str, Any], config: ConfigDict, *, rng: np.random.Generator
) -> dict[str, Any]:
    """Draws views and captions of a record.

    Args:
      record: fields of a record, with its `index` in the split.
      config: config of the run; reads the fields of `teacher_features.draw`.
      rng: generator of this sample.

    Returns:
      The fields of `batch_spec.batch_spec` except epoch, without the batch axis.
    """
    return {
        "xyz": record["xyz"],
        "rgb": record["rgb"],
        **teacher_features.draw(record, config, rng=rng),
        "label": np.int32(record["label"]),
        "index": np.int32(record["index"]),
    }
