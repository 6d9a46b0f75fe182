# SPDX-License-Identifier: Apache-2.0
"""Graceful shutdown on signals; non-finite updates are skipped, and too many stop the run."""

import json
import os
import signal

import jax
import numpy as np
import pytest
from fake_data import DIM, run_build
from tiny import assert_trees_equal, tiny_config

from mrd_jax.checkpoints import paths
from mrd_jax.data import dataset_metadata, loader
from mrd_jax.training import nonfinite, preemption, train
from mrd_jax.training import run as run_lib

pytestmark = pytest.mark.usefixtures("fast_compile", "without_curves")
ONE = jax.devices()[:1]


@pytest.fixture(autouse=True)
def interruptible():
    """Handles SIGINT as in a terminal; background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """Six steps on 40 shapes of 96 points, evaluated after the third."""
    with pytest.MonkeyPatch.context() as patch:
        folder, _ = run_build(tmp_path_factory.mktemp("built"), patch, points=96)
    return tiny_config(
        data__directory=str(folder),
        teacher__dim=DIM,
        model__out_dim=DIM,
        max_nonfinite_steps=3,
    )


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory):
    """Workdir of an uninterrupted run."""
    workdir = tmp_path_factory.mktemp("straight")
    train.train_and_evaluate(config, str(workdir), devices=ONE)
    return workdir


def final_state(config, workdir):
    run = run_lib.build_run(config, devices=ONE)
    checkpoints = run_lib.open_checkpoints(
        config, str(workdir), run_lib.open_data(config), read_only=True
    )
    state = jax.device_get(checkpoints.restore(run.initial_state()))
    checkpoints.close()
    return state


def lines(workdir, prefix):
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    kept = ("train/samples_per_second", "train/data_wait_fraction")
    return [
        (row["step"], name, value)
        for row in rows
        for name, value in row.items()
        if name.startswith(prefix) and name not in kept
    ]


def change_stream(monkeypatch, change):
    """Passes every batch through change(step, batch)."""
    stream = loader.train_stream

    def changed(*args, start_step=0, **kwargs):
        batches = stream(*args, start_step=start_step, **kwargs)
        for step, batch in enumerate(batches, start=start_step):
            yield change(step, batch)

    monkeypatch.setattr(loader, "train_stream", changed)


# An evaluation is due at step 3, which the continued run must do first; none is due at step 5.
@pytest.mark.parametrize("number, step", [(signal.SIGTERM, 3), (signal.SIGINT, 5)])
def test_run_that_was_shut_down_continues_bit_for_bit(
    config, straight, tmp_path, monkeypatch, number, step
):
    before = signal.getsignal(number)

    def send(s, batch):
        if s == step - 1:
            os.kill(os.getpid(), number)
        return batch

    with monkeypatch.context() as patch:
        change_stream(patch, send)
        train.train_and_evaluate(config, str(tmp_path), devices=ONE)
    assert paths.newest(tmp_path).name == str(step)
    assert signal.getsignal(number) is before
    assert not (tmp_path / "results.json").exists() and not (tmp_path / "finished").exists()

    train.train_and_evaluate(config, str(tmp_path), devices=ONE)
    assert_trees_equal(final_state(config, tmp_path), final_state(config, straight))
    for prefix in ("train/", "test/"):
        assert lines(tmp_path, prefix) == lines(straight, prefix)


def test_signal_in_the_last_step_lets_the_run_finish(config, straight, tmp_path, monkeypatch):
    def send(s, batch):
        if s == config.total_steps - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return batch

    change_stream(monkeypatch, send)
    train.train_and_evaluate(config, str(tmp_path), devices=ONE)
    assert (tmp_path / "finished").exists()
    assert lines(tmp_path, "test/") == lines(straight, "test/")


def test_second_signal_has_its_default_effect():
    with preemption.ShutdownRequest() as request:
        assert not request.requested(0)
        os.kill(os.getpid(), signal.SIGINT)
        assert request.requested(1) and str(request) == "SIGINT"
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_ignored_signal_stays_ignored():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with preemption.ShutdownRequest() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert not request.requested(1)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


def not_a_number(batch):
    return batch | {"image": np.full_like(batch["image"], np.nan)}


def test_non_finite_update_leaves_the_state_of_a_run_that_skipped_the_batch(
    config, tmp_path, monkeypatch
):
    change_stream(monkeypatch, lambda s, batch: not_a_number(batch) if s == 2 else batch)
    train.train_and_evaluate(config, str(tmp_path), devices=ONE)

    run = run_lib.build_run(config, devices=ONE)
    records = run_lib.open_data(config).records
    state, step = run.initial_state(), run.train_step()
    batches = loader.train_stream(records, config)
    for s in range(config.total_steps):
        batch = next(batches)
        if s == 2:
            state = state.replace(step=state.step + 1)
            ids = [records[i]["id"] for i in batch["index"].tolist()]
        else:
            state, _ = step(state, run.backend.place_batch(batch))
    assert_trees_equal(final_state(config, tmp_path), state)

    (line,) = map(json.loads, (tmp_path / "skipped.0.jsonl").read_text().splitlines())
    assert line["step"] == 2 and line["ids"] == ids
    assert {"loss", "contrastive_image", "grad_norm"} <= set(line["not_finite"])
    assert "contrastive_text" not in line["not_finite"]
    skipped = [value for _, name, value in lines(tmp_path, "train/skipped")]
    assert skipped == [0, 0, 1, 0, 0, 0]


def test_too_many_consecutive_non_finite_updates_stop_the_run(
    config, straight, tmp_path, monkeypatch
):
    bad = (0, 1, 3, 4, 5)  # two in a row are borne, three are not
    change_stream(monkeypatch, lambda s, batch: not_a_number(batch) if s in bad else batch)
    with pytest.raises(
        nonfinite.NonFiniteError, match="3 consecutive updates.*steps 3 to 5"
    ) as error:
        train.train_and_evaluate(config, str(tmp_path), devices=ONE)
    assert "learning rate" in str(error.value) and "data_prep.verify" in str(error.value)
    assert paths.newest(tmp_path).name == "3"
    state = final_state(config, tmp_path)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.params))


def test_limit_of_zero_never_stops_the_run(tmp_path):
    updates = nonfinite.NonFiniteUpdates(
        str(tmp_path), limit=0, names=lambda index: [str(i) for i in index]
    )
    for step in range(50):
        updates.add(step, {"skipped": np.float32(1), "loss": np.float32("nan")}, np.array([step]))
        updates.check()
    assert len((tmp_path / "skipped.0.jsonl").read_text().splitlines()) == 50


def test_run_identity_holds_the_fingerprint_of_the_data(config, straight):
    """A continued run is compared with the data set of the run that began it."""
    run = json.loads((straight / "run.json").read_text())
    assert run["data"] == dataset_metadata.fingerprint(dataset_metadata.read(config.data.directory))
