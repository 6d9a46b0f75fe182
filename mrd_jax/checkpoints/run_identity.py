# SPDX-License-Identifier: Apache-2.0
"""Run identity: a workdir belongs to one config and one data set."""

import json
from collections.abc import Mapping
from typing import Any

import jax
from ml_collections import ConfigDict

from mrd_jax import atomic_io, storage
from mrd_jax.checkpoints import manifest
from mrd_jax.losses import options

# Fields that may change when a run is continued, because the result does not depend on them, up to
# float rounding for `deterministic`, `spmd`, `shard_state`, `model.attention`, `model.micro_batch`,
# `loss.form` and `loss.block`. All other fields must stay as they are.
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
        "data.read_threads",
        "data.test_directory",
        "data.test_split",
        "deterministic",
        "eval_every",
        "eval_head",
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
        "tracker",
        "exit_on_hang",
        "finetune.linear_probe",
        "finetune.vote_scale",
        "finetune.votes",
        "hang_minutes",
    }
)

# Current names of fields of version 0.1, so that runs of that version can be continued.
RENAMED_FIELDS = {
    "data.damaged_records": "data.corrupt_records",
    "max_bad_steps": "max_nonfinite_steps",
    "stall_leaves": "exit_on_hang",
    "stall_minutes": "hang_minutes",
}

# Fields that may differ between processes: each host may have its own copy of the data.
HOST_FIELDS = frozenset(
    {
        "data.cache",
        "data.directory",
        "data.neighbours_file",
        "data.read_threads",
        "data.test_directory",
    }
)

# Fields that later versions added, with the value by which a run is as before they existed, so that
# runs of earlier versions can be continued.
ADDED_FIELDS: dict[str, Any] = {
    "data.image_positives": 1,
    "data.text_positives": 1,
    "model.relation_head": "none",
    **{f"loss.{name}": value for name, value in options.ADDED.items()},
}

# File in the workdir that holds config and data set of the run.
RUN_FILE = "run.json"


class WorkdirMismatchError(ValueError):
    """The workdir belongs to a run with another config or other data."""


def flatten(config: ConfigDict | dict, prefix: str = "") -> dict[str, Any]:
    """Flattens nested fields to {"loss.relation": "similarity", ...}, with JSON values."""
    if isinstance(config, ConfigDict):
        config = json.loads(config.to_json())
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = value
    return flat


def require_run(workdir: storage.PathLike) -> None:
    """Checks that a folder is the workdir of a run.

    Raises:
      FileNotFoundError: it is not.
    """
    if not (storage.path(workdir) / RUN_FILE).exists():
        raise FileNotFoundError(
            f"{workdir} is not the workdir of a run ({RUN_FILE} is missing); check the path, or "
            "train with --mode train first"
        )


def of_run(config: ConfigDict, *, fingerprint: str) -> dict[str, Any]:
    """Returns the identity of a run: config and data set, as JSON.

    Args:
      config: config of the run.
      fingerprint: fingerprint of its data.
    """
    return {"config": json.loads(config.to_json()), "data": fingerprint}


def read(path: storage.Path) -> dict[str, Any]:
    """Reads the identity of a run: its `config`, and the fingerprint of its `data`.

    Args:
      path: JSON file.

    Raises:
      CorruptCheckpointError: the file is corrupt.
    """
    try:
        run = json.loads(path.read_text())
        if not isinstance(run["config"], dict) or not isinstance(run["data"], str):
            raise TypeError("config is not an object, or data is not text")
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise manifest.CorruptCheckpointError(
            f"{path} is corrupt ({error}); restore it from a checkpoint of the run, which holds a "
            "copy in run/metadata, or choose another --workdir"
        ) from error
    return run


def claim(workdir: storage.Path, identity: Mapping[str, Any]) -> None:
    """Writes the identity of a run into a new workdir, or checks that it matches an existing one.

    Process 0 must call this first, see `mrd_jax.distributed.processes.first_process_first`.

    Args:
      workdir: folder of the run; created if it does not exist.
      identity: identity of the run, from `of_run`.

    Raises:
      WorkdirMismatchError: the workdir belongs to a run with another config or other data; lists
        every differing field with both values.
      mrd_jax.checkpoints.manifest.CorruptCheckpointError: the existing identity is corrupt.
    """
    path = workdir / RUN_FILE
    if not path.exists():
        if jax.process_index() != 0:
            raise WorkdirMismatchError(
                f"process 0 has written {path}, but process {jax.process_index()} does not see "
                "it: --workdir must be gs://BUCKET/NAME, or a folder of "
                "a file system that all hosts share"
            )
        storage.make_folder(workdir)
        atomic_io.write_text(path, json.dumps(identity, indent=1))
        return
    existing = read(path)
    # A student of the user's own need not have the fields of the students here.
    wanted = ADDED_FIELDS | flatten(identity["config"])
    found = ADDED_FIELDS | {
        RENAMED_FIELDS.get(name, name): value for name, value in flatten(existing["config"]).items()
    }
    lines = [
        f"  config.{name}: {found.get(name, 'absent')!r} there, {wanted.get(name, 'absent')!r} now"
        for name in sorted(found.keys() | wanted.keys())
        if name not in NEUTRAL_FIELDS and found.get(name) != wanted.get(name)
    ]
    if existing["data"] != identity["data"]:
        lines.append(f"  data set: {existing['data']} there, {identity['data']} now")
    if lines:
        raise WorkdirMismatchError(
            f"{workdir} belongs to a run with other settings:\n" + "\n".join(lines) + "\n"
            "Choose another --workdir, or restore these settings to continue that run."
        )
