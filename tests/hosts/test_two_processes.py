# SPDX-License-Identifier: Apache-2.0
"""Several processes are one run: the same numbers, one end for all, and any other number goes on.

The slow ones: `make test_slow`.
"""

import shutil
import signal
import time

import hosts_run
import jax
import numpy as np
import pytest
from made_up import run_build
from processes import rows, start
from tiny import assert_trees_close, assert_trees_equal

from mrd_jax import encoder
from mrd_jax.checkpoints import paths, restore
from mrd_jax.report import final
from mrd_jax.training import run as run_lib
from mrd_jax.training import train

BACKENDS = ("pmap", "shard_map")
STEPS = 12
# Sums over devices in another order, carried on through the steps.
RTOL = 1e-5
# What does not change the numbers, and costs time.
PLAIN = {"checkpoint_every": 100, "data.test_split": ""}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """40 shapes of 96 points."""
    with pytest.MonkeyPatch.context() as patch:
        return run_build(tmp_path_factory.mktemp("built"), patch, points=96)[0]


def config_for(data, fields=()):
    config = hosts_run.get_config()
    config.update_from_flattened_dict({"data.directory": str(data)} | dict(fields))
    return config


@pytest.fixture(scope="module")
def straight(data, tmp_path_factory, fast_compile):
    """The run of one process and eight devices that nobody disturbs."""
    workdir = tmp_path_factory.mktemp("straight") / "run"
    train.train_and_evaluate(config_for(data, PLAIN), str(workdir))
    return workdir


def losses(workdir):
    """The loss of every step, by step."""
    found = rows(workdir, "train/loss")
    assert [row["step"] for row in found] == list(range(1, len(found) + 1))
    return [row["train/loss"] for row in found]


def evaluations(workdir):
    return {
        row["step"]: {name: value for name, value in row.items() if name.startswith("test/")}
        for row in rows(workdir, "test/top1")
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


def assert_same_run(data, found, wanted):
    """Losses and parameters within float rounding."""
    assert losses(found) == pytest.approx(losses(wanted), rel=RTOL)
    states = final_state(data, found), final_state(data, wanted)
    assert_trees_close(states[0].params, states[1].params, rtol=1e-4)


def assert_equal_runs(data, found, wanted):
    """The same, bit for bit."""
    assert losses(found) == losses(wanted)
    assert_trees_equal(final_state(data, found), final_state(data, wanted))


def stop(group, *, process, number, after):
    """Asks one process to stop after this step; returns the step that both saved."""
    group.reach(after)
    group.processes[process].send_signal(number)
    group.finish()
    step = int(paths.newest(group.workdir).name)
    assert after <= step < STEPS
    for index in range(len(group.processes)):
        assert f"stopped at step {step} by a preemption notice" in group.log(index)
    return step


def test_one_of_two_processes_is_asked_to_stop_and_one_process_goes_on(data, straight, tmp_path):
    """Process 1 gets the signal, process 0 does the writing, eight devices of one continue."""
    group = start(tmp_path / "run", data)
    step = stop(group, process=1, number=signal.SIGTERM, after=2)
    workdir = group.workdir
    assert len(losses(workdir)) == step and not (workdir / "results.json").exists()
    assert losses(workdir) == pytest.approx(losses(straight)[:step], rel=RTOL)
    assert {row["train/data_wait_process"] for row in rows(workdir, "train/loss")} <= {0, 1}

    newest = paths.newest(workdir)
    assert restore.student_of_step(newest).verify() == len(restore.read_manifest(newest)["leaves"])
    assert encoder.load(workdir).card.teacher == "fake/teacher"

    # Under the other backend, which is neutral, too.
    train.train_and_evaluate(config_for(data, PLAIN | {"spmd": "shard_map"}), str(workdir))
    assert_same_run(data, workdir, straight)


@pytest.fixture(scope="module", params=BACKENDS)
def two(request, data, tmp_path_factory):
    """The undisturbed run of two processes, under each backend."""
    flags = (f"--config.spmd={request.param}", "--config.checkpoint_every=100")
    group = start(tmp_path_factory.mktemp("two") / request.param, data, *flags)
    group.finish()
    return group


@pytest.mark.slow
def test_two_processes_of_four_devices_are_one_of_eight(data, straight, two):
    assert_same_run(data, two.workdir, straight)
    assert "wrote" in two.log(0) and "wrote" not in two.log(1)
    files = {path.name for path in two.workdir.iterdir()}
    assert files == {
        *("checkpoints", "embeddings.npz", "finished", "metrics.jsonl", "report.html"),
        *("relations", "results.json", "run.json", "tensorboard"),
    }


@pytest.mark.slow
def test_a_checkpoint_is_evaluated_alike_by_one_process_and_by_two(data, two, tmp_path):
    wanted = final.load_embeddings(two.workdir)
    for count in (1, 2):
        again = shutil.copytree(two.workdir, tmp_path / str(count))
        (again / "embeddings.npz").unlink()
        start(again, data, "--mode=eval", processes=count).finish()
        found = final.load_embeddings(again)
        for split in ("train", "test"):
            np.testing.assert_array_equal(found[f"{split}_ids"], wanted[f"{split}_ids"])
            np.testing.assert_allclose(found[split], wanted[split], atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("process, number", [(0, signal.SIGTERM), (1, signal.SIGINT)])
def test_two_processes_that_were_stopped_go_on_bit_for_bit(data, two, tmp_path, process, number):
    flags = (f"--config.spmd={two.workdir.name}",)
    stop(start(tmp_path / "run", data, *flags), process=process, number=number, after=3)
    start(tmp_path / "run", data, *flags).finish()
    assert_equal_runs(data, tmp_path / "run", two.workdir)
    assert evaluations(tmp_path / "run") == evaluations(two.workdir)


@pytest.mark.slow
@pytest.mark.parametrize("spmd", BACKENDS)
def test_a_run_goes_on_with_fewer_devices_and_with_more_processes(data, straight, tmp_path, spmd):
    """Eight devices, four, one, then two processes of two."""
    workdir, flags = tmp_path / "run", (f"--config.spmd={spmd}",)
    for after, devices in ((2, 8), (5, 4), (8, 1)):
        group = start(workdir, data, *flags, processes=1, devices=devices)
        group.reach(after)
        group.processes[0].send_signal(signal.SIGTERM)
        group.finish()
        assert after <= int(paths.newest(workdir).name) < STEPS
    start(workdir, data, *flags, devices=2).finish()
    assert_same_run(data, workdir, straight)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_set_aside_once_for_all(data, two, tmp_path):
    flags = (f"--config.spmd={two.workdir.name}",)
    step = stop(start(tmp_path / "run", data, *flags), process=0, number=signal.SIGTERM, after=3)
    folder = tmp_path / "run" / "checkpoints" / str(step)
    file = max(folder.rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)

    group = start(tmp_path / "run", data, *flags)
    group.finish()
    for process in (0, 1):
        assert f"continuing {tmp_path / 'run'} at step {step - 1}" in group.log(process)
    assert [path.name for path in (tmp_path / "run" / "corrupt").iterdir()] == [str(step)]
    assert_equal_runs(data, tmp_path / "run", two.workdir)


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_when_a_process_dies_the_other_ends_and_both_can_be_started_again(data, tmp_path, killed):
    group = start(tmp_path / "run", data, "--heartbeat_timeout=10")
    group.reach(3)
    group.processes[killed].kill()
    died = time.monotonic()
    statuses = group.wait()
    assert time.monotonic() - died < 60
    assert statuses[killed] == -signal.SIGKILL and statuses[1 - killed] != 0
    start(tmp_path / "run", data).finish()
    assert len(losses(tmp_path / "run")) == STEPS


@pytest.mark.slow
def test_a_process_that_is_stuck_does_not_hold_the_other_for_ever(data, tmp_path):
    group = start(tmp_path / "run", data, "--heartbeat_timeout=10")
    group.reach(3)
    group.processes[1].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    assert group.processes[0].wait(timeout=120) != 0
    assert time.monotonic() - began < 60
    group.processes[1].kill()
    group.wait()


@pytest.mark.slow
def test_processes_with_different_configs_are_refused_before_anything_is_written(data, tmp_path):
    other = (["--config.loss.lambda_intra=0.5"], [])
    group = start(tmp_path / "run", data, "--heartbeat_timeout=10", own_flags=other)
    assert all(group.wait())
    # Whoever is first to say so may end the other before it could.
    message = "config.loss.lambda_intra: 0.5 on process 0, 1.0 on process 1"
    assert message in group.log()
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_process_without_its_data_ends_the_other(data, tmp_path):
    other = ([], ["--config.data.directory=nowhere"])
    group = start(tmp_path / "run", data, "--heartbeat_timeout=10", own_flags=other)
    assert all(group.wait())
    assert "no data set in 'nowhere'" in group.log(1)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_hosts_without_a_common_workdir_are_refused(data, tmp_path):
    other = ([], [f"--workdir={tmp_path / 'elsewhere'}"])
    group = start(tmp_path / "run", data, "--heartbeat_timeout=10", own_flags=other)
    assert all(group.wait())
    assert "a file system that all hosts share" in group.log(1)
    assert not (tmp_path / "elsewhere").exists()
