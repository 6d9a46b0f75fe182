# SPDX-License-Identifier: Apache-2.0
"""Runs all tests on the CPU, as eight devices."""

import os
import pathlib
import shutil

os.environ["JAX_PLATFORMS"] = "cpu"
# gcsfs reads it when imported: else it asks for a bucket's type by gRPC, which emulators lack.
os.environ["GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT"] = "false"
# Solves are small: more threads than free cores slow them down.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Tests compile a lot and run it once, so the faster code generator is used, also by subprocesses.
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


# Files that take longest.
LONGEST = (
    "test_bucket.py",
    "test_train.py",
    "test_stopping.py",
    "test_step.py",
    "test_blockwise.py",
)


def pytest_collection_modifyitems(items):
    """Begins with the longest files, so that no process works alone at the end."""
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture
def shared_dir():
    """Folder with the developers' reference values; users of the project do not have it."""
    folder = pathlib.Path(__file__).parents[2] / "shared"
    if not (folder / "fixtures").is_dir():
        pytest.skip("the developers' shared/ folder is not beside this checkout")
    return folder


@pytest.fixture(scope="module")
def fast_compile():
    """Compiles without optimisations: compilation dominates tests of whole steps."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture
def without_curves(monkeypatch):
    """Leaves the curves out of reports: drawing takes half of the time of a run of a few steps."""
    monkeypatch.setattr("mrd_jax.report.figures.draw_curves", lambda history: [])


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """Folder of a data set that is built once per session; do not change it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        return run_build(tmp_path_factory.mktemp("made"), monkeypatch)[0]


@pytest.fixture
def copied(made, tmp_path):
    """Copy of the output folder of the build, which a test may change."""
    return shutil.copytree(made.parents[1], tmp_path / "copy")


@pytest.fixture(scope="session", autouse=True)
def shared_compilation_cache(tmp_path_factory):
    """Persistent compilation cache of this session, shared by its workers."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    jax.config.update("jax_compilation_cache_dir", str(folder / "compiled"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


@pytest.fixture(scope="module", autouse=True)
def bounded_memory():
    """Frees compiled programs after a module that leaves the worker with more than 2 GiB."""
    yield
    if resident_bytes() > 2 * 2**30:
        jax.clear_caches()


def resident_bytes() -> int:
    """Returns the memory of this process; 0 where the system has no /proc."""
    try:
        pages = pathlib.Path("/proc/self/statm").read_text().split()[1]
    except FileNotFoundError:
        return 0
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
