# SPDX-License-Identifier: Apache-2.0
"""A stand-in for Slurm: the variables of its tasks, and `srun`, which starts them on this machine.

`python tests/support/slurm.py [--FLAG=VALUE]... COMMAND ...` starts SLURM_NTASKS tasks on
SLURM_JOB_NUM_NODES nodes that all are this machine, passes SIGTERM on to them, and returns the
highest exit status.
"""

import os
import signal
import subprocess
import sys


def task_variables(task: int, *, tasks: int, nodes: int) -> dict[str, str]:
    """Returns the variables that srun sets for one task of a step with equally filled nodes."""
    per_node = tasks // nodes
    return {
        "SLURM_NTASKS": str(tasks),
        "SLURM_STEP_NUM_TASKS": str(tasks),
        "SLURM_STEP_NUM_NODES": str(nodes),
        "SLURM_STEP_TASKS_PER_NODE": f"{per_node}(x{nodes})" if nodes > 1 else str(per_node),
        "SLURM_STEP_NODELIST": "127.0.0.1",
        "SLURM_PROCID": str(task),
        "SLURM_NODEID": str(task // per_node),
        "SLURM_LOCALID": str(task % per_node),
    }


def main() -> int:
    command = sys.argv[1:]
    while command[0].startswith("--"):
        command = command[1:]
    tasks, nodes = (int(os.environ[name]) for name in ("SLURM_NTASKS", "SLURM_JOB_NUM_NODES"))
    started = [
        subprocess.Popen(command, env=os.environ | task_variables(task, tasks=tasks, nodes=nodes))
        for task in range(tasks)
    ]
    signal.signal(signal.SIGTERM, lambda number, _: [task.send_signal(number) for task in started])
    return max(task.wait() for task in started)


if __name__ == "__main__":
    sys.exit(main())
