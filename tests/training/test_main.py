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


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--config", "configs/quickstart.py"], "--workdir"),
        (["--config", "configs/nothing.py", "--workdir", "w"], "configs/nothing.py"),
        (["--config", "configs/quickstart.py", "--workdir", "w", "stray"], "stray"),
        (
            ["--config", "configs/quickstart.py", "--workdir", "w", "--config.loss.lamda_intra=1"],
            "lamda_intra",
        ),
        (
            ["--config", "configs/quickstart.py", "--workdir", "w", "--config.data.directory=none"],
            "data_prep.build",
        ),
    ],
)
def test_error_before_the_run_is_named_and_writes_nothing(tmp_path, arguments, message):
    place = [a if a != "w" else str(tmp_path / "run") for a in arguments]
    done = subprocess.run(
        [*COMMAND, *place],
        capture_output=True,
        text=True,
        # Empty: JAX looks for every kind of device, and tells its log which it did not find.
        env=os.environ | {"JAX_PLATFORMS": ""},
    )
    assert done.returncode != 0
    assert message in done.stdout + done.stderr
    assert "backend" not in done.stderr
    assert not (tmp_path / "run").exists()


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


def test_importing_main_does_not_configure_jax():
    code = "import mrd_jax.main, jax; print(jax.config.jax_compilation_cache_dir)"
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert done.stdout == "None\n"
