# SPDX-License-Identifier: Apache-2.0
"""Command line of training: errors before the run, and the compilation cache."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache as jax_cache

from mrd_jax.distributed import compilation_cache

COMMAND = [sys.executable, "-m", "mrd_jax.main"]


def test_error_before_the_run_is_named_and_writes_nothing(tmp_path):
    """Other mistakes: `tests/project/test_mistakes.py`."""
    workdir = tmp_path / "run"
    command = [*COMMAND, "--config", "configs/quickstart.py", "--workdir", str(workdir)]
    done = subprocess.run(
        [*command, "--config.data.directory=none"],
        capture_output=True,
        text=True,
        # Empty: JAX looks for every kind of device, and tells its log which it did not find.
        env=os.environ | {"JAX_PLATFORMS": ""},
    )
    assert done.returncode == 2
    assert "data_prep.build" in done.stderr
    assert "backend" not in done.stderr
    assert not workdir.exists()


@pytest.fixture
def cache(monkeypatch, tmp_path):
    """The user's cache folder; every compiled program is cached."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    before = {
        name: getattr(jax.config, name)
        for name in ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    }
    jax.config.update("jax_compilation_cache_dir", None)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0)
    jax_cache.reset_cache()
    yield tmp_path
    for name, value in before.items():
        jax.config.update(name, value)
    jax_cache.reset_cache()


def kept(folder):
    """Compiles a program and returns the names of the cached programs."""
    jax.jit(lambda x: jnp.cos(x) + len(str(folder)))(jnp.ones(3)).block_until_ready()
    return [path.name for path in folder.rglob("*-cache")]


def test_compiled_programs_are_cached_in_the_users_cache_folder(cache):
    compilation_cache.enable()
    assert kept(cache / "mrd_jax" / "compiled")


def test_another_cache_folder_is_used_if_jax_is_configured_with_one(cache):
    """JAX reads JAX_COMPILATION_CACHE_DIR into this setting."""
    jax.config.update("jax_compilation_cache_dir", str(cache / "own"))
    compilation_cache.enable()
    assert kept(cache / "own") and not (cache / "mrd_jax").exists()
