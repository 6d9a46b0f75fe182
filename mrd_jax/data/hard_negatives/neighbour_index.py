# SPDX-License-Identifier: Apache-2.0
"""Neighbour index: the nearest records of each record, for sampling hard negatives.

`mrd_jax.tools.neighbours` builds it and writes it beside the data set.
"""

import dataclasses
import hashlib
import io
import json

import numpy as np
from ml_collections import ConfigDict

from mrd_jax import atomic_io, storage
from mrd_jax.data import numpy_files

# Folder of the index files, below the folder of the data set.
FOLDER = "neighbours"
COMMAND = "python -m mrd_jax.tools.neighbours"


@dataclasses.dataclass(frozen=True)
class NeighbourIndex:
    """Nearest records of each record of a split.

    Attributes:
      indices: int32 [records, count], nearest first; -1 pads lists with fewer neighbours.
      fingerprint: fingerprint of the data set, see `mrd_jax.data.dataset_metadata.fingerprint`.
      split: name of the split.
      feature: feature that was compared: "image", "text" or "shape".
    """

    indices: np.ndarray
    fingerprint: str
    split: str
    feature: str

    def content_fingerprint(self) -> str:
        """Returns a fingerprint of the indices alone, 16 hex digits."""
        text = f"{self.indices.shape}".encode() + self.indices.astype("<i4").tobytes()
        return hashlib.sha256(text).hexdigest()[:16]


def default_path(directory: storage.PathLike, split: str) -> storage.Path:
    """Returns the path of the index that is used if `config.data.neighbours_file` is empty.

    Args:
      directory: folder of the data set.
      split: name of the split.
    """
    return storage.path(directory) / FOLDER / f"{split}.npz"


def write(path: storage.PathLike, index: NeighbourIndex) -> None:
    """Writes an index atomically.

    Args:
      path: `.npz` file to write; its folder is created if it does not exist.
      index: index to write.
    """
    fields = dataclasses.asdict(index)
    indices = fields.pop("indices")
    atomic_io.write_npz(path, indices=indices, about=np.array(json.dumps(fields)))


def read(path: storage.PathLike) -> NeighbourIndex:
    """Reads an index.

    Args:
      path: `.npz` file.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file is corrupt or holds something else.
    """
    file_path = storage.path(path)
    if not file_path.exists():
        raise FileNotFoundError(
            f"config.data.hard_negatives needs a neighbour index, but {path} does not exist; "
            f"run {COMMAND} --data DIR, or set config.data.neighbours_file"
        )
    try:
        file = numpy_files.ArrayFile(io.BytesIO(file_path.read_bytes()))
        index = NeighbourIndex(file["indices"], **json.loads(str(file["about"])))
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ValueError(
            f"{path} is corrupt or not a neighbour index ({error}); run {COMMAND} again"
        ) from error
    indices = index.indices
    if indices.ndim != 2 or indices.dtype != np.int32:
        raise ValueError(
            f"{path} holds {indices.dtype} {list(indices.shape)}; expected int32 [records, count]; "
            f"run {COMMAND} again"
        )
    return index


def check(config: ConfigDict) -> None:
    """Validates the fields of hard negatives against the batch size.

    Args:
      config: config of the run; reads batch_size, data.hard_negatives and data.neighbours.

    Raises:
      ValueError: no row is left for seeds, or there are too few neighbours per seed.
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


def open_for(config: ConfigDict, *, fingerprint: str, records: int) -> NeighbourIndex | None:
    """Opens the index that a run samples hard negatives from.

    Args:
      config: config of a run; reads batch_size, data.hard_negatives, data.neighbours,
        data.neighbours_file, data.directory and data.train_split.
      fingerprint: fingerprint of the training data set.
      records: number of records of the training split.

    Returns:
      The index, with the nearest `data.neighbours` neighbours of each record; None if
      `data.hard_negatives` is 0.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file is corrupt, belongs to other data or has too few neighbours, or the batch
        is larger than the split.
    """
    data = config.data
    if not data.hard_negatives:
        return None
    if records < config.batch_size:
        raise ValueError(
            f"config.batch_size is {config.batch_size}, but split {data.train_split!r} has only "
            f"{records} records; with config.data.hard_negatives, the records of a batch are "
            "distinct; lower it"
        )
    path = data.neighbours_file or default_path(data.directory, data.train_split)
    index = read(path)
    run_again = f"run {COMMAND} --data {data.directory} --split {data.train_split}"
    expected = {"fingerprint": fingerprint, "split": data.train_split}
    for field, want in expected.items():
        if getattr(index, field) != want:
            raise ValueError(
                f"{path} belongs to another data set: its {field} is {getattr(index, field)!r}, "
                f"that of config.data is {want!r}; {run_again}"
            )
    indices = index.indices
    if len(indices) != records or not np.all((indices >= -1) & (indices < records)):
        raise ValueError(
            f"{path} does not fit the {records} records of split {data.train_split!r}: it has "
            f"{len(indices)} rows of indices from {indices.min()} to {indices.max()}; {run_again}"
        )
    if indices.shape[1] < data.neighbours:
        raise ValueError(
            f"{path} has {indices.shape[1]} neighbours per record, but config.data.neighbours "
            f"is {data.neighbours}; {run_again} --count {data.neighbours}, or lower it"
        )
    return dataclasses.replace(index, indices=indices[:, : data.neighbours])
