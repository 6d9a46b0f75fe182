# SPDX-License-Identifier: Apache-2.0
"""Reads PyTorch checkpoint files as flat dicts of numpy arrays, without executing pickled code."""

import pathlib
import pickle
import struct
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

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
      ImportError: PyTorch or safetensors is needed and not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: checkpoint file not found")
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    elif path.suffix in (".pt", ".pth", ".bin"):
        state = _read_pickle(path, entry=ENTRIES[source])
    else:
        raise ValueError(f"{path}: expected .safetensors, .pt, .pth or .bin")
    if state and all(key.startswith(WRAPPER) for key in state):
        state = {key.removeprefix(WRAPPER): value for key, value in state.items()}
    return state


def _read_safetensors(path: pathlib.Path) -> dict[str, np.ndarray]:
    try:
        import safetensors
        import safetensors.numpy
    except ImportError as error:
        raise ImportError('safetensors is needed: pip install "mrd_jax[convert]"') from error
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path}: not a complete safetensors file: {error}") from error


def _read_pickle(path: pathlib.Path, *, entry: str) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is a PyTorch pickle, and PyTorch is not installed. Either pip install "
            '"mrd_jax[convert]", or save the state dict as .safetensors on a machine with PyTorch '
            "(safetensors.torch.save_file); reading that needs no PyTorch."
        ) from error
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
