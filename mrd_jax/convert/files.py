# SPDX-License-Identifier: Apache-2.0
"""Reads and writes PyTorch checkpoint files as flat dicts of numpy arrays; executes no pickle."""

import pathlib
import pickle
import struct
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np
import safetensors
import safetensors.numpy

from mrd_jax import atomic_io

# Entry of each source's checkpoint that holds the state dict.
ENTRIES = {"openshape": "state_dict", "uni3d": "module", "eva": "state_dict"}
# Exceptions of torch.load for corrupt or unsafe pickles.
_UNREADABLE = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError),
    *(LookupError, TypeError, struct.error),
)
# Prefix that torch's DistributedDataParallel adds to every key.
WRAPPER = "module."


def read(path: pathlib.Path, *, source: str) -> dict[str, np.ndarray]:
    """Reads the state dict of a checkpoint.

    Args:
      path: `.safetensors` file, or a PyTorch pickle (`.pt`, `.pth`, `.bin`), which needs the
        extra `convert`.
      source: origin of the checkpoint, a key of `ENTRIES`. The state dict may be under that entry
        or at the top of the file.

    Returns:
      Array by released key, without the prefix `module.`; types are kept.

    Raises:
      FileNotFoundError: the file does not exist.
      ValueError: the file is of another type, corrupt, or has no state dict.
      ImportError: PyTorch is needed and not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: checkpoint file not found")
    if _is_safetensors(path):
        state = _read_safetensors(path)
    else:
        state = _read_pickle(path, entry=ENTRIES[source])
    if state and all(key.startswith(WRAPPER) for key in state):
        state = {key.removeprefix(WRAPPER): value for key, value in state.items()}
    return state


def write(
    path: pathlib.Path, state: Mapping[str, np.ndarray], *, source: str, prefix: str = ""
) -> None:
    """Writes the state dict of a module atomically, as the release of `source` stores it.

    Args:
      path: new `.safetensors` file, or PyTorch pickle (`.pt`, `.pth`, `.bin`), which needs the
        extra `convert`.
      state: array by key of the module.
      source: "openshape" or "uni3d". A pickle of the former has the keys under "state_dict" and
        with the prefix `module.`, of the latter under "module".
      prefix: prefix of all keys instead, at the top of the file: "pc_encoder." for OpenShape's
        students of CLIP ViT-B/32 and ViT-L/14.

    Raises:
      FileExistsError: the file exists.
      ValueError: the file is of another type.
      ImportError: PyTorch is needed and not installed.
    """
    check_new(path)
    wrapper = prefix or (WRAPPER if source == "openshape" else "")
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_safetensors(path):
        named = {prefix + key: np.array(value, order="C") for key, value in state.items()}
        with atomic_io.replacing(path) as temporary:
            safetensors.numpy.save_file(named, temporary)
        return
    torch = _import_torch(path)
    tensors = {
        wrapper + key: torch.from_numpy(np.array(value, order="C")) for key, value in state.items()
    }
    with atomic_io.replacing(path) as temporary:
        torch.save(tensors if prefix else {ENTRIES[source]: tensors}, temporary)


def check_new(path: pathlib.Path) -> None:
    """Raises an error, as `write` does, if a file cannot be written: before its content is made."""
    if path.exists():
        raise FileExistsError(f"{path} exists; choose another path or remove it first")
    if not _is_safetensors(path):
        _import_torch(path)


def _is_safetensors(path: pathlib.Path) -> bool:
    if path.suffix not in (".safetensors", ".pt", ".pth", ".bin"):
        raise ValueError(f"{path}: expected .safetensors, .pt, .pth or .bin")
    return path.suffix == ".safetensors"


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: not a complete safetensors file: {error}") from error


def _import_torch(path: pathlib.Path) -> Any:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is a PyTorch pickle, and PyTorch is not installed. Either pip install "
            '"mrd_jax[convert]", or use .safetensors, which needs no PyTorch '
            "(safetensors.torch.save_file and load_file on a machine with PyTorch)."
        ) from error
    return torch


def _read_pickle(path: pathlib.Path, *, entry: str) -> dict[str, np.ndarray]:
    torch = _import_torch(path)
    try:
        # Tensors and plain containers only, so that no code of the file is executed.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        raise ValueError(
            f"{path}: not a checkpoint of plain tensors that torch.load can read safely: {error}"
        ) from error
    state = content.get(entry, content) if isinstance(content, Mapping) else content
    keys = isinstance(state, Mapping) and [
        key for key, value in state.items() if isinstance(value, torch.Tensor)
    ]
    if not keys:
        found = sorted(map(str, content)) if isinstance(content, Mapping) else type(content)
        raise ValueError(f"{path}: expected a state dict under {entry!r}, found {found}")
    return {key: _to_numpy(state[key]) for key in keys}


def _to_numpy(tensor: Any) -> np.ndarray:
    """Converts a tensor; bfloat16 through its bits, since numpy lacks the type."""
    import torch

    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
