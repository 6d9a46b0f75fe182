# SPDX-License-Identifier: Apache-2.0
"""Metrics are written to JSON lines and TensorBoard; a continued run writes no line twice."""

import json
import struct

import pytest
from etils import epath
from tensorboardX.proto import event_pb2

from mrd_jax.evaluation import history
from mrd_jax.training import metrics


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write(folder, values, *, start_step=0):
    writer = metrics.MetricWriter(str(folder), start_step=start_step)
    for step, value in values.items():
        writer.write(step, {"train/loss": value})
    writer.close()


def scalars(folder):
    """Reads (step, tag, value) of every scalar in the event files."""
    found = []
    for path in sorted((folder / "tensorboard").iterdir()):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (length,) = struct.unpack_from("<Q", data, at)
            event = event_pb2.Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16  # length, its checksum, the record, its checksum
            found += [(event.step, v.tag, v.simple_value) for v in event.summary.value]
    return found


def test_line_has_step_and_values(tmp_path):
    write(tmp_path, {1: 0.5, 2: 0.25})
    assert lines(tmp_path) == [
        {"step": 1, "train/loss": 0.5},
        {"step": 2, "train/loss": 0.25},
    ]


def test_tensorboard_has_the_same_values(tmp_path):
    write(tmp_path, {1: 0.5, 2: 0.25})
    assert scalars(tmp_path) == [(1, "train/loss", 0.5), (2, "train/loss", 0.25)]


def test_lines_after_the_restored_step_are_dropped(tmp_path):
    write(tmp_path, {1: 1.0, 2: 2.0, 3: 3.0})
    write(tmp_path, {3: 4.0}, start_step=2)
    assert [(line["step"], line["train/loss"]) for line in lines(tmp_path)] == [
        (1, 1.0), (2, 2.0), (3, 4.0),
    ]  # fmt: skip


def test_kill_while_lines_are_dropped_loses_no_other_line(tmp_path, monkeypatch):
    write(tmp_path, {1: 1.0, 2: 2.0})
    before = lines(tmp_path)

    def killed(path, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(type(epath.Path(tmp_path)), "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write(tmp_path, {2: 3.0}, start_step=1)
    assert lines(tmp_path) == before


def test_evaluation_of_the_restored_step_is_kept_and_counts_as_done(tmp_path):
    write(tmp_path, {1: 1.0, 2: 2.0})
    assert history.evaluations(tmp_path) == {}
    path = tmp_path / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 2, "test/top1": 0.5}\n')
    metrics.MetricWriter(str(tmp_path), start_step=2).close()
    assert len(lines(tmp_path)) == 3
    assert history.evaluations(tmp_path) == {2: {"test/top1": 0.5}}
    metrics.MetricWriter(str(tmp_path), start_step=1).close()
    assert history.evaluations(tmp_path) == {}


def test_incomplete_last_line_is_dropped(tmp_path):
    write(tmp_path, {1: 1.0})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "train/to')
    write(tmp_path, {2: 2.0}, start_step=1)
    assert [line["step"] for line in lines(tmp_path)] == [1, 2]


def test_non_finite_value_is_valid_json(tmp_path):
    write(tmp_path, {1: float("nan")})
    assert lines(tmp_path) == [{"step": 1, "train/loss": "nan"}]


def test_stopwatch_measures_throughput_and_data_wait(monkeypatch):
    now = iter([0.0, 1.0, 1.5, 2.0, 2.5, 4.0, 4.0]).__next__
    monkeypatch.setattr(metrics.time, "perf_counter", now)
    stopwatch = metrics.Stopwatch(batch_size=10)
    for _ in range(2):
        with stopwatch.data_wait():
            pass
    assert stopwatch.lap() == pytest.approx(
        {"train/samples_per_second": 5.0, "train/data_wait_fraction": 0.25}
    )


def test_progress_line_shows_the_given_metrics_with_units():
    values = {"train/loss": 5.125, "train/learning_rate": 1e-3, "train/data_wait_fraction": 0.002}
    line = metrics.progress_line(20, 600, values)
    assert line == "step 20/600  loss 5.12  lr 0.001  data wait 0.2%"
