# SPDX-License-Identifier: Apache-2.0
"""Reads single tensors of a file of weights, so that half of a model needs half of the memory."""

import dataclasses
import pathlib
import struct
import zipfile
from collections.abc import Callable, Mapping

import numpy as np
import safetensors

from data_prep.foreign import pickle_checks
from data_prep.teachers.lit.frozen import torch_file

# Largest pickle of a state dict, which holds names and shapes only.
_PICKLE_BYTES = 64 * 2**20
# Entries of a training checkpoint that hold the state dict.
_ENTRY = "state_dict"
# Prefix that torch's DistributedDataParallel adds to every key.
_WRAPPER = "module."
# Position, in a local header of a zip archive, of the lengths of the name and of the extra field,
# which follow the lengths and precede the content.
_NAME_LENGTH = 26


@dataclasses.dataclass(frozen=True)
class TensorFile:
    """An open file of weights.

    Attributes:
      path: the file.
      shapes: shape by key.
      read: function from a key to the array, in the type of the file.
      metadata: text by name, {} for a pickle.
    """

    path: pathlib.Path
    shapes: dict[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]
    metadata: dict[str, str]


def open_file(path: pathlib.Path) -> TensorFile:
    """Opens a file of weights; reads names and shapes only.

    Args:
      path: `.safetensors`, or a pickle of PyTorch 1.6 or later. Nothing that a pickle names is
        called, and PyTorch is not needed.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file is corrupt or of another kind.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: not found; expected a file of weights of OpenCLIP")
    opened = _open_safetensors(path) if path.suffix == ".safetensors" else _open_pickle(path)
    if opened.shapes and all(key.startswith(_WRAPPER) for key in opened.shapes):
        read = opened.read
        return dataclasses.replace(
            opened,
            shapes={key.removeprefix(_WRAPPER): shape for key, shape in opened.shapes.items()},
            read=lambda key: read(_WRAPPER + key),
        )
    return opened


def _open_safetensors(path: pathlib.Path) -> TensorFile:
    try:
        file = safetensors.safe_open(path, framework="numpy")
        shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: not a complete safetensors file: {error}") from error
    return TensorFile(path, shapes, file.get_tensor, file.metadata() or {})


def _open_pickle(path: pathlib.Path) -> TensorFile:
    try:
        tensors = _read_pickle(path)
    except (*torch_file.CORRUPT, zipfile.BadZipFile, struct.error, RuntimeError, OSError) as error:
        raise ValueError(
            f"{path}: expected a state dict of plain tensors, as torch.save writes it (PyTorch 1.6 "
            f"or later), found: {error}. Save the state dict alone with "
            "safetensors.torch.save_file on a machine with PyTorch"
        ) from error
    shapes = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    return TensorFile(path, shapes, lambda key: tensors[key].array(), {})


def _read_pickle(path: pathlib.Path) -> Mapping[str, torch_file.Tensor]:
    """Reads the tensors of a state dict without their elements, which are mapped into memory."""
    with zipfile.ZipFile(path) as archive:
        members = {member.filename.partition("/")[2]: member for member in archive.infolist()}
        if "constants.pkl" in members:
            raise ValueError("a TorchScript archive, such as OpenAI's releases")
        if "data.pkl" not in members:
            raise ValueError("an archive without data.pkl")
        if members["data.pkl"].file_size > _PICKLE_BYTES:
            raise ValueError(f"data.pkl has {members['data.pkl'].file_size} bytes")
        if "byteorder" in members and archive.read(members["byteorder"]) != b"little":
            raise ValueError("a big-endian writer")
        with archive.open(members["data.pkl"]) as file:
            pickle_checks.check(file)
            reader = torch_file.Unpickler(file)
            content = reader.load()
        content = content.get(_ENTRY, content) if isinstance(content, dict) else content
        if not isinstance(content, dict) or not content:
            raise ValueError(f"{type(content).__name__}, not a state dict")
        others = [key for key, value in content.items() if not isinstance(value, torch_file.Tensor)]
        if others:
            raise ValueError(f"entries that are not tensors: {', '.join(map(str, others[:5]))}")
        for key, storage in reader.storages.items():
            member = members.get(f"data/{key}")
            if member is None or member.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"no uncompressed storage {key}")
            storage.elements = _map(path, member, storage)
    return content


def _map(path: pathlib.Path, member: zipfile.ZipInfo, storage: torch_file.Storage) -> np.ndarray:
    """Maps the elements of a storage into memory."""
    if member.file_size != storage.size * storage.dtype.itemsize:
        raise ValueError(f"{member.filename} has {member.file_size} bytes")
    if not storage.size:
        return np.empty(0, storage.dtype)
    with path.open("rb") as file:
        file.seek(member.header_offset + _NAME_LENGTH)
        lengths = struct.unpack("<2H", file.read(4))
    offset = member.header_offset + _NAME_LENGTH + 4 + sum(lengths)
    return np.memmap(path, storage.dtype, "r", offset=offset, shape=(storage.size,))
