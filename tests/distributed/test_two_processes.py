# SPDX-License-Identifier: Apache-2.0
"""Multi-process runs match single-process ones, and stop, fail and restart together.

Most of these tests are slow: `make test_slow` runs them.
"""

import platform
import re
import shutil
import signal
import time

import jax
import multi_process_config
import numpy as np
import pytest
from fake_data import run_build
from process_group import metric_rows, start
from tiny import assert_trees_close, assert_trees_equal

from mrd_jax import encoder
from mrd_jax.checkpoints import paths, restore
from mrd_jax.report import final
from mrd_jax.training import run as run_lib
from mrd_jax.training import train

BACKENDS = ("pmap", "shard_map")
STEPS = 12
# Float32 sums over devices in another order, accumulated over the steps.
RTOL = 1e-5
# Saves and evaluations that cost time and do not change the result.
FEW_SAVES = {"checkpoint_every": 100, "data.test_split": ""}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Data set of 40 shapes with 96 points."""
    with pytest.MonkeyPatch.context() as patch:
        return run_build(tmp_path_factory.mktemp("built"), patch, points=96)[0]


def config_for(data, fields=()):
    config = multi_process_config.get_config()
    config.update_from_flattened_dict({"data.directory": str(data)} | dict(fields))
    return config


@pytest.fixture(scope="module")
def uninterrupted(data, tmp_path_factory, fast_compile):
    """Workdir of an uninterrupted run of one process with eight devices."""
    workdir = tmp_path_factory.mktemp("uninterrupted") / "run"
    train.train_and_evaluate(config_for(data, FEW_SAVES), str(workdir))
    return workdir


def losses(workdir):
    """Returns the loss of every step, in order."""
    rows = metric_rows(workdir, "train/loss")
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
    return [row["train/loss"] for row in rows]


def evaluations(workdir):
    return {
        row["step"]: {name: value for name, value in row.items() if name.startswith("test/")}
        for row in metric_rows(workdir, "test/top1")
    }


def final_state(data, workdir):
    run = run_lib.build_run(config_for(data), devices=jax.devices()[:1])
    checkpoints = run_lib.open_checkpoints(
        config_for(data), str(workdir), run_lib.open_data(config_for(data)), read_only=True
    )
    state = jax.device_get(checkpoints.restore(run.initial_state()))
    checkpoints.close()
    assert int(state.step) == STEPS
    return state


def assert_close_runs(data, found, wanted):
    """Compares losses and parameters up to float rounding."""
    assert losses(found) == pytest.approx(losses(wanted), rel=RTOL)
    states = final_state(data, found), final_state(data, wanted)
    assert_trees_close(states[0].params, states[1].params, rtol=1e-4)


def assert_equal_runs(data, found, wanted):
    """Compares losses and states bit for bit."""
    assert losses(found) == losses(wanted)
    assert_trees_equal(final_state(data, found), final_state(data, wanted))


def stop(group, *, process, number, after):
    """Sends a signal to one process after a step; returns the step of the last checkpoint."""
    group.wait_for_step(after)
    group.processes[process].send_signal(number)
    group.wait_for_success()
    step = int(paths.newest(group.workdir).name)
    assert after <= step < STEPS
    for index in range(len(group.processes)):
        assert f"stopped at step {step} by a preemption notice" in group.log(index)
    return step


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_and_a_single_process_continues(
    data, uninterrupted, tmp_path
):
    """Process 1 receives the signal; then one process with eight devices continues the run."""
    group = start(tmp_path / "run", data)
    step = stop(group, process=1, number=signal.SIGTERM, after=2)
    workdir = group.workdir
    assert len(losses(workdir)) == step and not (workdir / "results.json").exists()
    assert losses(workdir) == pytest.approx(losses(uninterrupted)[:step], rel=RTOL)
    assert {row["train/data_wait_process"] for row in metric_rows(workdir, "train/loss")} <= {0, 1}

    newest = paths.newest(workdir)
    assert restore.student_of_step(newest).verify() == len(restore.read_manifest(newest)["leaves"])
    assert encoder.load(workdir).card.teacher == "fake/teacher"

    # Under the other backend, because `spmd` may differ in a continuation.
    train.train_and_evaluate(config_for(data, FEW_SAVES | {"spmd": "shard_map"}), str(workdir))
    assert_close_runs(data, workdir, uninterrupted)


@pytest.fixture(scope="module", params=BACKENDS)
def two_process_run(request, data, tmp_path_factory):
    """Uninterrupted run of two processes, under each backend."""
    flags = (f"--config.spmd={request.param}", "--config.checkpoint_every=100")
    group = start(tmp_path_factory.mktemp("two_processes") / request.param, data, *flags)
    group.wait_for_success()
    return group


@pytest.mark.slow
def test_two_processes_of_four_devices_match_one_process_of_eight(
    data, uninterrupted, two_process_run
):
    assert_close_runs(data, two_process_run.workdir, uninterrupted)
    assert "wrote" in two_process_run.log(0) and "wrote" not in two_process_run.log(1)
    files = {path.name for path in two_process_run.workdir.iterdir()}
    assert files == {
        *("checkpoints", "embeddings.npz", "finished", "metrics.jsonl", "report.html"),
        *("relations", "results.json", "run.json", "tensorboard"),
    }


@pytest.mark.slow
def test_one_process_and_two_evaluate_a_checkpoint_alike(data, two_process_run, tmp_path):
    wanted = final.load_embeddings(two_process_run.workdir)
    for count in (1, 2):
        copy = shutil.copytree(two_process_run.workdir, tmp_path / str(count))
        (copy / "embeddings.npz").unlink()
        start(copy, data, "--mode=eval", processes=count).wait_for_success()
        found = final.load_embeddings(copy)
        for split in ("train", "test"):
            np.testing.assert_array_equal(found[f"{split}_ids"], wanted[f"{split}_ids"])
            np.testing.assert_allclose(found[split], wanted[split], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("process, number", [(0, signal.SIGTERM), (1, signal.SIGINT)])
def test_two_stopped_processes_continue_bit_for_bit(
    data, two_process_run, tmp_path, process, number
):
    flags = (f"--config.spmd={two_process_run.workdir.name}",)
    stop(start(tmp_path / "run", data, *flags), process=process, number=number, after=3)
    start(tmp_path / "run", data, *flags).wait_for_success()
    assert_equal_runs(data, tmp_path / "run", two_process_run.workdir)
    assert evaluations(tmp_path / "run") == evaluations(two_process_run.workdir)


@pytest.mark.slow
@pytest.mark.parametrize("spmd", BACKENDS)
def test_a_run_continues_with_fewer_devices_and_with_more_processes(
    data, uninterrupted, tmp_path, spmd
):
    """Eight devices, four, one, then two processes of two."""
    workdir, flags = tmp_path / "run", (f"--config.spmd={spmd}",)
    for after, devices in ((2, 8), (5, 4), (8, 1)):
        group = start(workdir, data, *flags, processes=1, devices=devices)
        group.wait_for_step(after)
        group.processes[0].send_signal(signal.SIGTERM)
        group.wait_for_success()
        assert after <= int(paths.newest(workdir).name) < STEPS
    start(workdir, data, *flags, devices=2).wait_for_success()
    assert_close_runs(data, workdir, uninterrupted)


@pytest.mark.slow
def test_a_corrupt_checkpoint_is_moved_away_once_for_both_processes(
    data, two_process_run, tmp_path
):
    flags = (f"--config.spmd={two_process_run.workdir.name}",)
    step = stop(start(tmp_path / "run", data, *flags), process=0, number=signal.SIGTERM, after=3)
    folder = tmp_path / "run" / "checkpoints" / str(step)
    file = max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

    group = start(tmp_path / "run", data, *flags)
    group.wait_for_success()
    for process in (0, 1):
        assert f"restored the checkpoint of step {step - 1}" in group.log(process)
    assert [path.name for path in (tmp_path / "run" / "corrupt").iterdir()] == [str(step)]
    assert_equal_runs(data, tmp_path / "run", two_process_run.workdir)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_the_death_of_a_process_ends_the_other_and_both_can_restart(data, tmp_path, killed):
    group = start(tmp_path / "run", data, "--heartbeat_timeout=10")
    group.wait_for_step(3)
    group.processes[killed].kill()
    died = time.monotonic()
    statuses = group.wait()
    assert time.monotonic() - died < 60
    assert statuses[killed] == -signal.SIGKILL and statuses[1 - killed] != 0
    start(tmp_path / "run", data).wait_for_success()
    assert len(losses(tmp_path / "run")) == STEPS


@pytest.mark.slow
def test_a_hanging_process_ends_the_other(data, tmp_path):
    group = start(tmp_path / "run", data, "--heartbeat_timeout=10")
    group.wait_for_step(3)
    group.processes[1].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert group.processes[0].wait(timeout=120) != 0
    assert time.monotonic() - began < 60
    group.processes[1].kill()
    group.wait()


@pytest.mark.slow
def test_processes_with_different_configs_are_rejected_before_anything_is_written(data, tmp_path):
    other = (["--config.loss.lambda_intra=0.5"], [])
    group = start(tmp_path / "run", data, "--heartbeat_timeout=10", own_flags=other)
    assert all(group.wait())
    # The first process to fail may end the other before it has printed the error.
    host = platform.node()
    message = f"lambda_intra: 0.5 on process 0 (host {host}), 1.0 on process 1 (host {host})"
    assert message in group.log()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_host_with_other_packages_or_variables_is_named_before_the_first_step(data, tmp_path):
    """Process 1 finds another version of optax first."""
    other = tmp_path / "site" / "optax-0.0.1.dist-info"
    other.mkdir(parents=True)
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: optax\nVersion: 0.0.1\n")
    own = ({}, {"PYTHONPATH": str(tmp_path / "site"), "LIBTPU_INIT_ARGS": "--a"})
    group = start(tmp_path / "run", data, "--heartbeat_timeout=10", own_environment=own)
    assert all(group.wait())
    log, host = group.log(), platform.node()
    assert re.search(
        rf"package optax: '0\.\d.* on process 0 .*'0.0.1' on process 1 .host {host}", log
    )
    assert "variable LIBTPU_INIT_ARGS: '' on process 0" in log
    assert "pip install -c constraints.txt" in log
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_process_without_data_ends_the_other(data, tmp_path):
    other = ([], ["--config.data.directory=nowhere"])
    group = start(tmp_path / "run", data, "--heartbeat_timeout=10", own_flags=other)
    assert all(group.wait())
    assert "no data set in 'nowhere'" in group.log(1)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_hosts_without_a_shared_workdir_are_rejected(data, tmp_path):
    other = ([], [f"--workdir={tmp_path / 'elsewhere'}"])
    group = start(tmp_path / "run", data, "--heartbeat_timeout=10", own_flags=other)
    assert all(group.wait())
    assert "a file system that all hosts share" in group.log(1)
    assert not (tmp_path / "elsewhere").exists()
