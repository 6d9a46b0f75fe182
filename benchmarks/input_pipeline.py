# SPDX-License-Identifier: Apache-2.0
"""CPU time per record of the stages of the input pipeline, from the shard to the batch.

make input_pipeline CONSUMED=500

Prints one JSON line. The Makefile sets the memory allocator as for training: otherwise every batch
is allocated again, which costs more than filling it. The records are synthetic, written by
data_prep's own writer, and read from the page cache, so that the times do not include a slow disk.
`loader_records_per_s` is the throughput of the loader, in wall time, with --latency_ms of extra
time per read, as a bucket has it, and --read_threads threads that read ahead.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_data_source, array_record_module
from ml_collections import ConfigDict

from benchmarks import student_step
from configs import base
from data_prep import evaluation, record_builder, records, shapes
from data_prep.sources import published
from mrd_jax.cli import command
from mrd_jax.data import augment, batch_spec, example, loader, source

# Number of records of OpenShape's largest training list. Grain's shuffle is slow for the small
# number of records of the synthetic data set.
OPENSHAPE = 800_000
# Shapes per shard of prepared shapes.
SHAPES_PER_FILE = 32
# Batches of the loader before and while its throughput is measured.
WARM_BATCHES, TIMED_BATCHES = 20, 60
# Bytes copied to measure memory bandwidth; more than any CPU cache holds.
COPIED = 2**28


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.input_pipeline")
    add = parser.add_argument
    add("--records", type=int, default=512, help="records of the synthetic data set")
    add("--points", type=int, default=10_000, help="points per record")
    add("--dim", type=int, default=1_280, help="dimension of a feature")
    add("--views", type=int, default=13, help="views per record")
    add("--captions", type=int, default=5, help="captions per record")
    add("--image_positives", type=int, default=1, help="views drawn per record")
    add("--text_positives", type=int, default=1, help="captions drawn per record")
    add("--relation_features", default="drawn", choices=("drawn", "mean"))
    add("--batch", type=int, default=64, help="records per batch")
    add("--batches", type=int, default=8, help="batches per round of the loader's stages")
    add("--repeats", type=int, default=7, help="rounds; the median is reported")
    add("--latency_ms", type=float, default=0, help="time that every read takes in addition")
    add("--read_threads", type=int, default=0, help="threads that read ahead; 64 for a bucket")
    consumed = "records per second of a training step: train/samples_per_second of a metrics.jsonl"
    add("--consumed", type=float, default=1_000.0, help=consumed)
    return parser.parse_args(arguments)


def make_data_set(folder: pathlib.Path, options: argparse.Namespace) -> pathlib.Path:
    """Writes a data set of random shapes and features, as data_prep.build writes released ones."""
    rng = np.random.default_rng(0)
    shards = []
    for start in range(0, options.records, SHAPES_PER_FILE):
        numbers = range(start, min(start + SHAPES_PER_FILE, options.records))
        shard = [_make_shape(number, rng, options) for number in numbers]
        path = folder / f"shard-{start:05d}.npz"
        shapes.save_shard(path, shard)
        shards.append(records.Shard(path, None, frozenset(shape.id for shape in shard)))
    plan = record_builder.Plan(
        name="made_up",
        shards=shards,
        splits={"train": [f"shape {number}" for number in range(options.records)]},
        classes=[],
        points=options.points,
        dim=options.dim,
        metadata={
            "teacher": dataclasses.asdict(published.OPENCLIP) | {"dim": options.dim},
            "up_axis": batch_spec.UP_AXIS,
            "from_y_up": published.Published.from_y_up,
            "normalisation": batch_spec.NORMALISATION,
            "points": options.points,
            "source": "made_up",
            "counts": {"train": options.records, "classes": 0},
        },
    )
    empty = evaluation.Sidecar([], np.zeros((0, options.dim), np.float32), [])
    written = record_builder.write_records(plan, folder, sidecar=empty)
    for shard in shards:
        shard.shapes.unlink()
    return written


def _make_shape(number: int, rng: np.random.Generator, options: argparse.Namespace) -> shapes.Shape:
    """Makes an ellipsoid in random colours, with released features."""
    points = rng.normal(size=(options.points, 3))
    points *= rng.uniform(0.2, 1, 3) / np.linalg.norm(points, axis=1, keepdims=True)
    image, text = (
        rng.normal(size=(rows, options.dim)).astype(np.float16)
        for rows in (options.views, options.captions)
    )
    view_kinds = ("render",) * (options.views - 1) + ("picture",)
    caption_kinds = ("name", "blip", "msft") + ("retrieved",) * options.captions
    return shapes.Shape(
        **dict.fromkeys(("source", "name", "category", "creator", "licence", "label"), ""),
        id=f"shape {number}",
        catalogue="train",
        xyz=shapes.normalise(points),
        rgb=rng.integers(0, 256, points.shape).astype(np.uint8),
        images=(),
        image_kinds=(),
        captions=tuple((kind, f"a {kind}") for kind in caption_kinds[: options.captions]),
        released=shapes.Released(image, view_kinds[-options.views :], text),
    )


class Repeated:
    """Sequence that repeats the records of a small split, as a bucket would serve them.

    Args:
      records: records of the small split.
      count: length of the sequence.
      latency: seconds that every read takes in addition.
    """

    def __init__(self, records: Sequence[Any], *, count: int = OPENSHAPE, latency: float = 0):
        self._records = records
        self._count = count
        self._latency = latency

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int) -> Any:
        if self._latency:
            time.sleep(self._latency)
        return self._records[index % len(self._records)]


def make_config(options: argparse.Namespace) -> ConfigDict:
    """Returns the base config with the sizes of the command line."""
    config = base.get_config()
    config.batch_size = options.batch
    config.data.points = config.model.points = options.points
    config.teacher.dim = config.model.out_dim = options.dim
    config.data.image_positives = options.image_positives
    config.data.text_positives = options.text_positives
    config.loss.relation_features = options.relation_features
    return config


def batch_bytes(config: ConfigDict) -> int:
    """Returns the bytes per record of a batch, which are copied to the devices."""
    arrays = batch_spec.batch_spec(config).values()
    return sum(array.size * array.dtype.itemsize for array in arrays) // config.batch_size


def make_stages(
    folder: pathlib.Path, config: ConfigDict, *, batches: int
) -> dict[str, tuple[Callable[[], Any], int]]:
    """Returns the timed stages by name: a call, and the number of records that it reads."""
    builder, stored, examples = open_records(folder)
    # TFDS decodes every field of a record; `drawn` decodes only those that training needs.
    decoded = builder.as_data_source("train")
    drawn, whole = (as_source(records, folder) for records in (examples, decoded))
    plain = _uncompressed(stored, folder)
    order = np.random.default_rng(0).permutation(len(drawn)).tolist()

    def each(read: Callable[[int], Any]) -> tuple[Callable[[], Any], int]:
        def call() -> None:
            for index in order:
                read(index)

        return call, len(order)

    def loaded(records: Sequence[Any]) -> tuple[Callable[[], Any], int]:
        stream = loader.train_stream(as_source(Repeated(records), folder), config)

        def call() -> None:
            for _ in range(batches):
                next(stream)
            _settle()

        _settle()
        return call, batches * config.batch_size

    return {
        "stored": each(stored.__getitem__),
        "stored_uncompressed": each(plain.__getitem__),
        "read_whole": each(whole.__getitem__),
        "read_drawn": each(lambda index: drawn.read(index, loader.FIELDS)),
        "loader_whole": loaded(decoded),
        "loader": loaded(examples),
    }


def open_records(folder: pathlib.Path) -> tuple[Any, Sequence[bytes], example.Examples]:
    """Returns the TFDS builder of a data set, its stored records, and records decoded lazily."""
    builder = tfds.builder_from_directory(str(folder))
    bytes_only = tfds.decode.DeserializeMethod.RAW_BYTES
    stored = builder.as_data_source("train", deserialize_method=bytes_only)
    return builder, stored, example.Examples(stored, builder.info.features, names=source.FIELDS)


def as_source(records: Sequence[Any], folder: pathlib.Path) -> source.RecordSource:
    """Returns records as a split of one shard."""
    return source.RecordSource(
        records, shards=[("shard", len(records))], directory=folder, split="train", cache=False
    )


def measure_throughput(folder: pathlib.Path, config: ConfigDict, *, latency: float) -> float:
    """Returns the records per second, of wall time, that the loader delivers.

    Args:
      folder: data set.
      config: config of the run.
      latency: seconds that the read of a record takes in addition.
    """
    records = Repeated(open_records(folder)[2], latency=latency)
    stream = loader.train_stream(as_source(records, folder), config)
    # A loader that waits for reads delivers its first batches after it has filled its buffer.
    for _ in range(WARM_BATCHES):
        next(stream)
    start = time.monotonic()
    for _ in range(TIMED_BATCHES):
        next(stream)
    return TIMED_BATCHES * config.batch_size / (time.monotonic() - start)


def _uncompressed(stored: Sequence[bytes], folder: pathlib.Path) -> Sequence[bytes]:
    """Writes the records to an uncompressed shard, which TFDS cannot write, and opens it."""
    path = str(folder / "uncompressed.array_record")
    writer = array_record_module.ArrayRecordWriter(path, "group_size:1,uncompressed")
    for index in range(len(stored)):
        writer.write(stored[index])
    writer.close()
    return array_record_data_source.ArrayRecordDataSource(path)


def _settle(quiet: float = 0.1) -> None:
    """Waits until the loader's thread has filled its buffer, so that calls have the same cost."""
    before = time.process_time()
    while True:
        time.sleep(quiet)
        now = time.process_time()
        if now - before < 0.02 * quiet:
            return
        before = now


def time_stages(
    calls: dict[str, tuple[Callable[[], Any], int]], *, repeats: int
) -> dict[str, list[float]]:
    """Measures CPU seconds per record of every stage; each round runs all stages in turn."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call, _ in calls.values():
        call()  # the first call opens files and allocates memory
    for _ in range(repeats):
        for name, (call, count) in calls.items():
            before = time.process_time()
            call()
            seconds[name].append((time.process_time() - before) / count)
    return seconds


def measure_copy_rate(*, repeats: int) -> float:
    """Measures the bytes per second that one core copies in memory."""
    origin, target = np.ones(COPIED, np.uint8), np.ones(COPIED, np.uint8)
    seconds = []
    for _ in range(repeats):
        before = time.process_time()
        np.copyto(target, origin)
        seconds.append(time.process_time() - before)
    return COPIED / statistics.median(seconds)


def time_augmentation(config: ConfigDict, *, repeats: int) -> student_step.Timing:
    """Times the compiled augmentation of one batch, which is part of the training step."""
    import jax

    @jax.jit
    def augmented(fields):
        keys = batch_spec.sample_keys(config.seed, fields["index"], fields["epoch"])
        return augment.augment(fields, config.augment, keys=keys, num_points=config.model.points)

    return student_step.measure(augmented, batch_spec.fake_batch(config), repeats=repeats)


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Measures all stages and returns the printed fields.

    `floor` is a lower bound: the time to copy the bytes of an uncompressed record in memory.
    """
    config = make_config(options)
    with tempfile.TemporaryDirectory() as folder:
        written = make_data_set(pathlib.Path(folder), options)
        calls = make_stages(written, config, batches=options.batches)
        seconds = time_stages(calls, repeats=options.repeats)
        (shard,) = written.glob("*-train.array_record*")
        on_disk = shard.stat().st_size / options.records
        stored = (written / "uncompressed.array_record").stat().st_size / options.records
        del calls  # ends the loaders' threads, which read the folder
        config.data.read_threads = options.read_threads
        throughput = measure_throughput(written, config, latency=options.latency_ms / 1000)
    rate = measure_copy_rate(repeats=options.repeats)
    augmentation = time_augmentation(config, repeats=options.repeats)
    import jax

    cpu = {name: statistics.median(values) for name, values in seconds.items()}
    cpu |= {"floor": stored / rate, "augmentation": augmentation.cpu / options.batch}
    sizes = {name: value for name, value in vars(options).items() if name != "debug"}
    return {
        "benchmark": "input_pipeline", **sizes, "device": jax.devices()[0].device_kind,
        "bytes_per_record": {
            "on_disk": round(on_disk), "uncompressed": round(stored), "batch": batch_bytes(config),
        },
        "copied_gb_per_s": round(rate / 1e9, 2),
        "cpu_us_per_record": {name: round(1e6 * value, 1) for name, value in cpu.items()},
        "records_per_s_and_core": {
            name: round(1 / cpu[name]) for name in ("floor", "read_drawn", "loader", "augmentation")
        },
        "augmentation_records_per_s": round(options.batch / augmentation.wall),
        "whole_over_drawn": {
            "read": _ratio(seconds["read_whole"], seconds["read_drawn"]),
            "loader": _ratio(seconds["loader_whole"], seconds["loader"]),
        },
        "loader_records_per_s": round(throughput),
        "loader_cores_for_consumed": round(options.consumed * cpu["loader"], 2),
        "load": round(os.getloadavg()[0], 1), "cores": len(os.sched_getaffinity(0)),
    }  # fmt: skip


def _ratio(first: Sequence[float], second: Sequence[float]) -> float:
    """Returns the median ratio over rounds; both stages of a round ran under the same load."""
    return round(statistics.median(a / b for a, b in zip(first, second, strict=True)), 2)


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Measures the stages and prints one JSON line."""
    print(json.dumps(measure(parse_arguments(arguments))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
