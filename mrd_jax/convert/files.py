# SPDX-License-Identifier: Apache-2.0
"""Checkpoint files as flat dicts of numpy arrays, without running anything that they name."""

import pathlib
import pickle
import struct
from collections.abc import Mapping
from typing import Any

import ml_dtypes
import numpy as np

# Where each peer keeps the state dict inside its checkpoint.
ENTRIES = {"openshape": "state_dict", "uni3d": "module", "eva": "state_dict"}
# What PyTorch's reader raises on damaged or forbidden pickles.
_DAMAGED = (
    *(pickle.UnpicklingError, RuntimeError, EOFError, ValueError),
    *(LookupError, TypeError, struct.error),
)
# Left by torch's DistributedDataParallel.
WRAPPER = "module."


def read(path: pathlib.Path, *, source: str) -> dict[str, np.ndarray]:
    """Read a checkpoint's weights.

    Args:
      path: `.safetensors`, or a pickle of PyTorch (`.pt`, `.pth`, `.bin`), which needs the
        `convert` extra.
      source: whose checkpoint it is, a key of `ENTRIES`: the state dict may lie under that entry
        or be the file itself.

    Returns:
      Released key, without `module.`, -> float array; whole numbers keep their type.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: the file is of another kind, is damaged or holds no state dict.
      ImportError: PyTorch is needed and not installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such checkpoint file")
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
        raise ValueError(f"{path}: not a whole safetensors file: {error}") from error


def _read_pickle(path: pathlib.Path, *, entry: str) -> dict[str, np.ndarray]:
    try:
        import torch
    except ImportError as error:
        raise ImportError(
            f"{path} is a pickle of PyTorch, and PyTorch is not installed. Either pip install "
            '"mrd_jax[convert]", or save the state dict as .safetensors where PyTorch is '
            "(safetensors.torch.save_file), which is read without it."
        ) from error
    try:
        # Tensors and plain containers only: nothing that the file names is called.
        content = torch.load(path, map_location="cpu", weights_only=True)
    except _DAMAGED as error:
        raise ValueError(
            f"{path}: not a checkpoint of plain tensors that PyTorch can read safely: {error}"
        ) from error
    state = content.get(entry, content) if isinstance(content, Mapping) else content
    tensors = isinstance(state, Mapping) and [
        key for key, value in state.items() if isinstance(value, torch.Tensor)
    ]
    if not tensors:
        found = sorted(map(str, content)) if isinstance(content, Mapping) else type(content)
        raise ValueError(f"{path}: expected a state dict under {entry!r}, found {found}")
    return {key: _to_numpy(state[key]) for key in tensors}


def _to_numpy(tensor: Any) -> np.ndarray:
    """A tensor's values; bfloat16, which numpy lacks, by its bits."""
    import torch

    tensor = tensor.detach()
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.uint16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()
