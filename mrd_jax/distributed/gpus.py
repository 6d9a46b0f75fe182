# SPDX-License-Identifier: Apache-2.0
"""Counts the NVIDIA GPUs that a process sees, and assigns them to the processes of a host.

Counting does not initialise CUDA, which would make the choice of devices final.
"""

import logging
import os
import pathlib
import shutil
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

import jax

from mrd_jax.distributed import launchers
from mrd_jax.kernels import platforms

LOGGER = logging.getLogger(__name__)

_DRIVER = pathlib.Path("/proc/driver/nvidia/gpus")
# Seconds that nvidia-smi may take; without a persistent driver it starts the driver first.
_TIMEOUT = 60


def count_visible(
    environ: Mapping[str, str] = os.environ, *, count_installed: Callable[[], int] | None = None
) -> int:
    """Returns the number of GPUs that JAX sees in this process, if it supports CUDA.

    Args:
      environ: environment variables of this process.
      count_installed: counts the GPUs of this host; asks the driver by default.

    Returns:
      The number of GPUs; 0 if JAX_PLATFORMS excludes them.
    """
    options: Any = jax.config  # JAX defines its options at import, where mypy does not see them
    platforms = options.jax_platforms or ""
    if platforms and not {"cuda", "gpu"} & set(platforms.split(",")):
        return 0
    installed = (count_installed or _count_installed)()
    listed = environ.get("CUDA_VISIBLE_DEVICES")
    if listed is None:
        return installed
    # CUDA ignores the first invalid entry and everything after it.
    count = 0
    for name in listed.split(","):
        name = name.strip()
        is_index = name.isdecimal() and int(name) < installed
        if not (is_index or name.startswith(("GPU-", "MIG-"))):
            break
        count += 1
    return count


def _count_installed() -> int:
    """Returns the number of GPUs of this host, or of this container."""
    if program := shutil.which("nvidia-smi"):
        # Unlike /proc, it leaves out GPUs that a cluster withholds from this job.
        done = subprocess.run([program, "-L"], capture_output=True, text=True, timeout=_TIMEOUT)
        if done.returncode == 0:
            return sum(line.startswith("GPU ") for line in done.stdout.splitlines())
    return sum(1 for _ in _DRIVER.iterdir()) if _DRIVER.is_dir() else 0


def assign(
    visible: int, place: launchers.Place | None, environ: Mapping[str, str] = os.environ
) -> list[int] | None:
    """Returns the indices of the GPUs of this process, among those that it sees.

    Args:
      visible: number of GPUs that this process sees.
      place: place of this process; None if no launcher tells it.
      environ: environment variables of this process.

    Returns:
      Indices; None leaves the choice to JAX, which then follows JAX_LOCAL_DEVICE_IDS or takes all.

    Raises:
      ValueError: GPUs would be left idle, or several processes would share one.
    """
    if not visible or place is None or environ.get("JAX_LOCAL_DEVICE_IDS"):
        return None
    count, index = place.local_processes, place.local_process
    if count is None and place.launcher == "Slurm":
        raise ValueError(
            "SLURM_STEP_TASKS_PER_NODE or SLURM_NODEID is missing, so that the GPUs of this task "
            "are unknown: start the command with srun, or set JAX_LOCAL_DEVICE_IDS"
        )
    if count is None or index is None or count == 1:
        return list(range(visible))
    if visible == 1:
        return [0]  # the launcher shows each process its own GPU
    if visible == count:
        return [index]
    idle = [str(gpu) for gpu in range(count, visible)]
    problem = f"would leave GPU {', '.join(idle)} idle" if idle else "would have to share GPUs"
    command = launchers.COMMANDS[place.launcher]
    commands = (command.format(n=number, gpus=visible) for number in (visible, 1))
    raise ValueError(
        f"{count} processes on this host see {visible} GPUs and {problem}. Start one process per "
        "GPU or one per host, or choose GPUs by CUDA_VISIBLE_DEVICES:\n  " + "\n  ".join(commands)
    )


def check_used(visible: int) -> None:
    """Checks, after JAX has started, that it does not compute on the CPU beside idle GPUs.

    Without JAX's CUDA packages this is a warning, since small runs may be meant for the CPU.

    Args:
      visible: number of GPUs that this process sees, from `count_visible`.

    Raises:
      ValueError: JAX's CUDA packages are installed, but JAX uses the CPU.
    """
    if not visible or jax.default_backend() != "cpu":
        return
    found = f"{visible} GPU(s) are idle: JAX computes on the CPU"
    if platforms.compiles_cuda():
        raise ValueError(
            f"{found} although its CUDA packages are installed. Check the driver with nvidia-smi, "
            "or set JAX_PLATFORMS=cuda to see JAX's error, or JAX_PLATFORMS=cpu to use the CPU"
        )
    LOGGER.warning(
        '%s. pip install "jax[cuda12]" uses them; JAX_PLATFORMS=cpu silences this line', found
    )
