# SPDX-License-Identifier: Apache-2.0
"""A run that is killed anywhere ends as the run that nobody disturbed, bit for bit."""

import functools
import random
import signal
import time

import pytest
from harness import PATIENCE, Runs, kill_anywhere, kill_in_a_save
from made_up import run_build

from mrd_jax.data import source


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A data set of 96 points a shape, and a cache of compiled steps."""
    with pytest.MonkeyPatch.context() as patch:
        data, _ = run_build(tmp_path_factory.mktemp("built"), patch, points=96)
    assert source.read_metadata(data)["points"] == 96
    return {"data": data, "cache": tmp_path_factory.mktemp("compiled")}


@pytest.fixture(scope="module")
def straight(folders, tmp_path_factory):
    """Gives the run of so many steps that nobody disturbs."""

    @functools.cache
    def run(steps):
        runs = Runs(tmp_path_factory.mktemp("straight") / "run", **folders, steps=steps)
        runs.finish()
        return runs

    return run


def disturb(runs, *, saves, elsewhere):
    """Kills the command so often in saves and elsewhere, in random order; prints the seed."""
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


def ask_to_stop(runs, *, after):
    """Sends SIGTERM once a step has been reached."""
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


def test_a_few_kills_change_nothing(folders, straight, tmp_path):
    runs = Runs(tmp_path / "run", **folders, steps=24)
    killed = disturb(runs, saves=3, elsewhere=2)
    runs.finish()
    check(runs, straight(24))
    assert killed[kill_anywhere] == 2 and killed[kill_in_a_save] >= 2


@pytest.mark.slow
def test_thirty_kills_change_nothing(folders, straight, tmp_path):
    runs = Runs(tmp_path / "run", **folders, steps=60)
    killed = disturb(runs, saves=15, elsewhere=15)
    print(killed)
    runs.finish()
    check(runs, straight(60))
    assert killed[kill_anywhere] == 15 and killed[kill_in_a_save] >= 10


@pytest.mark.slow
def test_a_full_disk_stops_the_run_and_costs_nothing_that_was_saved(folders, straight, tmp_path):
    runs = Runs(tmp_path / "run", **folders, steps=60)
    ask_to_stop(runs, after=7)
    saved = runs.checksums()
    process = runs.start(file_limit=100_000)  # a checkpoint has files of 200,000
    assert process.wait(timeout=PATIENCE) not in (0, -signal.SIGKILL)
    assert "File too large" in runs.log()
    assert runs.checksums() == saved
    runs.finish()
    check(runs, straight(60))


@pytest.mark.slow
def test_a_request_to_stop_is_heeded_in_the_middle(folders, straight, tmp_path):
    runs = Runs(tmp_path / "run", **folders, steps=60)
    ask_to_stop(runs, after=7)
    assert "by SIGTERM; everything is saved" in runs.log()
    runs.finish()
    check(runs, straight(60))
