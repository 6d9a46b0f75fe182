# SPDX-License-Identifier: Apache-2.0
"""The benchmark of the input pipeline times its stages on valid records."""

import json
import sys

import numpy as np
import pytest

from benchmarks import input_pipeline
from data_prep import verify
from mrd_jax.data import loader, source

SIZES = {"records": 34, "points": 16, "dim": 4, "views": 3, "captions": 2, "batch": 2}
ARGUMENTS = [f"--{name}={value}" for name, value in SIZES.items()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    options = input_pipeline.parse_arguments(ARGUMENTS)
    return input_pipeline.make_data_set(tmp_path_factory.mktemp("made"), options)


def test_the_records_have_the_requested_number_and_size(folder):
    report = verify.verify(folder, workers=1)
    assert report.faults == [] and report.records == {"train": 34}
    record = source.open_split(folder, "train")[33]
    assert record["image_features"].shape == (3, 4) and record["text_features"].shape == (2, 4)
    assert record["image_kinds"] == ["render", "render", "picture"]
    assert record["caption_kinds"] == ["name", "blip"]


def test_a_repeated_source_repeats_its_records(folder):
    repeated = input_pipeline.Repeated(input_pipeline.open_records(folder)[2])
    assert len(repeated) == input_pipeline.OPENSHAPE
    opened = input_pipeline.as_source(repeated, folder)
    for index in (0, 33, 34, 34 * 7 + 5):
        assert opened.read(index, ("id",)) == {"id": f"shape {index % 34}"}


def test_throughput_with_latency_is_that_of_the_threads_that_read_ahead(folder, monkeypatch):
    monkeypatch.setattr(input_pipeline, "WARM_BATCHES", 2)
    monkeypatch.setattr(input_pipeline, "TIMED_BATCHES", 6)
    config = input_pipeline.make_config(input_pipeline.parse_arguments(ARGUMENTS))
    for threads in (1, 4):
        config.data.read_threads = threads
        found = input_pipeline.measure_throughput(folder, config, latency=0.02)
        assert 0.4 * threads / 0.02 < found < 2 * threads / 0.02


def test_every_stage_reads_the_same_records(folder):
    options = input_pipeline.parse_arguments(ARGUMENTS)
    read = {}

    class Counted(source.RecordSource):
        def read(self, index, fields):
            read.setdefault(tuple(fields), []).append(index)
            return super().read(index, fields)

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(source, "RecordSource", Counted)
        config = input_pipeline.make_config(options)
        calls = input_pipeline.make_stages(folder, config, batches=3)
        read.clear()
        for name in ("read_whole", "read_drawn"):
            calls[name][0]()
    assert {name: count for name, (_, count) in calls.items()} == {
        "stored": 34, "stored_uncompressed": 34, "read_whole": 34, "read_drawn": 34,
        "loader_whole": 6, "loader": 6,
    }  # fmt: skip
    assert sorted(read[source.FIELDS]) == sorted(read[loader.FIELDS]) == list(range(34))


def test_the_benchmark_prints_the_cost_per_record_and_the_cores_per_step(monkeypatch, capsys):
    monkeypatch.setattr(input_pipeline, "COPIED", 2**20)
    arguments = [*ARGUMENTS, "--batches=2", "--repeats=2", "--consumed=1000"]
    monkeypatch.setattr(sys, "argv", ["input_pipeline", *arguments])

    input_pipeline.main()

    line = json.loads(capsys.readouterr().out)
    cost = line["cpu_us_per_record"]
    assert cost.keys() == {
        "stored", "stored_uncompressed", "read_whole", "read_drawn", "loader_whole", "loader",
        "floor", "augmentation",
    }  # fmt: skip
    assert min(cost.values()) > 0
    speed = line["records_per_s_and_core"]
    for name in speed:
        np.testing.assert_allclose(speed[name] * cost[name], 1e6, rtol=0.01 + 0.1 / cost[name])
    np.testing.assert_allclose(
        line["loader_cores_for_consumed"], 1000 * cost["loader"] / 1e6, atol=0.006
    )
    assert set(line["whole_over_drawn"]) == {"read", "loader"}
