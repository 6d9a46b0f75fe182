# SPDX-License-Identifier: Apache-2.0
"""Safe reader of state dicts in the file format of PyTorch before 1.6, without PyTorch.

Such a file is a sequence of pickles (magic number, protocol, system, state dict, storage keys)
followed by the raw storages. A pickle can call any function that it names; this reader accepts four
names and rejects all others.
"""

import collections
import math
import pathlib
import pickle
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np

from data_prep.foreign import pickle_checks

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
DTYPES = {
    "FloatStorage": np.dtype("<f4"),
    "HalfStorage": np.dtype("<f2"),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "LongStorage": np.dtype("<i8"),
}
# Exceptions of the unpickler and of numpy for truncated, corrupt and malicious files.
CORRUPT = (
    *(pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, LookupError),
    *(ArithmeticError, MemoryError, RecursionError),
)


class _Kind:
    """Placeholder of a numeric type.

    It has no attributes that a pickle could modify, unlike a numpy.dtype, which is shared by the
    whole process.
    """

    __slots__ = ()


_KINDS = {name: _Kind() for name in DTYPES}
_DTYPE_OF = {_KINDS[name]: dtype for name, dtype in DTYPES.items()}


class Storage:
    """Storage whose elements are assigned after the pickle that refers to it has been read."""

    __slots__ = ("dtype", "elements", "size")

    def __init__(self, dtype: np.dtype, size: int):
        self.dtype = dtype
        self.size = size
        self.elements: np.ndarray | None = None


class Tensor:
    """Strided view of a storage whose elements have not been read yet."""

    __slots__ = ("offset", "shape", "storage", "stride")

    def __init__(self, storage, offset, shape, stride, requires_grad, hooks):
        del requires_grad, hooks  # used by autograd only
        if not isinstance(storage, Storage):
            raise pickle.UnpicklingError("a tensor without a storage")
        self.storage = storage
        self.offset = offset
        self.shape = shape
        self.stride = stride

    def array(self) -> np.ndarray:
        """Copies the elements out of the storage; raises ValueError if the view exceeds it."""
        if not all(type(n) is int and n >= 0 for n in (self.offset, *self.shape, *self.stride)):
            raise ValueError(f"a tensor of shape {self.shape!r} and stride {self.stride!r}")
        steps = zip(self.shape, self.stride, strict=True)
        last = self.offset + sum((n - 1) * step for n, step in steps)
        # With a stride of 0, one element could expand to a tensor of any size.
        if max(last + 1, math.prod(self.shape)) > self.storage.size:
            raise ValueError(f"a tensor of shape {self.shape} exceeds its storage")
        width = self.storage.dtype.itemsize
        strides = tuple(step * width for step in self.stride)
        flat = self.storage.elements[self.offset :]
        return np.lib.stride_tricks.as_strided(flat, self.shape, strides).copy()


class Unpickler(pickle.Unpickler):
    """Unpickler that resolves four harmless names and rejects all others."""

    def __init__(self, file: BinaryIO):
        super().__init__(file)
        self.storages: dict[str, Storage] = {}

    def find_class(self, module: str, name: str):
        """Returns a substitute for one of the four names; raises UnpicklingError for others."""
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return Tensor
        if module == "torch" and name in DTYPES:
            return _KINDS[name]
        raise pickle.UnpicklingError(f"the name {module}.{name}, which plain tensors do not need")

    def persistent_load(self, pid) -> Storage:
        """Returns the storage that a persistent id describes."""
        # The format before 1.6 has a sixth entry, for views of storages.
        kind, dtype, key, _, size, *view = pid
        if kind != "storage" or view not in ([], [None]) or type(dtype) is not _Kind:
            raise pickle.UnpicklingError(f"unknown persistent object {pid!r}")
        if type(size) is not int or size < 0:
            raise pickle.UnpicklingError(f"a storage of {size!r} elements")
        return self.storages.setdefault(key, Storage(_DTYPE_OF[dtype], size))


def load(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads a state dict.

    Args:
      path: file written by `torch.save(model.state_dict(), ...)` in the format before 1.6.

    Returns:
      key -> array, in the order of the file.

    Raises:
      ValueError: the file has another format, is truncated, or contains names that plain tensors do
        not need, as an attack would. Nothing that it names has been called.
    """
    try:
        with open(path, "rb") as file:
            return _read(file)
    except CORRUPT as error:
        raise ValueError(
            f"{path}: expected a state dict of plain tensors in PyTorch's format before 1.6, "
            f"found: {error}. Install the weight package again."
        ) from error


def _next(file: BinaryIO) -> Any:
    """Reads the next pickle of the file."""
    pickle_checks.check(file)
    return Unpickler(file).load()


def _read(file: BinaryIO) -> dict[str, np.ndarray]:
    if (magic := _next(file)) != MAGIC:
        raise ValueError(f"magic number {magic!r}")
    if (protocol := _next(file)) != PROTOCOL:
        raise ValueError(f"protocol {protocol!r}")
    if (system := _next(file))["little_endian"] is not True:
        raise ValueError(f"a big-endian writer {system!r}")
    pickle_checks.check(file)
    reader = Unpickler(file)
    tensors = reader.load()
    for key in _next(file):
        storage = reader.storages[key]
        (size,) = np.frombuffer(file.read(8), "<i8")
        data = file.read(int(size) * storage.dtype.itemsize)
        if size != storage.size or len(data) != size * storage.dtype.itemsize:
            raise ValueError(f"storage {key} has {len(data)} bytes, expected {storage.size} items")
        storage.elements = np.frombuffer(data, storage.dtype)
    return {name: tensor.array() for name, tensor in tensors.items()}
