# SPDX-License-Identifier: Apache-2.0
"""Errors of a wrong multi-process start, and the collectives between processes."""

import socket
import subprocess
import sys

import flax
import jax
import jaxlib
import numpy as np
import optax
import pytest

from mrd_jax.distributed import processes, versions


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("host:1", None, 0), "--processes missing: .* given together"),
        (("", 2, None), "--coordinator and --process missing"),
        (("host", 2, 0), "--coordinator is 'host'; expected HOST:PORT"),
        ((":8476", 2, 0), "':8476'; expected HOST:PORT"),
        (("host:70000", 2, 0), "'host:70000'; expected HOST:PORT"),
        (("host:1", 2, 2), "--process is 2 of --processes 2; expected 0 to 1"),
        (("host:1", 2, -1), "--process is -1 of --processes 2"),
    ],
)
def test_incomplete_or_invalid_arguments_are_rejected(arguments, message):
    coordinator, count, process = arguments
    with pytest.raises(ValueError, match=message):
        processes.join(coordinator, processes=count, process=process)


def run_alone(code):
    command = [sys.executable, "-c", f"from mrd_jax.distributed import processes; {code}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("process", [0, 1])
def test_join_times_out_with_an_error_if_the_other_process_is_missing(process):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    done = run_alone(f"processes.join({address!r}, processes=2, process={process}, join_timeout=1)")
    assert done.returncode == 1
    message = f"process {process} waited 1 s (--join_timeout) for the other processes at {address}"
    assert message in done.stderr


def test_join_without_arguments_fails_outside_a_cluster(monkeypatch):
    for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    done = run_alone("processes.join()")
    assert done.returncode == 1
    assert "no cluster was found" in done.stderr and "pass --coordinator HOST:PORT" in done.stderr


def mock_processes(monkeypatch, *all_facts):
    """Makes this process one of several, whose facts these are."""
    monkeypatch.setattr(jax, "process_count", lambda: len(all_facts))
    gathered = [[f"host{process}", facts] for process, facts in enumerate(all_facts)]
    monkeypatch.setattr(processes, "_all_gather_json", lambda facts: gathered)


def test_processes_with_the_same_settings_are_accepted(monkeypatch):
    mock_processes(monkeypatch, {"config.seed": 1}, {"config.seed": 1})
    processes.require_same({"config.seed": 1})


def test_the_error_lists_differing_settings_by_process(monkeypatch):
    most = {"config.seed": 1, "jax": "0.10.2", "data set": "a"}
    few = [most | {"config.seed": 2}, most | {"data set": "b"}, {"config.seed": 1, "jax": "0.10.2"}]
    mock_processes(monkeypatch, *[most] * 5, *few)
    with pytest.raises(ValueError) as error:
        processes.require_same(most)
    lines = str(error.value).splitlines()
    assert lines[1:-1] == [
        "  config.seed: 1 on 7 processes, 2 on process 5 (host host5)",
        "  data set: 'a' on 6 processes, 'b' on process 6 (host host6), "
        "'absent' on process 7 (host host7)",
    ]


def test_versions_are_those_of_the_installed_packages():
    """The imported modules tell theirs independently."""
    installed = versions.installed()
    for module in (flax, jax, jaxlib, np, optax):
        name = module.__name__
        assert installed[name] == module.__version__
    assert installed["python"] == f"{sys.version_info.major}.{sys.version_info.minor}"
    assert {"array-record", "tensorflow-datasets", "orbax-checkpoint"} <= installed.keys()
    assert "pytest" not in installed


def test_processes_with_different_numbers_of_devices_are_rejected(monkeypatch):
    class Device:
        def __init__(self, process):
            self.process_index = process

    processes.check_devices()
    monkeypatch.setattr(jax, "devices", lambda: [Device(0), Device(0), Device(1)])
    with pytest.raises(ValueError, match="2 on process 0, 1 on process 1"):
        processes.check_devices()


@pytest.mark.parametrize("here", [0, 1])
@pytest.mark.parametrize("bad", [0, 1])
def test_an_action_runs_on_process_0_first_and_its_failure_raises_on_both(monkeypatch, here, bad):
    """Process 1 runs the action only if process 0 has succeeded."""
    turns = iter([bad == 0, bad == 1])
    monkeypatch.setattr(jax, "process_index", lambda: here)
    monkeypatch.setattr(processes, "any_process", lambda flag: next(turns))
    acted = []

    def action():
        acted.append(here)
        if here == bad:
            raise FileNotFoundError("mine")

    expected = pytest.raises(FileNotFoundError if here == bad else RuntimeError, match="mine|log")
    with expected:
        processes.first_process_first(action)
    assert acted == ([] if (here, bad) == (1, 0) else [here])


def test_collectives_are_no_ops_in_a_single_process():
    tree = {"w": np.zeros(3)}
    assert processes.global_arrays(tree) is tree
    assert processes.largest(0.25) == (0.25, 0)
    assert processes.any_process(True) and not processes.any_process(False)
