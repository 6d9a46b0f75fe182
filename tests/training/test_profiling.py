# SPDX-License-Identifier: Apache-2.0
"""The steps that are recorded for the profiler."""

import jax
import jax.numpy as jnp
import pytest

from mrd_jax.training import profiling


@pytest.fixture
def recorded(monkeypatch, tmp_path):
    """Calls of the profiler, in order; folders relative to the working directory."""
    calls = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        jax.profiler,
        "start_trace",
        lambda folder: calls.append(folder.removeprefix(f"{tmp_path}/")),
    )
    monkeypatch.setattr(jax.profiler, "stop_trace", lambda: calls.append("stop"))
    return calls


def run(profile, *, steps, calls):
    for done in range(steps):
        profile.before(done, state=None)
        calls.append(done)


def test_sixth_and_seventh_step_are_recorded(recorded):
    run(profiling.Profile("w", steps=2), steps=9, calls=recorded)
    assert recorded == [0, 1, 2, 3, 4, "w/tensorboard", 5, 6, "stop", 7, 8]


def test_run_that_ends_early_stops_the_recording_once(recorded):
    with profiling.Profile("w", steps=20) as profile:
        run(profile, steps=7, calls=recorded)
    assert recorded == [0, 1, 2, 3, 4, "w/tensorboard", 5, 6, "stop"]


def test_nothing_is_recorded_by_default(recorded):
    run(profiling.Profile("w", steps=0), steps=7, calls=recorded)
    assert recorded == list(range(7))


def test_recording_is_written_for_tensorboard(tmp_path):
    profile = profiling.Profile(str(tmp_path), steps=1)
    for done in range(profiling.AFTER + 2):
        profile.before(done, state=jnp.ones(8) @ jnp.ones(8))
    assert list(tmp_path.glob("tensorboard/plugins/profile/*/*.xplane.pb"))
