# SPDX-License-Identifier: Apache-2.0
"""The stream of training batches, a pure function of (seed, step)."""

from collections.abc import Collection, Iterator
from typing import Any

import grain
import numpy as np
from ml_collections import ConfigDict

from mrd_jax.data import batch_spec, captions, corrupt_records
from mrd_jax.data import source as source_lib
from mrd_jax.data.hard_negatives import index as neighbour_index
from mrd_jax.data.hard_negatives import sampler

# One thread keeps two batches ready; decoding and stacking outrun any step on one core.
READ_OPTIONS = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)

# What a step needs of a record; the rest stays undecoded.
FIELDS = (
    *("xyz", "rgb", "label"),
    *("image_features", "image_kinds", "text_features", "caption_kinds"),
)

# Longer than any run. Grain repeats up to sys.maxsize, which its float arithmetic cannot divide.
MAX_SAMPLES = 2**48


def train_stream(
    source: source_lib.RecordSource,
    config: ConfigDict,
    *,
    neighbours: neighbour_index.Neighbours | None = None,
    corrupt: corrupt_records.CorruptRecords | None = None,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    device_count: int = 1,
) -> Iterator[dict[str, np.ndarray]]:
    """Endless batches of one process, from start_step on.

    Step s holds the same samples with the same drawn views and captions wherever the run started
    and however many processes load it: the processes' batches, put after one another in order,
    are the one-process batch. Epochs follow one another without a gap, so a batch may span two.
    With neighbours, the last data.hard_negatives rows of a batch are neighbours of the others.
    `mrd_jax.data.corrupt_records` says what becomes of records that cannot be read.

    Args:
      source: the training split.
      config: the run's config; reads seed, batch_size, data.caption_kinds, data.caption_groups,
        data.caption_chances (as `captions.check` accepts them), data.picture_probability,
        data.hard_negatives, data.corrupt_records and teacher.dim.
      neighbours: of the records, from `neighbours.open_for`, which gives them where the config asks
        for hard negatives.
      corrupt: corrupt records of the run so far; None begins with none.
      start_step: the first step, the only state that a checkpoint has to keep.
      process_index: of this process.
      process_count: processes that load a part of every batch.
      device_count: devices of all processes.

    Returns:
      iterator of dicts as `batch_spec.batch_spec` says, with batch_size / process_count rows.

    Raises:
      ValueError: no records, hard negatives without neighbours, or a batch that does not divide
        over the processes or the devices.
      mrd_jax.data.corrupt_records.TooManyCorruptRecordsError: from the iterator, where it meets more damaged
        records than the config allows.
    """
    local_batch = batch_spec.check_batch_size(
        config.batch_size, process_count=process_count, device_count=device_count
    )
    count = len(source)
    if not count:
        raise ValueError(f"split {source.split!r} of {source.directory} has no records.")

    order = _order(count, config, neighbours)
    corrupt = corrupt or corrupt_records.CorruptRecords(source, config)

    def batch(step: int) -> list[int]:
        rows = range(step * config.batch_size, (step + 1) * config.batch_size)
        return [int(order[row]) for row in rows]

    def read(index: int, rng: np.random.Generator) -> dict[str, Any]:
        record = source.read(index, FIELDS)
        if reason := corrupt_records.contradiction(record):
            raise source.damaged(index, reason)
        return draw_sample(record | {"index": index}, config, rng=rng)

    def sample(index: int, rng: np.random.Generator) -> dict[str, Any]:
        try:
            return read(index, rng)
        except source_lib.CorruptRecordError as error:
            return {"index": index, "error": error}  # the next stage knows whose place it is

    def place(position: int, sample: dict[str, Any]) -> dict[str, Any]:
        epoch = sampler.epoch_of(position, count, config)
        if "error" in sample:
            rng = np.random.default_rng((config.seed, position, 1))
            sample = corrupt.replace(
                **sample, position=position, read=lambda index: read(index, rng), batch=batch
            )
            epoch = sampler.unplanned_epoch(position, config)
        return sample | {"epoch": np.int32(epoch)}

    dataset = (
        order.random_map(sample)
        .map_with_index(place)[:MAX_SAMPLES]
        .batch(local_batch)[process_index::process_count]
    )
    return iter(dataset[start_step:].to_iter_dataset(READ_OPTIONS))


def _order(
    count: int, config: ConfigDict, neighbours: neighbour_index.Neighbours | None
) -> grain.MapDataset:
    """The record of each row of the stream, of a split of count records."""
    shuffled = grain.MapDataset.range(count).seed(config.seed).shuffle().repeat()
    if not config.data.hard_negatives:
        return shuffled
    if neighbours is None:
        raise ValueError(
            f"config.data.hard_negatives is {config.data.hard_negatives}, but the stream was given "
            f"no neighbours; open them with mrd_jax.data.hard_negatives.index.open_for"
        )
    order = sampler.Order(shuffled, neighbours.indices, config, length=MAX_SAMPLES)
    return grain.MapDataset.source(order).seed(config.seed)


def draw_sample(
    record: dict[str, Any], config: ConfigDict, *, rng: np.random.Generator
) -> dict[str, Any]:
    """One row of a training batch: the record with one view and one caption.

    Args:
      record: from a source, with its `index`.
      config: reads data.caption_kinds, data.caption_groups, data.caption_chances,
        data.picture_probability and teacher.dim.
      rng: of this sample and epoch.

    Returns:
      the fields of `batch_spec.batch_spec` except epoch, without the batch axis.
    """
    # Both are always drawn, so a record without one modality leaves the other's draw alone.
    view = draw_view(
        record["image_kinds"], rng=rng, picture_probability=config.data.picture_probability
    )
    caption = captions.draw(record["caption_kinds"], rng=rng, config=config.data)
    return _row(record, config.teacher.dim, view=view, caption=caption)


def draw_view(
    kinds: Collection[str], *, rng: np.random.Generator, picture_probability: float
) -> int | None:
    """Which image of a record a step uses.

    Args:
      kinds: of the record's images, "render" or "picture".
      rng: of this sample and epoch.
      picture_probability: chance of a picture where a record has both kinds; negative: all images
        are equally likely.

    Returns:
      position of the image, or None where there is none.
    """
    chance, place = rng.random(2)
    positions = list(range(len(kinds)))
    if picture_probability >= 0:
        wanted = "picture" if chance < picture_probability else "render"
        positions = [i for i, kind in enumerate(kinds) if kind == wanted] or positions
    return positions[int(place * len(positions))] if positions else None


def _row(
    record: dict[str, Any], dim: int, *, view: int | None, caption: int | None
) -> dict[str, Any]:
    # A missing modality is zeros; the mask takes it out of every term of the loss.
    missing = np.zeros(dim, np.float16)
    return {
        "xyz": record["xyz"],
        "rgb": record["rgb"],
        "image": missing if view is None else record["image_features"][view],
        "text": missing if caption is None else record["text_features"][caption],
        "has_image": np.bool_(view is not None),
        "has_text": np.bool_(caption is not None),
        "label": np.int32(record["label"]),
        "index": np.int32(record["index"]),
    }
