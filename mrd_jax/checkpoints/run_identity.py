# SPDX-License-Identifier: Apache-2.0
"""A workdir belongs to one run: to its config and its data."""

import json
from collections.abc import Mapping
from typing import Any

import jax
from etils import epath
from ml_collections import ConfigDict

from mrd_jax import atomic_io
from mrd_jax.checkpoints import manifest

# Fields that may differ between the start of a run and its continuation, because the result does
# not depend on them, up to float rounding for `spmd`, `shard_state`, `model.attention`,
# `model.micro_batch`, `loss.form` and `loss.block`. Everything else may not.
NEUTRAL_FIELDS = frozenset(
    {
        "best_metric",
        "checkpoint_every",
        "checkpoints_best",
        "checkpoints_kept",
        "data.cache",
        "data.corrupt_records",
        "data.directory",
        "data.neighbours_file",
        "data.test_directory",
        "data.test_split",
        "eval_every",
        "eval_windows",
        "log_every",
        "loss.block",
        "loss.form",
        "max_nonfinite_steps",
        "model.attention",
        "model.micro_batch",
        "model.remat",
        "profile_steps",
        "shard_state",
        "spmd",
        "exit_on_hang",
        "hang_minutes",
    }
)

# Fields of version 0.1 -> their names since. Old workdirs are still continued.
RENAMED_FIELDS = {
    "data.damaged_records": "data.corrupt_records",
    "max_bad_steps": "max_nonfinite_steps",
    "stall_leaves": "exit_on_hang",
    "stall_minutes": "hang_minutes",
}

# Fields that the processes of a run need not agree on: where a host keeps its copy of the data.
HOST_FIELDS = frozenset(
    {"data.cache", "data.directory", "data.neighbours_file", "data.test_directory"}
)

# What a workdir was started with: config and data set.
RUN_FILE = "run.json"


class WorkdirMismatchError(ValueError):
    """The workdir holds a run of another config or other data."""


def flatten(config: ConfigDict | dict, prefix: str = "") -> dict[str, Any]:
    """Nested fields as {"loss.relation": "similarity", ...}, values as JSON gives them back."""
    if isinstance(config, ConfigDict):
        config = json.loads(config.to_json())
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def require_run(workdir: str) -> None:
    """Refuses a folder that no training has claimed, so that a mistyped one is not created.

    Raises:
      FileNotFoundError: says what to do.
    """
    if not (epath.Path(workdir) / RUN_FILE).exists():
        raise FileNotFoundError(
            f"{workdir} is not the workdir of a run ({RUN_FILE} is missing); check the path, or "
            "train with --mode train first"
        )


def of_run(config: ConfigDict, *, fingerprint: str) -> dict[str, Any]:
    """What a workdir belongs to, as JSON has it.

    Args:
      config: of the run.
      fingerprint: of its data.
    """
    return {"config": json.loads(config.to_json()), "data": fingerprint}


def claim(workdir: epath.Path, mine: Mapping[str, Any]) -> None:
    """Writes the run's identity into a new workdir, or compares it with the one there.

    Process 0 calls this first, see `hosts.first_process_first`.

    Args:
      workdir: of the run; created where absent.
      mine: `of_run`.

    Raises:
      WorkdirMismatchError: the workdir belongs to a run of other settings or other data; names
        every field and both values.
      mrd_jax.checkpoints.manifest.CorruptCheckpointError: what is written there cannot be read.
      ValueError: it is no folder of a file system.
    """
    if "://" in str(workdir):
        raise ValueError(
            f"--workdir is {workdir}: expected a folder; mount the bucket, as scripts/tpu_pod.py "
            "does, and name the folder where it is mounted"
        )
    path = workdir / RUN_FILE
    if not path.exists():
        if jax.process_index() != 0:
            raise WorkdirMismatchError(
                f"process 0 has written {path}, but process {jax.process_index()} does not see "
                "it: --workdir must be the same folder of a file system that all hosts share"
            )
        workdir.mkdir(parents=True, exist_ok=True)
        atomic_io.write_text(path, json.dumps(mine, indent=1))
        return
    there = manifest.read_run(path)
    wanted = flatten(mine["config"])
    found = {
        RENAMED_FIELDS.get(name, name): value for name, value in flatten(there["config"]).items()
    }
    lines = [
        f"  config.{name}: {found.get(name, 'absent')!r} there, {wanted.get(name, 'absent')!r} now"
        for name in sorted(found.keys() | wanted.keys())
        if name not in NEUTRAL_FIELDS and found.get(name) != wanted.get(name)
    ]
    if there["data"] != mine["data"]:
        lines.append(f"  data set: {there['data']} there, {mine['data']} now")
    if lines:
        raise WorkdirMismatchError(
            f"{workdir} holds a run that differs:\n" + "\n".join(lines) + "\n"
            "Choose another --workdir, or restore these settings to continue that run."
        )
