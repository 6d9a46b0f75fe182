# SPDX-License-Identifier: Apache-2.0
"""Point clouds in npy and npz files."""

from pathlib import Path

import numpy as np

from data_prep.foreign import limits
from mrd_jax.data import numpy_files

# Names of the arrays in an npz file.
XYZ_NAMES = ("xyz", "points")
RGB_NAMES = ("rgb", "colors", "colours")


class ArrayError(ValueError):
    """Raised for a file without a point cloud; the message omits the file's name."""


def read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads a point cloud from an npy or npz file; pickles are rejected.

    Args:
      path: an array is [n, 3] xyz or [n, 6] xyz and rgb; an npz contains `xyz` (or `points`) and
        optionally `rgb` (or `colors`), or a single array.

    Returns:
      Coordinates [n, 3], and colours [n, 3] or None, as in the file. The caller checks their
      values.

    Raises:
      ArrayError: the file is corrupt or contains something else.
      limits.LimitError: the file exceeds a limit.
      OSError: the file cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            file = numpy_files.ArrayFile(stream, max_bytes=limits.ARRAY_BYTES.maximum())
            limits.MEMBERS.check(len(file))
            xyz = [name for name in XYZ_NAMES if name in file] or list(file)
            rgb = [name for name in RGB_NAMES if name in file]
            if len(xyz) != 1 or len(rgb) > 1:
                raise ArrayError(f"holds arrays {sorted(file)[:9]}; expected xyz, and perhaps rgb")
            cloud = (file[xyz[0]], file[rgb[0]]) if rgb else _split(file[xyz[0]])
    except numpy_files.PickledError as error:
        raise ArrayError(
            "holds pickled objects, which may run code when they are read; if you trust the "
            "file, load it yourself and save plain arrays: "
            "numpy.savez('cloud.npz', xyz=xyz, rgb=rgb)"
        ) from error
    except numpy_files.TooLargeError as error:
        limits.ARRAY_BYTES.check(error.size)
        raise
    except numpy_files.ArrayFileError as error:
        raise ArrayError(str(error)) from error
    limits.POINTS.check(len(cloud[0]) if cloud[0].ndim else 0)
    return cloud


def _split(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Splits an array [n, 6] into coordinates and colours."""
    if array.ndim == 2 and array.shape[1] == 6:
        return array[:, :3], array[:, 3:]
    return array, None
