# SPDX-License-Identifier: Apache-2.0
"""Collectives between processes, and the comparison of their settings."""

import sys

import flax
import jax
import jaxlib
import numpy as np
import optax
import pytest

from mrd_jax.distributed import processes, versions


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
