# SPDX-License-Identifier: Apache-2.0
"""What a wrong start of several processes looks like, and what they make of each other's facts."""

import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from mrd_jax.distributed import processes as hosts


@pytest.mark.parametrize(
    "place, message",
    [
        (("host:1", None, 0), "--processes missing: .* go together"),
        (("", 2, None), "--coordinator and --process missing"),
        (("host", 2, 0), "--coordinator is 'host'; expected HOST:PORT"),
        ((":8476", 2, 0), "':8476'; expected HOST:PORT"),
        (("host:70000", 2, 0), "'host:70000'; expected HOST:PORT"),
        (("host:1", 2, 2), "--process is 2 of --processes 2; expected 0 to 1"),
        (("host:1", 2, -1), "--process is -1 of --processes 2"),
    ],
)
def test_half_a_place_is_refused(place, message):
    coordinator, processes, process = place
    with pytest.raises(ValueError, match=message):
        hosts.join(coordinator, processes=processes, process=process)


def run_alone(code):
    command = [sys.executable, "-c", f"from mrd_jax.distributed import processes as hosts; {code}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("process", [0, 1])
def test_whoever_waits_for_the_others_in_vain_ends_and_says_so(process):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        place = f"localhost:{free.getsockname()[1]}"
    done = run_alone(f"hosts.join({place!r}, processes=2, process={process}, join_timeout=1)")
    assert done.returncode == 1
    assert f"process {process} waited 1 s (--join_timeout) for the others of {place}" in done.stderr


def test_without_a_cluster_there_is_nobody_to_find(monkeypatch):
    for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    done = run_alone("hosts.join()")
    assert done.returncode == 1
    assert "no cluster was found" in done.stderr and "pass --coordinator HOST:PORT" in done.stderr


def pretend(monkeypatch, *everybody):
    """This is one of several processes, which hold these facts."""
    monkeypatch.setattr(jax, "process_count", lambda: len(everybody))
    monkeypatch.setattr(hosts, "_gather", lambda facts: list(everybody))


def test_processes_that_were_started_alike_may_go_on(monkeypatch):
    pretend(monkeypatch, {"config.seed": 1}, {"config.seed": 1})
    hosts.require_same({"config.seed": 1})


def test_the_process_that_differs_is_named(monkeypatch):
    most = {"config.seed": 1, "jax": "0.10.2", "data set": "a"}
    few = [most | {"config.seed": 2}, most | {"data set": "b"}, {"config.seed": 1, "jax": "0.10.2"}]
    pretend(monkeypatch, *[most] * 5, *few)
    with pytest.raises(ValueError) as error:
        hosts.require_same(most)
    lines = str(error.value).splitlines()
    assert lines[1:-1] == [
        "  config.seed: 1 on 7 processes, 2 on process 5",
        "  data set: 'a' on 6 processes, 'b' on process 6, 'absent' on process 7",
    ]


def test_processes_with_different_numbers_of_devices_are_refused(monkeypatch):
    class Device:
        def __init__(self, process):
            self.process_index = process

    hosts.check_devices()
    monkeypatch.setattr(jax, "devices", lambda: [Device(0), Device(0), Device(1)])
    with pytest.raises(ValueError, match="2 on process 0, 1 on process 1"):
        hosts.check_devices()


@pytest.mark.parametrize("here", [0, 1])
@pytest.mark.parametrize("bad", [0, 1])
def test_an_action_that_fails_on_one_process_ends_both_and_waits_for_its_turn(
    monkeypatch, here, bad
):
    """Process 1 acts only once process 0 has succeeded."""
    turns = iter([bad == 0, bad == 1])
    monkeypatch.setattr(jax, "process_index", lambda: here)
    monkeypatch.setattr(hosts, "any_process", lambda flag: next(turns))
    acted = []

    def action():
        acted.append(here)
        if here == bad:
            raise FileNotFoundError("mine")

    expected = pytest.raises(FileNotFoundError if here == bad else RuntimeError, match="mine|log")
    with expected:
        hosts.first_process_first(action)
    assert acted == ([] if (here, bad) == (1, 0) else [here])


def test_alone_nothing_is_shared():
    tree = {"w": np.zeros(3)}
    assert hosts.shared(tree) is tree
    assert hosts.largest(0.25) == (0.25, 0)
    assert hosts.any_process(True) and not hosts.any_process(False)
