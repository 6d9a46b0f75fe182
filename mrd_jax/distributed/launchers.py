# SPDX-License-Identifier: Apache-2.0
"""Reads what launchers of processes tell each process: Slurm, torchrun and Open MPI.

Cloud TPU and Kubernetes start one process per host, so JAX's own detection suffices there.
"""

import importlib.util
import re
from collections.abc import Mapping
from typing import NamedTuple

# Variables that JAX's detection needs; only the processes of a step have all of them.
_SLURM = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_NTASKS", "SLURM_PROCID", "SLURM_LOCALID")
_SLURM_TASKS = "SLURM_STEP_NUM_TASKS"
_OPEN_MPI = "OMPI_COMM_WORLD_"
# Command that starts N processes per host with GPUS GPUs.
COMMANDS = {
    "Slurm": "srun --ntasks-per-node={n} --gpus-per-node={gpus} python -m mrd_jax.main --multihost",
    "torchrun": "torchrun --nproc-per-node={n} -m mrd_jax.main --multihost",
    "Open MPI": "mpirun --npernode {n} python -m mrd_jax.main --multihost",
}


class Place(NamedTuple):
    """Place of this process among those that a launcher has started.

    Attributes:
      launcher: a key of `COMMANDS`.
      processes: number of processes.
      process: index of this process.
      local_processes: number of processes on this host; None if the launcher does not tell.
      local_process: index of this process among them; None if the launcher does not tell.
      coordinator: HOST:PORT of process 0; "" if JAX derives it from the variables.
    """

    launcher: str
    processes: int
    process: int
    local_processes: int | None
    local_process: int | None
    coordinator: str = ""


def find(environ: Mapping[str, str]) -> Place | None:
    """Returns the place of this process, or None if none of the launchers has started it.

    torchrun comes first, since it may itself be started by Slurm. Its variables count only if they
    speak of several processes: notebooks and containers set them for a single one.

    Args:
      environ: environment variables of this process.

    Raises:
      ValueError: variables of the launcher are missing or malformed.
    """
    if "RANK" in environ and environ.get("WORLD_SIZE", "1") != "1":
        return _torchrun(environ)
    if all(name in environ for name in _SLURM):
        return Place(
            "Slurm",
            # In an interactive step, SLURM_NTASKS is that of the job.
            _integer(environ, _SLURM_TASKS if _SLURM_TASKS in environ else "SLURM_NTASKS"),
            _integer(environ, "SLURM_PROCID"),
            _slurm_local_tasks(environ),
            _integer(environ, "SLURM_LOCALID"),
        )
    if f"{_OPEN_MPI}RANK" in environ:
        size, rank, local_size, local_rank = (
            _integer(environ, _OPEN_MPI + name)
            for name in ("SIZE", "RANK", "LOCAL_SIZE", "LOCAL_RANK")
        )
        return Place("Open MPI", size, rank, local_size, local_rank)
    return None


def _torchrun(environ: Mapping[str, str]) -> Place:
    missing = [name for name in ("MASTER_ADDR", "MASTER_PORT") if name not in environ]
    if missing:
        raise ValueError(
            f"RANK and WORLD_SIZE are set, but not {' and '.join(missing)}: set them to the host "
            "of process 0 and a free port there, or unset RANK"
        )
    port = _integer(environ, "MASTER_PORT")
    # There, torchrun itself listens on MASTER_PORT.
    if environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True":
        port += 1
    local_processes, local_process = (
        _integer(environ, name) if name in environ else None
        for name in ("LOCAL_WORLD_SIZE", "LOCAL_RANK")
    )
    address = f"{environ['MASTER_ADDR']}:{environ.get('JAX_COORDINATOR_PORT', port)}"
    processes, process = _integer(environ, "WORLD_SIZE"), _integer(environ, "RANK")
    return Place("torchrun", processes, process, local_processes, local_process, address)


def _slurm_local_tasks(environ: Mapping[str, str]) -> int | None:
    """Returns the number of tasks on this node, from counts by node such as "8(x2),4"."""
    counts = environ.get("SLURM_STEP_TASKS_PER_NODE")
    if counts is None or "SLURM_NODEID" not in environ:
        return None
    nodes: list[int] = []
    for part in counts.split(","):
        found = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part)
        if found is None:
            raise ValueError(
                f"SLURM_STEP_TASKS_PER_NODE is {counts!r}; expected counts such as '8(x2),4'"
            )
        nodes += [int(found[1])] * int(found[2] or 1)
    node = _integer(environ, "SLURM_NODEID")
    if node >= len(nodes):
        raise ValueError(f"SLURM_NODEID is {node}, but SLURM_STEP_TASKS_PER_NODE {counts!r}")
    return nodes[node]


def _integer(environ: Mapping[str, str], name: str) -> int:
    value = environ.get(name)
    if value is None or not value.isdecimal():
        raise ValueError(f"variable {name} is {value!r}; expected an integer")
    return int(value)


def explain_absence(environ: Mapping[str, str]) -> str:
    """Returns what is missing where JAX has detected no cluster, as a sentence; "" if unknown.

    Args:
      environ: environment variables of this process.
    """
    if "SLURM_JOB_ID" in environ and "SLURM_STEP_NODELIST" not in environ:
        return "This is a Slurm job, but not a step of it: start the command with srun. "
    in_pod = "KUBERNETES_SERVICE_HOST" in environ
    if in_pod and importlib.util.find_spec("kubernetes") is None:
        return 'This is a Kubernetes pod, where JAX needs pip install "jax[k8s]". '
    if "RANK" in environ or "WORLD_SIZE" in environ:
        return "RANK and WORLD_SIZE must be set together. "
    return ""
