# SPDX-License-Identifier: Apache-2.0
"""`config.deterministic`: XLA's flags, contradictions, and the autotuning cache."""

import os
import subprocess
import sys

import jax
import pytest
from tiny import tiny_config

from mrd_jax.distributed import compilation_cache, determinism
from mrd_jax.training import run

FLAG = "--xla_gpu_deterministic_ops=true"


@pytest.mark.parametrize(
    "before, after",
    [
        (None, FLAG),
        ("--xla_a=1", f"--xla_a=1 {FLAG}"),
        (FLAG, FLAG),
        ("--xla_gpu_deterministic_ops", "--xla_gpu_deterministic_ops"),
        (f"--xla_gpu_deterministic_ops=0 {FLAG}", f"--xla_gpu_deterministic_ops=0 {FLAG}"),
    ],
)
def test_the_flag_is_added_once(before, after):
    environ = {} if before is None else {"XLA_FLAGS": before}
    determinism.enable(environ)
    assert environ == {"XLA_FLAGS": after}
    determinism.check(environ)


@pytest.mark.parametrize(
    "flags, message",
    [
        (f"{FLAG} --xla_gpu_deterministic_ops=false", "--xla_gpu_deterministic_ops=false"),
        ("--xla_gpu_exclude_nondeterministic_ops=0", "--xla_gpu_exclude_nondeterministic_ops"),
        ("/flags.txt", "a file"),
    ],
)
def test_contradictions_are_errors(flags, message):
    with pytest.raises(ValueError, match=message):
        determinism.enable({"XLA_FLAGS": flags})


def test_a_run_on_gpus_needs_the_flag_before_jax_starts(monkeypatch):
    class Gpu:
        platform = "gpu"

    monkeypatch.setenv("XLA_FLAGS", "")
    with pytest.raises(ValueError, match="lacks --xla_gpu_deterministic_ops=true"):
        run.build_run(tiny_config(deterministic=True), devices=[Gpu()])
    run.build_run(tiny_config(deterministic=True), devices=jax.devices()[:1])


def test_xla_knows_the_flags():
    """XLA ends a process that has an unknown flag."""
    environ = os.environ | {"XLA_FLAGS": FLAG, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-c", "import jax; print(int(jax.numpy.ones(2).sum()))"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True)
    assert done.stdout == "2\n", done.stderr


def test_the_autotuning_cache_is_beside_the_compilation_cache_unless_that_is_a_bucket(monkeypatch):
    name = "jax_persistent_cache_enable_xla_caches"
    before, folder = getattr(jax.config, name), jax.config.jax_compilation_cache_dir
    assert before == "xla_gpu_per_fusion_autotune_cache_dir"
    try:
        compilation_cache.enable()
        assert getattr(jax.config, name) == before
        jax.config.update("jax_compilation_cache_dir", "gs://bucket/compiled")
        compilation_cache.enable()
        assert getattr(jax.config, name) == "none"
    finally:
        jax.config.update("jax_compilation_cache_dir", folder)
        jax.config.update(name, before)
