# SPDX-License-Identifier: Apache-2.0
"""Reads untrusted `.npy` files, including pickled ones, without running code from them.

A pickle is a program that looks up functions by name and calls them. Published `.npy` files of a
dict are pickles. This unpickler replaces every name that a pickle may use by an object of this file
that records its arguments. numpy is called only at the end, with a plain number type and bytes of
the right length, because numpy's own `dtype.__setstate__` and `ndarray.__setstate__` trust their
arguments: a forged dtype makes numpy follow addresses from the file.

Rejected, with the name of the file: all functions and classes except the seven names for arrays,
numbers and old bytes; object, date and structured types; object arrays with two or more axes;
containers that contain themselves.
"""

import pickle
import re
import tokenize
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from data_prep.foreign import pickle_checks

# Booleans, integers, floats, text and bytes; "O" only for the object array around the content.
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]|[US]\d{1,6}|O8?")
_CONTAINERS = (list, tuple, set, frozenset)
_PLAIN = (str, int, float, bool, bytes, type(None))


class UnsafePickleError(ValueError):
    """Raised for a file that needs more than arrays and plain containers, or is corrupt."""


def load(path: Path) -> Any:
    """Reads a `.npy` file.

    Args:
      path: file of `numpy.save` with numbers, a dict, or a list of plain values.

    Returns:
      An array of numbers, or the content of an object array: the value of a 0-d array, the list of
      a 1-d array. Arrays inside are read-only; numpy scalars become Python scalars.

    Raises:
      FileNotFoundError: the file does not exist.
      UnsafePickleError: the file is rejected or corrupt; the message contains its path and the
        reason.
    """
    path = Path(path)
    with path.open("rb") as file:
        try:
            if _holds_pickle(file):
                pickle_checks.check(file)
                return _finish(_Unpickler(file).load(), {})
            file.seek(0)
            return np.load(file, allow_pickle=False)
        except UnsafePickleError as error:
            raise UnsafePickleError(f"{path}: {error}") from error
        except RecursionError as error:
            raise UnsafePickleError(f"{path}: refused: nested too deep") from error
        # Exceptions of the unpickler for a truncated or corrupt pickle, or for wrong arguments.
        except (
            pickle.UnpicklingError,
            AttributeError,
            EOFError,
            IndexError,
            KeyError,
            MemoryError,
            OverflowError,
            SyntaxError,
            TypeError,
            ValueError,
            tokenize.TokenError,
        ) as error:
            reason = f"{type(error).__name__}: {error}"
            raise UnsafePickleError(
                f"{path}: not a valid .npy file ({reason}); download it again"
            ) from error


def _holds_pickle(file: BinaryIO) -> bool:
    """Reads the header; returns True if a pickle follows it.

    Raises:
      UnsafePickleError: the version is unknown, or there is no pickle and no numbers or text.
    """
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise UnsafePickleError(f".npy format is {version}, expected one of {sorted(readers)}")
    dtype = readers[version](file)[2]
    if dtype.hasobject:
        return True
    if not _DTYPE.fullmatch(dtype.str.lstrip("<>=|")):
        raise UnsafePickleError(
            f"refused: numbers of type {dtype}; expected booleans, integers, floats or text"
        )
    return False


class _Unpickler(pickle.Unpickler):
    """Unpickler that allows seven names and rejects all others before it looks them up."""

    def find_class(self, module: str, name: str) -> Any:
        substitute = _NAMES.get((module, name))
        if substitute is None:
            raise UnsafePickleError(
                f"refused: the pickle uses {module}.{name}; expected only numpy arrays and plain "
                "containers; no code of it was run"
            )
        return substitute


class _Name:
    """Name that is only an argument. It has no attributes that a pickle could change."""

    __slots__ = ()


class _Dtype:
    """Records a number type."""

    __slots__ = ("_name", "order")

    def __init__(self, name: str):
        self._name, self.order = name, "|"

    def __setstate__(self, state: tuple) -> None:
        _, self.order, *structure = state[:5]
        if self.order not in ("<", ">", "=", "|") or any(part is not None for part in structure):
            raise UnsafePickleError(f"refused: a structured type {state!r}; expected plain numbers")

    @property
    def is_object(self) -> bool:
        return self._name.startswith("O")

    def resolve(self) -> np.dtype:
        """Returns a new numpy type from the recorded name."""
        if self.is_object:
            raise UnsafePickleError("refused: numbers of object type")
        return np.dtype(self.order.strip("|") + self._name)


class _Array:
    """Records an array."""

    __slots__ = ("_state",)

    def __init__(self) -> None:
        self._state = None

    def __setstate__(self, state: tuple) -> None:
        self._state = state

    def resolve(self) -> np.ndarray | Sequence[Any] | Any:
        """Returns an array of numbers, or the value or list in an array of objects."""
        if self._state is None:
            raise UnsafePickleError("refused: an array without content")
        _, shape, dtype, fortran, data = self._state
        if not isinstance(dtype, _Dtype) or not all(isinstance(n, int) and n >= 0 for n in shape):
            raise UnsafePickleError(f"refused: an array of shape {shape!r}")
        if not dtype.is_object:
            values = np.frombuffer(data, dtype.resolve()) if data else np.zeros(0, dtype.resolve())
            return values.reshape(shape, order="F" if fortran else "C")
        if len(shape) > 1 or not isinstance(data, list) or len(data) != int(np.prod(shape)):
            raise UnsafePickleError(
                f"refused: an array of objects of shape {shape}; expected one value or a list"
            )
        return data if shape else data[0]


class _MakeDtype:
    """Substitute for `numpy.dtype`."""

    __slots__ = ()

    def __call__(self, name: Any, align: Any = False, copy: Any = True) -> _Dtype:
        if not isinstance(name, str) or not _DTYPE.fullmatch(name):
            raise UnsafePickleError(
                f"refused: numbers of type {name!r}; expected booleans, integers, floats or text"
            )
        return _Dtype(name)


class _MakeArray:
    """Substitute for numpy's `_reconstruct`, which creates an empty array for `__setstate__`."""

    __slots__ = ()

    def __call__(self, kind: Any, shape: Any, code: Any) -> _Array:
        if kind is not _NDARRAY:
            raise UnsafePickleError(f"refused: an array of kind {kind!r}; expected numpy.ndarray")
        return _Array()


class _MakeScalar:
    """Substitute for numpy's `scalar`; returns a number, text or bytes of Python."""

    __slots__ = ()

    def __call__(self, dtype: Any, data: Any = b"") -> Any:
        if not isinstance(dtype, _Dtype) or not isinstance(data, bytes):
            raise UnsafePickleError("refused: a number that is not made of a type and bytes")
        resolved = dtype.resolve()
        if len(data) != resolved.itemsize or not data:
            raise UnsafePickleError(f"refused: a number of {len(data)} bytes as {resolved}")
        return np.frombuffer(data, resolved)[0].item()


class _MakeBytes:
    """Substitute for `_codecs.encode`: protocols below 3 store bytes as Latin-1 text."""

    __slots__ = ()

    def __call__(self, text: Any, encoding: Any) -> bytes:
        if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
            raise UnsafePickleError(f"refused: bytes in the encoding {encoding!r}; expected latin1")
        return text.encode("latin-1")


_UNFINISHED = _Name()
_NDARRAY = _Name()
_NAMES = {
    ("numpy", "dtype"): _MakeDtype(),
    ("numpy", "ndarray"): _NDARRAY,
    ("numpy.core.multiarray", "_reconstruct"): _MakeArray(),  # numpy 1
    ("numpy._core.multiarray", "_reconstruct"): _MakeArray(),  # numpy 2
    ("numpy.core.multiarray", "scalar"): _MakeScalar(),
    ("numpy._core.multiarray", "scalar"): _MakeScalar(),
    ("_codecs", "encode"): _MakeBytes(),
}


def _finish(value: Any, done: dict[int, Any]) -> Any:
    """Replaces recorded arrays by numpy arrays; rejects all but plain values.

    Args:
      value: result of the unpickler.
      done: id -> result for the values met before, so that a pickle that repeats one list does not
        grow.
    """
    if type(value) in _PLAIN:
        return value
    if id(value) not in done:
        done[id(value)] = _UNFINISHED
        done[id(value)] = _finish_container(value, done)
    if done[id(value)] is _UNFINISHED:
        raise UnsafePickleError("refused: a container that contains itself")
    return done[id(value)]


def _finish_container(value: Any, done: dict[int, Any]) -> Any:
    if type(value) is _Array:
        resolved = value.resolve()
        return resolved if isinstance(resolved, np.ndarray) else _finish(resolved, done)
    if type(value) is dict:
        return {_finish(key, done): _finish(item, done) for key, item in value.items()}
    if type(value) in _CONTAINERS:
        return type(value)([_finish(item, done) for item in value])
    raise UnsafePickleError(
        f"refused: a value of type {type(value).__name__}; expected arrays and plain containers"
    )
