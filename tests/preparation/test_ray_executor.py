# SPDX-License-Identifier: Apache-2.0
"""A Ray cluster of two nodes, one of which dies, prepares the shards of one process.

The program of the tests runs in a network namespace of its own, where both nodes have the address
127.0.0.1.
"""

import json
import os
import shutil
import subprocess
import sys

import pytest

SUPPORT = os.path.join(os.path.dirname(__file__), os.pardir, "support")
PROGRAM = os.path.join(SUPPORT, "ray_preparation.py")


def missing():
    """Returns why a Ray cluster cannot be started here; "" if it can."""
    try:
        import ray.cluster_utils  # noqa: F401
    except ImportError:
        return "ray is not installed (pip install 'mrd_jax[cluster]')"
    if not (shutil.which("unshare") and shutil.which("ip")):
        return "a network namespace needs the commands unshare and ip"
    trial = subprocess.run(["unshare", "-rn", "true"], capture_output=True, check=False)
    return "" if trial.returncode == 0 else f"no network namespace: {trial.stderr.decode()}"


def report(folder, name):
    """Returns what the program reports in a network namespace of its own."""
    if reason := missing():
        pytest.skip(reason)
    command = 'ip link set lo up && exec "$0" "$@"'
    finished = subprocess.run(
        ["unshare", "-rn", "sh", "-c", command, sys.executable, PROGRAM, str(folder), name],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([SUPPORT, *sys.path]), "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert finished.returncode == 0, finished.stderr
    return json.loads((folder / "report.json").read_text())


def test_local_ray_and_merged_builds_have_the_same_bytes_although_a_node_dies(tmp_path):
    """A node dies while the last shards wait for it; see `ray_preparation.agreement_report`."""
    found = report(tmp_path, "agreement")
    assert found["dead_nodes"] == 1
    assert found["ray"] == found["local"] == found["merged"]
    local = {place: set(files) for place, files in found["local"].items()}
    assert len(local["shapes"]) == 6 and len(local["features"]) == 6
    assert {"1.0.0/metadata.json", "1.0.0/dataset_info.json"} < local["synthetic"]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """Report of the slow tests, which share one cluster."""
    return report(tmp_path_factory.mktemp("ray"), "details")


@pytest.mark.slow
def test_ray_writes_the_bytes_of_one_process_although_a_node_dies(result):
    assert result["node_killed"]
    assert result["ray"] == result["local"] and len(result["ray"]) == 8


@pytest.mark.slow
def test_item_that_ends_its_process_is_skipped_under_ray_as_locally(result):
    assert result["skipped"] == {"worker ended: SIGKILL": 2, "no surface": 2}
    assert (result["read"], result["written"]) == (32, 28)
    assert result["retried"] == {"worker ended: SIGKILL": 3}


@pytest.mark.slow
def test_node_that_does_not_see_the_input_of_the_driver_is_named(result):
    assert "has other files in --input" in result["other_input"]


@pytest.mark.slow
def test_error_that_the_user_can_remove_passes_through_ray(result):
    assert result["absent"] == "ItemError: preparing '0-absent' failed: install the package x"


@pytest.mark.slow
def test_data_set_built_on_ray_has_the_bytes_of_one_process(result):
    assert result["build_ray"] == result["build_local"]
    assert {"openshape/1.0.0/metadata.json"} < result["build_ray"].keys()


@pytest.mark.slow
def test_features_encoded_by_actors_are_those_of_one_process(result):
    assert result["ray_features"] == result["local_features"] and len(result["ray_features"]) == 2
    assert result["counts"]["written"] == 2 and result["counts"]["images"] > 0
    assert "teacher of a node" in result["other_teacher"]
