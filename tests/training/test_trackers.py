# SPDX-License-Identifier: Apache-2.0
"""Trackers get a copy of a run, and never stop it."""

import importlib.machinery
import json
import logging
import sys
import threading
import types

import jax
import numpy as np
import pytest

from configs import base
from mrd_jax.training import metrics, preflight, trackers, validation


class Recorder:
    """A tracker that keeps its calls; raises at those of `fails_at`."""

    def __init__(self, fails_at=()):
        self.calls, self.fails_at = [], fails_at

    def _record(self, name, *values):
        self.calls.append((name, *values))
        if name in self.fails_at:
            raise RuntimeError("server is down")

    def log(self, step, values):
        self._record("log", step, values)

    def log_images(self, step, images):
        self._record("log_images", step, sorted(images))

    def log_results(self, headings, rows, report):
        self._record("log_results", headings[0], rows, report)

    def close(self, *, failed):
        self._record("close", failed)


def make_stub(**changes):
    """Returns a module with the calls of wandb that are used, and their list."""
    calls = []

    class Run:
        def define_metric(self, name, step_metric=None):
            calls.append(("define_metric", name, step_metric))

        def log(self, values):
            calls.append(("log", values))

        def finish(self, exit_code):
            calls.append(("finish", exit_code))

    def init(**options):
        calls.append(("init", options))
        return Run()

    parts = {"init": init, "Image": lambda pixels: ("image", pixels.shape)}
    parts |= {"Html": lambda text, inject: ("html", text)}
    parts |= {"Table": lambda columns, data: ("table", columns, data)}
    stub = types.ModuleType("wandb")
    stub.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    stub.__dict__.update(parts | changes)
    return stub, calls


@pytest.fixture
def wandb(monkeypatch):
    stub, calls = make_stub()
    monkeypatch.setitem(sys.modules, "wandb", stub)
    return calls


def config_with(tracker):
    config = base.get_config()
    config.tracker = tracker
    return config


def test_metrics_are_sent_in_their_order(tmp_path):
    recorder = Recorder()
    with trackers.Tracking(recorder) as tracking:
        writer = metrics.MetricWriter(tmp_path, start_step=0, tracking=tracking)
        for step in (1, 2, 3):
            writer.write(step, {"train/loss": 1 / step})
        writer.close()
        tracking.log_images(3, {"relations/student": np.zeros((2, 2, 3), np.uint8)})
    assert recorder.calls == [
        *(("log", step, {"train/loss": 1 / step}) for step in (1, 2, 3)),
        ("log_images", 3, ["relations/student"]),
        ("close", False),
    ]


def test_exception_marks_the_run_as_failed():
    recorder = Recorder()
    with pytest.raises(KeyError), trackers.Tracking(recorder):
        raise KeyError
    assert recorder.calls == [("close", True)]


def test_tracker_that_fails_is_noted_once_and_the_metrics_are_complete(tmp_path, caplog):
    recorder = Recorder(fails_at=["log"])
    with caplog.at_level(logging.WARNING), trackers.Tracking(recorder) as tracking:
        writer = metrics.MetricWriter(tmp_path, start_step=0, tracking=tracking)
        writer.write(1, {"train/loss": 1.0})
        writer.write(2, {"train/loss": 0.5})
        writer.close()
    assert len(recorder.calls) == 1
    (record,) = caplog.records
    assert "gets nothing more of this run, which goes on" in record.message
    assert "RuntimeError: server is down" in record.message
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 2


def test_tracker_that_hangs_does_not_keep_the_run_from_ending(monkeypatch, caplog):
    monkeypatch.setattr(trackers, "CLOSE_TIMEOUT", 0.05)
    released = threading.Event()
    recorder = Recorder()
    recorder.log = lambda step, values: released.wait()
    tracking = trackers.Tracking(recorder)
    tracking.log(1, {"train/loss": 1.0})
    with caplog.at_level(logging.WARNING):
        tracking.close()
    assert "did not finish" in caplog.text
    released.set()


def test_results_and_report_go_along(tmp_path):
    top = dict.fromkeys(("top1", "top3", "top5", "mean_per_class"), 0.5)
    row = {"name": "student", "summary": "", "metrics": top | {"count": 4, "classes": 2}}
    row |= {"correct": None, "retrieval": {}}
    (tmp_path / "results.json").write_text(json.dumps({"config": {}, "results": [row]}))
    (tmp_path / "report.html").write_text("<p>report</p>")
    recorder = Recorder()
    with trackers.Tracking(recorder) as tracking:
        tracking.log_results(tmp_path)
    (name, heading, rows, report), _ = recorder.calls
    assert (name, heading, report) == ("log_results", "method", "<p>report</p>")
    assert rows[0][0] == "student"


def test_resumed_run_continues_the_run_of_the_tracker(tmp_path, wandb):
    for step in (1, 2):
        with trackers.open_tracking(config_with("wandb"), tmp_path / "mine") as tracking:
            tracking.log(step, {"train/loss": 0.5})
    first, second = (options for name, *rest in wandb if name == "init" for options in rest)
    assert first["id"] == second["id"] and first["resume"] == "allow"
    assert first["name"] == "mine" and first["config"]["tracker"] == "wandb"
    assert [call for call in wandb if call[0] in ("log", "finish")] == [
        ("log", {"step": 1, "train/loss": 0.5}),
        ("finish", 0),
        ("log", {"step": 2, "train/loss": 0.5}),
        ("finish", 0),
    ]
    # Steps that a resumed run repeats are a column of their own, not the client's counter.
    assert ("define_metric", "*", "step") in wandb


def test_pictures_table_and_report_have_the_types_of_the_client(tmp_path, wandb):
    tracker = trackers.WandbTracker("id", name="n", folder=tmp_path, config={})
    tracker.log_images(3, {"a": np.zeros((2, 4, 3), np.uint8)})
    tracker.log_results(["method"], [["student"]], "<p>")
    tracker.close(failed=True)
    assert wandb[-3:] == [
        ("log", {"step": 3, "a": ("image", (2, 4, 3))}),
        ("log", {"results": ("table", ["method"], [["student"]]), "report": ("html", "<p>")}),
        ("finish", 1),
    ]


def test_only_process_zero_opens_the_tracker(tmp_path, wandb, monkeypatch):
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    with trackers.open_tracking(config_with("wandb"), tmp_path) as tracking:
        tracking.log(1, {"train/loss": 0.5})
    assert not wandb and not list(tmp_path.iterdir())


def test_run_without_a_tracker_needs_no_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with trackers.open_tracking(config_with("none"), tmp_path) as tracking:
        tracking.log(1, {"train/loss": 0.5})
        tracking.log_results(tmp_path)
    assert not list(tmp_path.iterdir())


def test_new_run_that_cannot_be_opened_is_refused_and_a_resumed_one_trains_on(
    tmp_path, monkeypatch, caplog
):
    def fail(**_):
        raise ConnectionError("no route to host")

    monkeypatch.setitem(sys.modules, "wandb", make_stub(init=fail)[0])
    with pytest.raises(ValueError, match="no route to host. Log in with `wandb login`, or set"):
        trackers.open_tracking(config_with("wandb"), tmp_path)
    assert not (tmp_path / trackers.ID_FILE).exists()
    (tmp_path / trackers.ID_FILE).write_text('{"wandb": "abc"}')
    with trackers.open_tracking(config_with("wandb"), tmp_path) as tracking:
        tracking.log(1, {})
    assert "goes on without its tracker: no route to host" in caplog.text


def test_missing_package_is_named_before_the_run(monkeypatch):
    monkeypatch.setattr(trackers.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(trackers.TrackerUnsupportedError, match=r"pip install .mrd_jax\[wandb\]"):
        trackers.check(config_with("wandb"))
    with pytest.raises(ImportError, match="wandb is not installed"):
        preflight._check_tracker(config_with("wandb"))


def test_unknown_tracker_is_a_fault_of_the_config():
    with pytest.raises(validation.ConfigError, match="config.tracker is 'tensorbord'; expected"):
        validation.validate(config_with("tensorbord"))


@pytest.mark.slow
def test_real_client_writes_two_parts_of_one_run_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for step in (1, 2):
        with trackers.open_tracking(config_with("wandb"), tmp_path) as tracking:
            tracking.log(step, {"train/loss": 0.5})
            tracking.log_images(step, {"picture": np.zeros((8, 8, 3), np.uint8)})
            assert not tracking._failed
        assert not tracking._failed
    run_id = json.loads((tmp_path / trackers.ID_FILE).read_text())["wandb"]
    files = list((tmp_path / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
    assert len(files) == 2 and all(path.stat().st_size for path in files)
