# SPDX-License-Identifier: Apache-2.0
"""Comparison with the peers' PyTorch steps: arguments, both processes, this project's step."""

import json
import sys
import time
import types

import pytest
from tiny import tiny_config

from benchmarks.peers import __main__ as peers
from benchmarks.peers import ours, sizes


@pytest.fixture
def clone(tmp_path):
    """A folder with the file that defines OpenShape's student."""
    path = tmp_path / "clone" / sizes.PEERS["openshape-4"].file
    path.parent.mkdir(parents=True)
    path.write_text("")
    return tmp_path / "clone"


def stub(tmp_path, name, text):
    """A program in place of Python."""
    path = tmp_path / name
    path.write_text(f"#!{sys.executable}\nimport json, sys\n{text}")
    path.chmod(0o755)
    return path


def test_folder_without_the_students_file_is_rejected(tmp_path):
    with pytest.raises(ValueError, match=r"has no models/point_encoder.py.*baaivision/Uni3D"):
        peers.parse_options(["--peer=uni3d-b", f"--code={tmp_path}"])


def test_environment_of_the_peer_must_be_named(clone):
    with pytest.raises(ValueError, match="--torch_python is None; expected the Python"):
        peers.parse_options(["--peer=openshape-4", f"--code={clone}"])


@pytest.mark.parametrize("option", ["--batch=0", "--points=-1", "--steps=0"])
def test_sizes_below_one_are_rejected(option):
    with pytest.raises(ValueError, match="expected at least 1"):
        peers.parse_options(["--peer=uni3d-b", option])


@pytest.mark.parametrize("peer", sizes.PEERS)
def test_config_has_the_peers_student_and_the_sizes_of_the_command(peer):
    options = peers.parse_options([f"--peer={peer}", "--batch=6", "--points=500"])
    config = peers.make_config(options)
    assert (config.batch_size, config.data.points, config.model.points) == (6, 500, 500)
    assert config.model.out_dim == sizes.PEERS[peer].dim
    assert (config.model.dtype, config.model.remat) == ("bfloat16", False)
    # The peers' objective has no relations.
    loss = config.loss
    assert loss.lambda_intra == loss.lambda_image == loss.lambda_text == 0


def test_own_step_is_timed_after_the_warm_up(monkeypatch):
    """Of a run whose step counts and, in the warm-up only, sleeps."""
    calls = []

    def step(state, batch):
        calls.append(state)
        time.sleep(0.05 if len(calls) <= 2 else 0)
        return state + 1, {"loss": batch}

    backend = types.SimpleNamespace(place_batch=lambda batch: 0)
    run = types.SimpleNamespace(
        backend=backend, train_step=lambda: step, initial_state=lambda: 0
    )  # fmt: skip
    monkeypatch.setattr(ours.run_lib, "build_run", lambda config, devices: run)
    found = ours.measure(tiny_config(batch_size=4), steps=3, warm_up=2)
    assert calls == [0, 1, 2, 3, 4]
    assert 0 < found["step_s"] < 0.05
    assert found["samples_per_s"] == pytest.approx(4 / found["step_s"])
    assert found["device"] == "cpu" and found["version"].startswith("jax ")


@pytest.mark.slow
def test_own_step_of_a_small_config_runs():
    assert ours.measure(tiny_config(batch_size=4), steps=1, warm_up=1)["step_s"] > 0


def test_both_sides_get_the_same_sizes_and_the_best_mode_counts(
    clone, tmp_path, monkeypatch, capsys
):
    own = stub(
        tmp_path,
        "own",
        "print('log'); print(json.dumps({'samples_per_s': 300.0, 'arguments': sys.argv[1:]}))",
    )
    text = "print(json.dumps({'eager': {'samples_per_s': 100.0, 'arguments': sys.argv[2:]},"
    text += " 'compiled': {'samples_per_s': 120.0}}))"
    torch = stub(tmp_path, "torch", text)
    monkeypatch.setattr(sys, "executable", str(own))
    status = peers.main(
        ["--peer=openshape-4", f"--code={clone}", f"--torch_python={torch}", "--batch=24"]
    )
    report = json.loads(capsys.readouterr().out)
    assert status == 0
    assert (report["best"], report["ratio"]) == ("compiled", 2.5)
    shared = {"--peer=openshape-4", "--batch=24", "--points=10000", "--dtype=bfloat16"}
    shared |= {"--steps=30", "--warm_up=10"}
    assert shared < set(report["ours"]["arguments"])
    assert set(report["theirs"]["eager"]["arguments"]) == shared | {
        f"--code={clone}",
        "--device=cuda",
    }


def test_comparison_without_a_mode_that_ran_fails(clone, tmp_path, monkeypatch, capsys):
    own = stub(tmp_path, "own", "print(json.dumps({'samples_per_s': 300.0}))")
    torch = stub(tmp_path, "torch", "print(json.dumps({'eager': {'error': 'out of memory'}}))")
    monkeypatch.setattr(sys, "executable", str(own))
    arguments = ["--peer=openshape-4", f"--code={clone}", f"--torch_python={torch}"]
    assert peers.main(arguments) == 1
    assert json.loads(capsys.readouterr().out)["ratio"] is None


def test_process_that_fails_is_an_error_with_its_command(clone, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "executable", str(stub(tmp_path, "own", "sys.exit(3)")))
    assert peers.main(["--peer=uni3d-b"]) == 2
    assert "--ours --peer=uni3d-b" in capsys.readouterr().err
