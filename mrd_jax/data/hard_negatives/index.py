# SPDX-License-Identifier: Apache-2.0
"""Nearest records of each record, as `mrd_jax.tools.neighbours` leaves them beside a data set."""

import dataclasses
import hashlib
import io
import json
import os

import numpy as np
from etils import epath
from ml_collections import ConfigDict

from mrd_jax import atomic_io
from mrd_jax.data import numpy_files

# Folder of the files below that of the data set.
FOLDER = "neighbours"
COMMAND = "python -m mrd_jax.tools.neighbours"


@dataclasses.dataclass(frozen=True)
class Neighbours:
    """Nearest records of each record of a split.

    Attributes:
      indices: int32 [records, count], nearest first; -1 where there are fewer.
      fingerprint: of the data set, see `mrd_jax.data.source.fingerprint`.
      split: of the data set.
      feature: what was compared.
    """

    indices: np.ndarray
    fingerprint: str
    split: str
    feature: str

    def digest(self) -> str:
        """Tells neighbours apart: a short hash of the indices, whatever file they came from."""
        text = f"{self.indices.shape}".encode() + self.indices.astype("<i4").tobytes()
        return hashlib.sha256(text).hexdigest()[:16]


def default_path(directory: str | os.PathLike, split: str) -> epath.Path:
    """Where the neighbours of a split lie if nobody says otherwise.

    Args:
      directory: folder of the data set.
      split: of it.
    """
    return epath.Path(directory) / FOLDER / f"{split}.npz"


def write(path: str | os.PathLike, neighbours: Neighbours) -> None:
    """Writes the file, complete or not at all.

    Args:
      path: of the file; its folder is made where it is missing.
      neighbours: to write.
    """
    fields = dataclasses.asdict(neighbours)
    indices = fields.pop("indices")
    atomic_io.write_npz(path, indices=indices, about=np.array(json.dumps(fields)))


def read(path: str | os.PathLike) -> Neighbours:
    """Reads what `write` wrote.

    Args:
      path: of the file.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is damaged, or something else.
    """
    file_path = epath.Path(path)
    if not file_path.exists():
        raise FileNotFoundError(
            f"no neighbours in {path}, and config.data.hard_negatives needs them; run {COMMAND} "
            f"--data DIR, or set config.data.neighbours_file"
        )
    try:
        file = numpy_files.ArrayFile(io.BytesIO(file_path.read_bytes()))
        found = Neighbours(file["indices"], **json.loads(str(file["about"])))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is damaged or no file of neighbours ({error}); run {COMMAND} again"
        ) from error
    indices = found.indices
    if indices.ndim != 2 or indices.dtype != np.int32:
        raise ValueError(
            f"{path} holds {indices.dtype} {list(indices.shape)} instead of int32 [records, "
            f"count]; run {COMMAND} again"
        )
    return found


def check(config: ConfigDict) -> None:
    """Refuses what no file of neighbours could serve.

    Args:
      config: the run's config; reads batch_size, data.hard_negatives and data.neighbours.

    Raises:
      ValueError: names the field, what it holds and what it may hold.
    """
    hard, nearest = config.data.hard_negatives, config.data.neighbours
    if not 0 <= hard < config.batch_size:
        raise ValueError(
            f"config.data.hard_negatives is {hard}; with config.batch_size {config.batch_size} it "
            f"must be 0 to {config.batch_size - 1}: the other rows are their seeds"
        )
    seeds = config.batch_size - hard
    each = -(-hard // seeds)
    if nearest < max(each, 1):
        raise ValueError(
            f"config.data.neighbours is {nearest}, but each of the {seeds} seeds of a batch needs "
            f"{each} neighbours; raise it to at least {max(each, 1)} or lower "
            f"config.data.hard_negatives, which is {hard}"
        )


def open_for(config: ConfigDict, *, fingerprint: str, records: int) -> Neighbours | None:
    """The neighbours that a run draws from, if its config asks for any.

    Args:
      config: the run's config, which `check` accepts; reads batch_size and of data
        hard_negatives, neighbours, neighbours_file, directory and train_split.
      fingerprint: of the training data set.
      records: of its training split.

    Returns:
      the nearest data.neighbours of each record; None without hard negatives.

    Raises:
      FileNotFoundError: there is no file.
      ValueError: the file is damaged or of other data, or has too few neighbours, or there are
        fewer records than rows in a batch; says what to do.
    """
    data = config.data
    if not data.hard_negatives:
        return None
    if records < config.batch_size:
        raise ValueError(
            f"config.batch_size is {config.batch_size}, but split {data.train_split!r} has only "
            f"{records} records; with config.data.hard_negatives, a batch has no record twice"
        )
    path = data.neighbours_file or default_path(data.directory, data.train_split)
    found = read(path)
    run_again = f"run {COMMAND} --data {data.directory} --split {data.train_split}"
    expected = {"fingerprint": fingerprint, "split": data.train_split}
    for field, want in expected.items():
        if getattr(found, field) != want:
            raise ValueError(
                f"{path} is of another data set: its {field} is {getattr(found, field)!r}, that "
                f"of config.data is {want!r}; {run_again}"
            )
    indices = found.indices
    if len(indices) != records or not np.all((indices >= -1) & (indices < records)):
        raise ValueError(
            f"{path} does not fit the {records} records of split {data.train_split!r}: it has "
            f"{len(indices)} rows of indices from {indices.min()} to {indices.max()}; {run_again}"
        )
    if indices.shape[1] < data.neighbours:
        raise ValueError(
            f"{path} has {indices.shape[1]} neighbours of each record, but config.data.neighbours "
            f"is {data.neighbours}; {run_again} --count {data.neighbours}, or lower it"
        )
    return dataclasses.replace(found, indices=indices[:, : data.neighbours])
