# SPDX-License-Identifier: Apache-2.0
"""The launcher's attempts, with a cloud on this machine and a run that ends as each test says.

The launcher's own commands are executed: `gcloud ssh` runs host.sh in a shell, which starts a
service. Only `python -m mrd_jax.main` is replaced; test_tpu_pod_run.py keeps it.
"""

import re

import fake_cloud
import pytest
import stub_training

ATTEMPT = ["create", "scp", "install", "preflight", "run"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A cloud on which a run has finished, and what the launcher printed."""
    cloud = stub_training.Cloud(tmp_path_factory.mktemp("finished") / "cloud")
    status, output = cloud.run("--env=XLA_FLAGS=--a=1 --b", "--env=EMPTY=", events=["finish"])
    assert status == 0, output
    return cloud, output


def test_finished_run_keeps_its_slice_by_default(finished):
    cloud, output = finished
    assert cloud.actions() == ATTEMPT
    assert "is not deleted, and is billed until you run" in output


def test_existing_slice_is_used_and_deleted_with_the_flag(cloud):
    """The compilation cache can be elsewhere."""
    (cloud.folder / "state").write_text("ACTIVE")
    elsewhere = "--env=JAX_COMPILATION_CACHE_DIR=gs://b/mine"
    assert cloud.run("--delete", elsewhere, events=["finish"])[0] == 0
    assert cloud.actions() == [*ATTEMPT[1:], "delete"]
    assert cloud.environment()[1]["JAX_COMPILATION_CACHE_DIR"] == "gs://b/mine"


def test_preempted_slice_is_recreated_and_the_run_continues(cloud):
    assert cloud.run("--delete", events=["preempt", "finish"])[0] == 0
    assert cloud.actions() == [*ATTEMPT, "delete", *ATTEMPT, "delete"]


def test_preempted_slice_is_an_error_without_the_delete_flag(cloud):
    status, output = cloud.run(events=["preempt"])
    assert status == 2
    assert re.search(r"lost \(SUSPENDED\).*pass --delete, or run\ngclou", output)
    assert "delete" not in cloud.actions()


def test_lost_node_ends_the_attempt_although_the_request_is_active(cloud):
    """The run of this attempt would go on for a minute."""
    status, output = cloud.run("--delete", events=["lose", "finish"])
    assert status == 0, output
    assert "node mrd is PREEMPTED HEALTHY" in output
    assert cloud.actions() == [*ATTEMPT, "delete", *ATTEMPT, "delete"]


def test_run_that_was_shut_down_continues(cloud):
    assert cloud.run(events=["stop", "finish"])[0] == 0
    assert cloud.actions().count("run") == 2


@pytest.mark.slow
def test_launcher_gives_up_after_repeated_attempts_without_a_checkpoint(cloud):
    """A new checkpoint resets the count."""
    status, output = cloud.run(events=["fail", "fail", "stop", "fail", "fail", "fail", "finish"])
    assert status == 1
    assert cloud.actions().count("run") == 6
    assert "giving up after 3 attempts without a new checkpoint" in output


def test_mistake_at_the_start_of_a_run_stops_at_once_and_frees_the_slice(cloud):
    status, output = cloud.run("--delete", events=["mistake", "finish"])
    assert status == 2
    assert cloud.actions() == [*ATTEMPT, "delete"]
    assert "config.seed is -1" in output and "cannot start" in output and "host-0" in output


def test_fault_that_the_first_host_finds_stops_before_the_others_start(cloud):
    (cloud.folder / "bad_data").touch()
    status, output = cloud.run("--delete", events=["finish"])
    assert status == 2 and "error: bad" in output
    assert cloud.actions() == [*ATTEMPT[:-1], "delete"]


def test_failed_installation_counts_as_an_attempt(cloud):
    assert cloud.run("--setup=false", events=["finish"])[0] == 1
    assert cloud.actions() == ["create"] + ["scp", "install"] * 3


def test_finished_run_requests_no_slice(cloud):
    (cloud.folder / "buckets" / "b" / "run").mkdir(parents=True)
    (cloud.folder / "buckets" / "b" / "run" / "finished").touch()
    assert cloud.run("--delete")[0] == 0
    assert cloud.actions() == []


def test_variables_reach_the_run_and_nothing_else_does(finished):
    cloud, _ = finished
    for host in range(fake_cloud.HOSTS):
        arguments, variables = cloud.environment(host)
        assert arguments.startswith("-m mrd_jax.main --multihost --config=configs/quickstart.py")
        assert variables["XLA_FLAGS"] == "--a=1 --b" and variables["EMPTY"] == ""
        # Beside the workdir gs://b/run.
        assert variables["JAX_COMPILATION_CACHE_DIR"] == "gs://b/compilation_cache"
        assert "FAKE" not in variables and variables["PATH"] == "/usr/local/bin:/usr/bin:/bin"
