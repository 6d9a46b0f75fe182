# SPDX-License-Identifier: Apache-2.0
"""Reader of labelled point clouds in HDF5 files.

Files are untrusted: an HDF5 file can refer to other files and declare arrays of any size.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.foreign import limits

# Exceptions that h5py raises for corrupt files.
_CORRUPT = (OSError, RuntimeError, LookupError, TypeError, AttributeError, OverflowError)


class CloudFile:
    """Open HDF5 file with arrays data [count, points, 3] and label [count] or [count, 1]."""

    def __init__(self, file: Any, *, path: Path):
        """Validates the arrays before any of their elements is read.

        Args:
          file: `h5py.File` opened for reading.
          path: path of the file, for error messages.

        Raises:
          ValueError: an array is missing, has another shape, is too large or is stored in another
            file.
        """
        if "data" not in file or "label" not in file:
            raise ValueError(f"{path}: holds {sorted(file)}, expected 'data' and 'label'")
        self._data, self._label = (
            _numeric_array(file, name, path=path) for name in ("data", "label")
        )
        shape, labels = self._data.shape, self._label.size
        if len(shape) != 3 or shape[2] != 3 or shape[0] != labels:
            raise ValueError(
                f"{path}: data {list(shape)} and {labels} labels; expected [count, points, 3] and "
                "one label per cloud"
            )
        limits.MEMBERS.check(labels)
        limits.POINTS.check(self.points)

    @property
    def points(self) -> int:
        """Returns the number of points per cloud."""
        return self._data.shape[1]

    def labels(self) -> np.ndarray:
        """Returns all labels, [count]."""
        return self._label[()].reshape(-1)

    def cloud(self, index: int) -> np.ndarray:
        """Reads one cloud, [points, 3]."""
        return self._data[index]


@contextlib.contextmanager
def open_clouds(path: Path) -> Iterator[CloudFile]:
    """Opens a file for reading.

    Raises:
      ImportError: h5py is not installed.
      ValueError: the file is corrupt or has other content.
    """
    try:
        import h5py  # only two benchmarks need it
    except ImportError as error:
        raise ImportError(
            f"{path}: reading HDF5 files requires h5py; pip install 'mrd_jax[prep]'"
        ) from error
    try:
        with h5py.File(path, "r") as file:
            yield CloudFile(file, path=path)
    except FileNotFoundError:
        raise
    except limits.LimitError as error:
        raise limits.LimitError(f"{path}: {error}") from error
    except _CORRUPT as error:
        raise ValueError(f"{path}: not a valid HDF5 file ({error}); download it again") from error


def _numeric_array(file: Any, name: str, *, path: Path) -> Any:
    """Returns a numeric dataset, after checking that it is stored in this file."""
    import h5py

    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"{path}: {name!r} is a link, possibly to another file; not followed")
    array = file[name]
    if not isinstance(array, h5py.Dataset) or array.dtype.kind not in "iuf":
        raise ValueError(f"{path}: {name!r} is not a numeric array")
    if array.is_virtual or array.external:
        raise ValueError(f"{path}: {name!r} is stored in another file; not followed")
    # Reading one row of a chunked array decompresses a whole chunk.
    chunk = np.prod(array.chunks or (0,), dtype=object)
    limits.ARRAY_BYTES.check(int(chunk) * array.dtype.itemsize)
    return array
