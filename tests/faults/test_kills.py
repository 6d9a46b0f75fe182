# SPDX-License-Identifier: Apache-2.0
"""A run that is killed at any moment ends like an uninterrupted one, bit for bit."""

import functools
import random
import signal
import time

import pytest
from fake_data import run_build
from harness import PATIENCE, Runs, kill_anywhere, kill_in_a_save

from mrd_jax.data import dataset_metadata


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data set of 96 points per shape, and a compilation cache."""
    with pytest.MonkeyPatch.context() as patch:
        data, _ = run_build(tmp_path_factory.mktemp("built"), patch, points=96)
    assert dataset_metadata.read(data)["points"] == 96
    return {"data": data, "cache": tmp_path_factory.mktemp("compiled")}


@pytest.fixture(scope="module")
def straight(folders, tmp_path_factory):
    """Returns the uninterrupted run of a number of steps."""

    @functools.cache
    def run(steps):
        runs = Runs(tmp_path_factory.mktemp("straight") / "run", **folders, steps=steps)
        runs.finish()
        return runs

    return run


def kill_repeatedly(runs, *, saves, elsewhere):
    """Kills the command a number of times in saves and elsewhere, in random order."""
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    plan = [kill_in_a_save] * saves + [kill_anywhere] * elsewhere
    rng.shuffle(plan)
    killed = dict.fromkeys(plan, 0)
    for number, kill in enumerate(plan):
        # So that the run cannot end before the last kill.
        ahead = (runs.steps - 4 - runs.step()) // (len(plan) - number)
        killed[kill] += kill(runs, rng, ahead=min(ahead, 6))
    return killed


def send_sigterm(runs, *, after):
    """Sends SIGTERM when the run has reached a step."""
    process = runs.start()
    while runs.step() < after and process.poll() is None:
        time.sleep(0.002)
    process.terminate()
    assert process.wait(timeout=PATIENCE) == 0


def check(runs, straight):
    assert runs.step() == straight.step() == runs.steps
    assert runs.checksums() == straight.checksums()
    assert runs.curve() == straight.curve()
    assert not runs.saving()
    assert not (runs.workdir / "corrupt").exists()


@pytest.mark.slow
def test_few_kills_change_nothing(folders, straight, tmp_path):
    runs = Runs(tmp_path / "run", **folders, steps=24)
    killed = kill_repeatedly(runs, saves=3, elsewhere=2)
    runs.finish()
    check(runs, straight(24))
    assert killed[kill_anywhere] == 2 and killed[kill_in_a_save] >= 2


@pytest.mark.slow
def test_thirty_kills_change_nothing(folders, straight, tmp_path):
    runs = Runs(tmp_path / "run", **folders, steps=60)
    killed = kill_repeatedly(runs, saves=15, elsewhere=15)
    print(killed)
    runs.finish()
    check(runs, straight(60))
    assert killed[kill_anywhere] == 15 and killed[kill_in_a_save] >= 10


@pytest.mark.slow
def test_full_disk_stops_the_run_and_loses_no_checkpoint(folders, straight, tmp_path):
    runs = Runs(tmp_path / "run", **folders, steps=60)
    send_sigterm(runs, after=7)
    saved = runs.checksums()
    process = runs.start(file_limit=100_000)  # a checkpoint has files of 200,000
    assert process.wait(timeout=PATIENCE) not in (0, -signal.SIGKILL)
    assert "File too large" in runs.log()
    assert runs.checksums() == saved
    runs.finish()
    check(runs, straight(60))


@pytest.mark.slow
def test_sigterm_shuts_the_run_down_gracefully(folders, straight, tmp_path):
    runs = Runs(tmp_path / "run", **folders, steps=60)
    send_sigterm(runs, after=7)
    assert "by SIGTERM; a checkpoint is saved" in runs.log()
    runs.finish()
    check(runs, straight(60))
