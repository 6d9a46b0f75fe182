# SPDX-License-Identifier: Apache-2.0
"""`mrd_jax.main --mode check` and `--mode validate`, and the exit status of an unfinished run."""

import json
import logging

import bucket
import numpy as np
import pytest
from fake_data import DIM
from google.api_core import exceptions
from google.cloud import storage as cloud_storage
from tiny import tiny_config

from configs import benchmarks, quickstart
from mrd_jax import main
from mrd_jax.checkpoints import run_identity
from mrd_jax.training import preflight, validation
from mrd_jax.training import run as run_lib


def config_for(data, **fields):
    tiny = {"data__points": 24, "model__points": 16, "teacher__dim": DIM, "model__out_dim": DIM}
    return tiny_config(data__directory=str(data), **tiny | fields)


def contents(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_check_reads_everything_and_leaves_nothing_behind(made, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    preflight.check(config_for(made), str(tmp_path / "run"), devices=8)
    assert contents(tmp_path) == ["run"]
    text = caplog.text
    for fact in ("8 x cpu", "valid for 8 devices", "29 records", "10 records", "run: new", "numpy"):
        assert fact in text


def test_check_lists_every_fault_at_once(made, tmp_path):
    (tmp_path / "file").touch()
    config = config_for(made, data__test_split="none", initial_weights=str(tmp_path / "w.npz"))
    with pytest.raises(preflight.PreflightError) as error:
        preflight.check(config, str(tmp_path / "file" / "run"), devices=7)
    names = [line.partition(":")[0] for line in str(error.value).splitlines()]
    assert {"workdir", "config", "test data", "initial weights"} <= set(names)
    assert "training data" not in names


def test_check_reads_the_initial_weights(made, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    np.savez(tmp_path / "w.npz", **{"params/a": np.ones(2), "params/b": np.ones(3)})
    config = config_for(made, initial_weights=str(tmp_path / "w.npz"))
    preflight.check(config, str(tmp_path / "run"), devices=8)
    assert "initial weights: 2 arrays read" in caplog.text


def test_check_compares_an_existing_workdir_with_the_run(made, tmp_path, caplog):
    caplog.set_level(logging.INFO)
    config = config_for(made)
    identity = run_identity.of_run(config, fingerprint=run_lib.open_data(config).fingerprint)
    (tmp_path / run_identity.RUN_FILE).write_text(json.dumps(identity))
    preflight.check(config, str(tmp_path), devices=8)
    assert "run: will be continued" in caplog.text
    with pytest.raises(preflight.PreflightError, match=r"run: .*\n.*config.seed: 0 there, 5 now"):
        preflight.check(config_for(made, seed=5), str(tmp_path), devices=8)


def test_fault_of_the_program_keeps_its_traceback(made, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyError("bug")

    monkeypatch.setattr(run_lib, "open_data", fail)
    with pytest.raises(KeyError, match="bug"):
        preflight.check(config_for(made), str(tmp_path / "run"), devices=8)


def test_validate_prints_the_fields_and_needs_no_data(capsys):
    """768 chips have 192 hosts."""
    config = tiny_config(batch_size=64, data__directory="gs://nowhere/data")
    preflight.validate(config, devices=64)
    assert json.loads(capsys.readouterr().out)["data.directory"] == "gs://nowhere/data"
    with pytest.raises(validation.ConfigError, match="config.batch_size is 64.*192 processes"):
        preflight.validate(config, devices=768)


def test_benchmark_is_checked_without_the_fields_of_a_run(tmp_path, caplog, capsys):
    caplog.set_level(logging.INFO)
    preflight.check(benchmarks.get_config(), str(tmp_path / "out"), devices=8)
    assert "devices: 8 x cpu" in caplog.text and "training data" not in caplog.text
    preflight.validate(benchmarks.get_config(), devices=8)
    assert json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("mode", ["check", "validate"])
def test_modes_that_train_nothing_accept_any_step_and_config(mode):
    for config in (benchmarks.get_config(), quickstart.get_config()):
        chosen = main.choose(config, mode, "best", devices=3)
        assert chosen.func is getattr(preflight, mode) and chosen.keywords == {"devices": 3}


def test_check_of_a_bucket_reads_its_description_as_orbax_does(made, monkeypatch):
    """The emulator grants everything to everyone, so a refusal is simulated."""

    def refuse(client, name):
        raise exceptions.Forbidden(f"no storage.buckets.get on {name}")

    with bucket.emulated() as url:
        preflight.check(config_for(made), f"{url}/run", devices=8)
        monkeypatch.setattr(cloud_storage.Client, "get_bucket", refuse)
        with pytest.raises(preflight.PreflightError) as error:
            preflight.check(config_for(made), f"{url}/run", devices=8)
    message = str(error.value)
    assert message.startswith(f"workdir: cannot read the description of {url} (no storage.buckets")
    assert "roles/storage.legacyBucketReader" in message
