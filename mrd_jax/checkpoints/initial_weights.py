# SPDX-License-Identifier: Apache-2.0
"""Initial weights of a run, from another encoder or a part of one."""

import logging
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np

from mrd_jax import atomic_io, hub, storage
from mrd_jax.checkpoints import restore, train_state
from mrd_jax.data import batch_spec, numpy_files
from mrd_jax.models import axes

LOGGER = logging.getLogger(__name__)


def save(path: storage.PathLike, variables: Mapping[str, Any]) -> None:
    """Writes a part of a student's variables atomically.

    Args:
      path: `.npz` file to write.
      variables: nested dict with `params` and optionally `batch_stats`, which may lack leaves of
        the student.

    Raises:
      ValueError: the path does not end in `.npz`.
      FileExistsError: the file exists.
    """
    target = storage.path(path)
    if target.suffix != ".npz":
        raise ValueError(f"{path}: the path must end in .npz, the format of a partial student")
    if target.exists():
        raise FileExistsError(f"{path} exists; choose another path or remove it first")
    atomic_io.write_npz(target, **flax.traverse_util.flatten_dict(dict(variables), sep="/"))


def load(path: storage.PathLike) -> dict[str, Any]:
    """Reads initial weights, converted to clouds with z up if the encoder takes y up.

    Args:
      path: encoder folder (from `mrd_jax.encoder.save` or `mrd_jax.tools.convert`), workdir of a
        run, `.npz` file written by `save`, or hf://USER/NAME.

    Returns:
      Nested dict of numpy arrays, with `params` and, if the student has any, `batch_stats`.

    Raises:
      FileNotFoundError: the path is none of these.
      ValueError: the file is corrupt.
    """
    source = hub.resolve(path)
    if source.suffix != ".npz":
        stored = restore.find_student(source)
        variables = stored.read_variables()
        if stored.card.module_up_axis == batch_spec.UP_AXIS:
            return variables
        return axes.weights_for_z_up(
            variables,
            architecture=stored.card.student["name"],
            convention=stored.card.from_y_up,
        )
    try:
        with source.open("rb") as file:
            arrays = dict(numpy_files.ArrayFile(file))
        return flax.traverse_util.unflatten_dict(arrays, sep="/")
    # unflatten_dict raises TypeError if one path is a prefix of another.
    except (numpy_files.ArrayFileError, TypeError) as error:
        raise ValueError(f"{path}: not a valid .npz file ({error}); convert it again") from error


def start_from(
    state: train_state.TrainState, variables: Mapping[str, Any]
) -> train_state.TrainState:
    """Replaces the random weights of a new state by given ones; others stay random.

    Args:
      state: train state at step 0.
      variables: nested dict with some or all leaves of the student's `params` and `batch_stats`.

    Returns:
      The state with these leaves in parameters, moving average and batch-norm statistics.

    Raises:
      ValueError: the student lacks a leaf or has it in another shape; lists all of them.
    """
    random = {"params": state.params["student"], "batch_stats": state.batch_stats}
    leaves = flax.traverse_util.flatten_dict(random, sep="/")
    given = flax.traverse_util.flatten_dict(dict(variables), sep="/")
    faults = [
        f"  {path}: {value.shape} there, {leaves[path].shape if path in leaves else 'absent'} here"
        for path, value in given.items()
        if path not in leaves or leaves[path].shape != value.shape
    ]
    if faults:
        raise ValueError("config.initial_weights does not fit config.model:\n" + "\n".join(faults))
    LOGGER.info("initialised %d of %d arrays of the student", len(given), len(leaves))
    merged = leaves | {path: np.asarray(value, leaves[path].dtype) for path, value in given.items()}
    new = flax.traverse_util.unflatten_dict(merged, sep="/")
    return state.replace(
        params=state.params | {"student": new["params"]},
        batch_stats=new.get("batch_stats", {}),
        ema=None if state.ema is None else jax.tree.map(np.copy, new["params"]),
    )
