# SPDX-License-Identifier: Apache-2.0
"""Where a new run starts: from random weights, or from those of another encoder."""

import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import flax.traverse_util
import jax
import numpy as np
from etils import epath

from mrd_jax import atomic_io
from mrd_jax.checkpoints import restore, train_state
from mrd_jax.data import numpy_files

LOGGER = logging.getLogger(__name__)


def save(path: pathlib.Path, variables: Mapping[str, Any]) -> None:
    """Writes a part of a student's variables, complete or not at all.

    Args:
      path: `.npz` file to write.
      variables: `params` and perhaps `batch_stats`, with some of the student's leaves.

    Raises:
      ValueError: the file is of another kind.
      FileExistsError: it exists.
    """
    if path.suffix != ".npz":
        raise ValueError(f"{path}: a part of a student is written as .npz; name the output so")
    if path.exists():
        raise FileExistsError(f"{path} exists already; choose another name or remove it first")
    atomic_io.write_npz(path, **flax.traverse_util.flatten_dict(dict(variables), sep="/"))


def load(path: str) -> dict[str, Any]:
    """Reads what a run may start from.

    Args:
      path: an encoder (of `mrd_jax.encoder.save`, `mrd_jax.tools.convert` or the workdir of a
        run), or a part of one, as `save` wrote it.

    Returns:
      Nested dict with `params`, and `batch_stats` where there are any, of numpy arrays.

    Raises:
      FileNotFoundError: there is neither.
      ValueError: it is damaged.
    """
    if not path.endswith(".npz"):
        return restore.find_student(epath.Path(path).absolute()).read_variables()
    try:
        with open(path, "rb") as file:
            arrays = dict(numpy_files.ArrayFile(file))
        return flax.traverse_util.unflatten_dict(arrays, sep="/")
    # A path that is also the folder of another is a TypeError there.
    except (numpy_files.ArrayFileError, TypeError) as error:
        raise ValueError(f"{path}: not a whole .npz file ({error}); convert it again") from error


def start_from(
    state: train_state.TrainState, variables: Mapping[str, Any]
) -> train_state.TrainState:
    """A new state whose student has the given weights, and random ones elsewhere.

    Args:
      state: new, at step 0.
      variables: some of the student's leaves.

    Returns:
      The state with these leaves in the parameters, their moving average and the statistics.

    Raises:
      ValueError: names every leaf that the student lacks or has in another shape.
    """
    own = {"params": state.params["student"], "batch_stats": state.batch_stats}
    leaves = flax.traverse_util.flatten_dict(own, sep="/")
    given = flax.traverse_util.flatten_dict(dict(variables), sep="/")
    faults = [
        f"  {path}: {value.shape} there, {leaves[path].shape if path in leaves else 'absent'} here"
        for path, value in given.items()
        if path not in leaves or leaves[path].shape != value.shape
    ]
    if faults:
        raise ValueError("config.initial_weights does not fit config.model:\n" + "\n".join(faults))
    LOGGER.info("%d of the student's %d arrays start as given", len(given), len(leaves))
    merged = leaves | {path: np.asarray(value, leaves[path].dtype) for path, value in given.items()}
    new = flax.traverse_util.unflatten_dict(merged, sep="/")
    return state.replace(
        params=state.params | {"student": new["params"]},
        batch_stats=new.get("batch_stats", {}),
        ema=None if state.ema is None else jax.tree.map(np.copy, new["params"]),
    )
