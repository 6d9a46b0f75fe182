# SPDX-License-Identifier: Apache-2.0
"""Start of several processes: variables of launchers, GPUs of each process, and errors."""

import os
import re
import socket
import subprocess
import sys

import jax
import pytest
import slurm

from mrd_jax.distributed import cluster, gpus, launchers
from mrd_jax.kernels import platforms

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "16",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "node1",
    "MASTER_PORT": "29500",
}
SLURM = {"SLURM_JOB_ID": "7"} | slurm.task_variables(9, tasks=16, nodes=2)
OPEN_MPI = {
    "OMPI_COMM_WORLD_SIZE": "4",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}


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
        cluster.join(coordinator, processes=count, process=process)


def run_alone(code):
    command = [sys.executable, "-c", f"from mrd_jax.distributed import cluster; {code}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize("process", [0, 1])
def test_join_times_out_with_an_error_if_the_other_process_is_missing(process):
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    done = run_alone(f"cluster.join({address!r}, processes=2, process={process}, join_timeout=1)")
    assert done.returncode == 1
    message = f"process {process} waited 1 s (--join_timeout) for the other processes at {address}"
    assert message in done.stderr


def test_join_without_arguments_fails_outside_a_cluster(monkeypatch):
    for name in ("SLURM_JOB_ID", "OMPI_MCA_orte_hnp_uri", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    done = run_alone("cluster.join()")
    assert done.returncode == 1
    assert "no cluster was found" in done.stderr and "pass --coordinator HOST:PORT" in done.stderr


def test_launchers_tell_processes_of_run_and_host():
    assert launchers.find({}) is None
    assert launchers.find(SLURM) == ("Slurm", 16, 9, 8, 1, "")
    assert launchers.find(OPEN_MPI) == ("Open MPI", 4, 3, 2, 1, "")
    assert launchers.find(TORCHRUN) == ("torchrun", 16, 5, 4, 1, "node1:29500")
    # torchrun started by srun, once per node.
    assert launchers.find(SLURM | TORCHRUN).launcher == "torchrun"


def test_torchrun_keeps_its_own_port_and_jax_takes_the_next():
    own = TORCHRUN | {"TORCHELASTIC_USE_AGENT_STORE": "True"}
    assert launchers.find(own).coordinator == "node1:29501"
    assert launchers.find(own | {"JAX_COORDINATOR_PORT": "9"}).coordinator == "node1:9"


def test_variables_of_a_single_process_are_not_torchruns():
    assert launchers.find({"RANK": "0", "WORLD_SIZE": "1"}) is None


@pytest.mark.parametrize("node, tasks", [("0", 8), ("2", 8), ("3", 2), ("4", 1)])
def test_slurm_tasks_per_node_are_counted_by_node(node, tasks):
    own = SLURM | {"SLURM_STEP_TASKS_PER_NODE": "8(x3),2,1", "SLURM_NODEID": node}
    assert launchers.find(own).local_processes == tasks


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"SLURM_PROCID": "x"}, "SLURM_PROCID is 'x'; expected an integer"),
        ({"SLURM_STEP_TASKS_PER_NODE": "8*2"}, "'8\\*2'; expected counts such as"),
        ({"SLURM_NODEID": "2"}, "SLURM_NODEID is 2"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "not MASTER_ADDR and MASTER_PORT"),
    ],
)
def test_malformed_variables_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        launchers.find(SLURM | changes)


@pytest.mark.parametrize(
    "listed, expected",
    [(None, 8), ("", 0), ("-1", 0), ("0,3", 2), ("0,9,1", 1), ("GPU-a, GPU-b", 2), ("1,-1,2", 1)],
)
def test_visible_gpus_are_counted_as_cuda_does(any_platform, listed, expected):
    environ = {} if listed is None else {"CUDA_VISIBLE_DEVICES": listed}
    assert gpus.count_visible(environ, count_installed=lambda: 8) == expected
    jax.config.update("jax_platforms", "cpu")
    assert gpus.count_visible(environ, count_installed=lambda: 8) == 0


@pytest.fixture
def any_platform():
    old = jax.config.jax_platforms
    jax.config.update("jax_platforms", "cuda,cpu")
    yield
    jax.config.update("jax_platforms", old)


def place(local_processes, local_process, launcher="Slurm"):
    return launchers.Place(launcher, 16, 9, local_processes, local_process)


@pytest.mark.parametrize(
    "visible, where, expected",
    [
        (8, place(8, 3), [3]),  # one task per GPU, all of which it sees
        (1, place(8, 3), [0]),  # one task per GPU, bound to it
        (4, place(1, 0), [0, 1, 2, 3]),  # one task per node
        (2, place(None, None, "torchrun"), [0, 1]),
        (0, place(8, 3), None),
        (8, None, None),
    ],
)
def test_each_process_uses_its_gpus(visible, where, expected):
    assert gpus.assign(visible, where, environ={}) == expected


@pytest.mark.parametrize(
    "visible, where, words",
    [
        (4, place(2, 0), ["2 processes", "4 GPUs", "GPU 2, 3 idle", "srun --ntasks-per-node=4 "]),
        (4, place(2, 0), ["srun --ntasks-per-node=1 --gpus-per-node=4 "]),
        (2, place(8, 0, "torchrun"), ["share", "--nproc-per-node=2 ", "--nproc-per-node=1 "]),
        (2, place(None, 0), ["SLURM_STEP_TASKS_PER_NODE", "srun"]),
    ],
)
def test_idle_or_shared_gpus_are_rejected_with_the_right_commands(visible, where, words):
    with pytest.raises(ValueError) as error:
        gpus.assign(visible, where, environ={})
    assert all(word in str(error.value) for word in words)
    # An explicit choice is the user's.
    assert gpus.assign(visible, where, environ={"JAX_LOCAL_DEVICE_IDS": "0"}) is None


def test_one_task_per_node_passes_all_gpus_to_jax(monkeypatch):
    """By itself, JAX takes the GPU with the index of the task on its node."""
    calls = []
    for name in TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    for name, value in slurm.task_variables(1, tasks=2, nodes=2).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    monkeypatch.setattr(gpus, "count_visible", lambda: 8)
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **_: calls.append((args, _)))
    cluster.join()
    ((arguments, options),) = calls
    assert arguments == (None, 2, 1)
    assert options["local_device_ids"] == list(range(8))
    assert options["cluster_detection_method"] is None


def test_gpus_beside_a_cpu_backend_are_reported(monkeypatch, caplog):
    gpus.check_used(0)
    gpus.check_used(2)
    assert "2 GPU(s) are idle: JAX computes on the CPU. pip install" in caplog.text
    monkeypatch.setattr(platforms, "compiles_cuda", lambda: True)
    with pytest.raises(ValueError, match="2 GPU.* although its CUDA packages are installed"):
        gpus.check_used(2)


def test_tasks_that_would_each_train_the_whole_run_are_rejected():
    with pytest.raises(ValueError, match="Slurm has started 16 processes.*--nomultihost"):
        cluster.join_if_asked(multihost=None, environ=SLURM)
    cluster.join_if_asked(multihost=False, environ=SLURM)
    single = {"SLURM_JOB_ID": "7"} | slurm.task_variables(0, tasks=1, nodes=1)
    cluster.join_if_asked(multihost=None, environ=single)


@pytest.mark.parametrize(
    "environ, words",
    [
        ({"SLURM_JOB_ID": "7"}, "start the command with srun"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "jax\\[k8s\\]"),
        ({"WORLD_SIZE": "2"}, "must be set together"),
        ({}, "^$"),
    ],
)
def test_absent_clusters_are_explained(monkeypatch, environ, words):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert re.search(words, launchers.explain_absence(environ))


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])


def join_two(own_variables):
    """Joins two processes with these variables; returns what each prints."""
    code = (
        "import jax; from mrd_jax.distributed import cluster; cluster.join(join_timeout=100); "
        "print(jax.process_index(), jax.process_count(), jax.local_device_count(), "
        "jax.device_count())"
    )
    common = {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "2"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env=os.environ | common | own,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for own in own_variables
    ]
    outputs = [process.communicate(timeout=200) for process in started]
    assert [process.returncode for process in started] == [0, 0], outputs
    return [output for output, _ in outputs]


def test_two_slurm_tasks_join():
    port = free_port()
    own = [
        {"SLURM_JOB_ID": "7", "JAX_COORDINATOR_PORT": port}
        | slurm.task_variables(task, tasks=2, nodes=2)
        for task in (0, 1)
    ]
    assert join_two(own) == ["0 2 2 4\n", "1 2 2 4\n"]


@pytest.mark.slow
def test_two_processes_with_the_variables_of_torchrun_join():
    own = {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    assert join_two([own | {"RANK": rank} for rank in "01"]) == ["0 2 2 4\n", "1 2 2 4\n"]
