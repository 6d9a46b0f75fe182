# SPDX-License-Identifier: Apache-2.0
"""Labelled clouds in HDF5, a format in which a file can name others and promise any size."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.foreign import limits

# What h5py raises on damaged files, whatever it was asked for.
_DAMAGED = (OSError, RuntimeError, LookupError, TypeError, AttributeError, OverflowError)


class Clouds:
    """An open file with data [count, points, 3] and label [count] or [count, 1]."""

    def __init__(self, file: Any, *, path: Path):
        """Checks what the file promises, before anything of it is read.

        Args:
          file: of h5py.
          path: of it, for the messages.

        Raises:
          ValueError: it does not hold that, too much of it, or keeps it in another file.
        """
        if "data" not in file or "label" not in file:
            raise ValueError(f"{path}: holds {sorted(file)}, expected 'data' and 'label'")
        self._path = path
        self._data, self._label = (_numbers(file, name, path=path) for name in ("data", "label"))
        shape, labels = self._data.shape, self._label.size
        if len(shape) != 3 or shape[2] != 3 or shape[0] != labels:
            raise ValueError(
                f"{path}: data {list(shape)} and {labels} labels; expected [count, points, 3] and "
                "a label each"
            )
        limits.MEMBERS.check(labels)
        limits.POINTS.check(self.points)

    @property
    def points(self) -> int:
        """Of a cloud."""
        return self._data.shape[1]

    def labels(self) -> np.ndarray:
        """[count]."""
        return self._label[()].reshape(-1)

    def cloud(self, index: int) -> np.ndarray:
        """[points, 3]."""
        return self._data[index]


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Clouds]:
    """Opens a file for reading.

    Raises:
      ImportError: h5py is not installed.
      ValueError: the file is damaged, or holds something else.
    """
    try:
        import h5py  # only the HDF5 forms of two benchmarks need it
    except ImportError as error:
        raise ImportError(
            f"{path}: reading HDF5 needs h5py; pip install 'mrd_jax[prep]'"
        ) from error
    try:
        with h5py.File(path, "r") as file:
            yield Clouds(file, path=path)
    except FileNotFoundError:
        raise
    except limits.LimitError as error:
        raise limits.LimitError(f"{path}: {error}") from error
    except _DAMAGED as error:
        raise ValueError(f"{path}: not a whole HDF5 file ({error}); get it again") from error


def _numbers(file: Any, name: str, *, path: Path) -> Any:
    """An array of numbers that lies in this very file."""
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{path}: {name!r} is a link, perhaps to another file; not followed")
    found = file[name]
    if not isinstance(found, h5py.Dataset) or found.dtype.kind not in "iuf":
        raise ValueError(f"{path}: {name!r} is no array of numbers")
    if found.is_virtual or found.external:
        raise ValueError(f"{path}: {name!r} lies in another file; not followed")
    # Of an array in chunks, a whole chunk is unpacked for one row.
    chunk = np.prod(found.chunks or (0,), dtype=object)
    limits.ARRAY_BYTES.check(int(chunk) * found.dtype.itemsize)
    return found
