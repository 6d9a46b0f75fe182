# SPDX-License-Identifier: Apache-2.0
"""Which steps are recorded."""

import jax
import jax.numpy as jnp
import pytest

from mrd_jax.training import profiling


@pytest.fixture
def recorded(monkeypatch):
    """What the profiler is told, in order."""
    told = []
    monkeypatch.setattr(jax.profiler, "start_trace", lambda folder: told.append(folder))
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: told.append("stop"))
    return told


def run(profile, *, steps, told):
    for done in range(steps):
        profile.before(done, state=None)
        told.append(done)


def test_the_sixth_and_seventh_step_are_recorded(recorded):
    run(profiling.Profile("w", steps=2), steps=9, told=recorded)
    assert recorded == [0, 1, 2, 3, 4, "w/tensorboard", 5, 6, "stop", 7, 8]


def test_a_run_that_ends_early_ends_its_recording_once(recorded):
    with profiling.Profile("w", steps=20) as profile:
        run(profile, steps=7, told=recorded)
    assert recorded == [0, 1, 2, 3, 4, "w/tensorboard", 5, 6, "stop"]


def test_by_default_nothing_is_recorded(recorded):
    run(profiling.Profile("w", steps=0), steps=7, told=recorded)
    assert recorded == list(range(7))


def test_a_recording_is_a_file_for_tensorboard(tmp_path):
    profile = profiling.Profile(str(tmp_path), steps=1)
    for done in range(profiling.AFTER + 2):
        profile.before(done, state=jnp.ones(8) @ jnp.ones(8))
    assert list(tmp_path.glob("tensorboard/plugins/profile/*/*.xplane.pb"))
