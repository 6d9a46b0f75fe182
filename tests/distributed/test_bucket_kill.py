# SPDX-License-Identifier: Apache-2.0
"""Two processes that train into a bucket, one of which is killed while they save."""

import signal
import time

import bucket
import pytest
from fake_data import run_build
from process_group import metric_rows, start

from mrd_jax import storage
from mrd_jax.checkpoints import paths, restore

FLAGS = ("--heartbeat_timeout=10", "--config.data.test_split=")
STEPS = 12


@pytest.fixture(scope="module")
def url():
    """An empty bucket."""
    with bucket.emulated() as url:
        yield url


@pytest.fixture(scope="module")
def data(url, tmp_path_factory):
    """Local folder of a data set that is in the bucket, too."""
    with pytest.MonkeyPatch.context() as patch:
        output = tmp_path_factory.mktemp("built")
        return run_build(output, patch, points=96, upload=storage.path(f"{url}/data"))[0]


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    """Workdir, on this machine, of a run of two processes that nothing interrupts."""
    group = start(tmp_path_factory.mktemp("undisturbed") / "run", data, *FLAGS)
    group.wait_for_success()
    return group.workdir


def checksums(workdir):
    leaves = restore.read_manifest(paths.newest(workdir))["leaves"]
    return {path: leaf["checksum"] for path, leaf in leaves.items()}


def losses(workdir):
    return [(row["step"], row["train/loss"]) for row in metric_rows(workdir, "train/loss")]


@pytest.mark.slow
@pytest.mark.parametrize("killed", [0, 1])
def test_a_process_killed_in_a_save_to_a_bucket_changes_nothing(
    url, data, undisturbed, tmp_path, killed
):
    workdir = storage.path(f"{url}/killed_{killed}")
    # Both processes read their records from the bucket.
    flags = (*FLAGS, f"--config.data.directory={url}/data/fake/1.0.0")
    group = start(workdir, data, *flags, log_folder=tmp_path)
    group.wait_for_step(3)
    while not bucket.interrupted_saves(workdir):
        assert group.processes[killed].poll() is None, group.log()
        time.sleep(0.0005)
    group.processes[killed].kill()
    statuses = group.wait()
    assert statuses[killed] == -signal.SIGKILL and statuses[1 - killed] != 0
    saved = {folder.name for folder in paths.steps(workdir)}
    interrupted = bucket.interrupted_saves(workdir)
    assert not saved & interrupted and max(map(int, saved)) < STEPS
    for name in interrupted:
        assert not paths.is_step(workdir / paths.FOLDER / name)

    start(workdir, data, *flags, log_folder=tmp_path).wait_for_success()
    assert checksums(workdir) == checksums(undisturbed)
    assert losses(workdir) == losses(undisturbed)
    assert len(losses(workdir)) == STEPS and not bucket.interrupted_saves(workdir)
