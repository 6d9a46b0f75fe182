# SPDX-License-Identifier: Apache-2.0
"""One test machine for everybody: the CPU, seen as eight devices."""

import os
import pathlib
import shutil

os.environ["JAX_PLATFORMS"] = "cpu"
# Small solves only: more threads than free cores make them wait for one another.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Tests compile much and run it once: the code generator that is quick, here and in what they start.
os.environ["XLA_FLAGS"] = " ".join(
    [
        os.environ.get("XLA_FLAGS", ""),
        "--xla_cpu_use_fusion_emitters=false",
        "--xla_cpu_parallel_codegen_split_count=1",
    ]
)

import jax
import pytest
from fake_data import run_build

jax.config.update("jax_num_cpu_devices", 8)


@pytest.fixture
def shared_dir():
    """Folder with the developers' reference figures; users of the project do not have it."""
    folder = pathlib.Path(__file__).parents[2] / "shared"
    if not (folder / "fixtures").is_dir():
        pytest.skip("the developers' shared/ folder is not beside this checkout")
    return folder


@pytest.fixture(scope="module")
def fast_compile():
    """For tests of whole steps: compiling dominates them, and they compare equals with equals."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """The folder of a data set, built once; read only."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return run_build(tmp_path_factory.mktemp("made"), monkeypatch)[0]


@pytest.fixture
def copied(made, tmp_path):
    """A copy of everything that the build left, to change."""
    return shutil.copytree(made.parents[1], tmp_path / "copy")
