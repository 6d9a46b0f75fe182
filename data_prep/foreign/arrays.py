# SPDX-License-Identifier: Apache-2.0
"""Clouds in files that numpy wrote."""

from pathlib import Path

import numpy as np

from data_prep.foreign import limits
from mrd_jax.data import numpy_files

# Names of the arrays in an npz file.
XYZ_NAMES = ("xyz", "points")
RGB_NAMES = ("rgb", "colors", "colours")


class ArrayError(ValueError):
    """A file that holds no cloud; the message is the reason, without the file's name."""


def read(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Reads an npy or npz file of one cloud; pickles are refused.

    Args:
      path: an array is [n, 3] xyz or [n, 6] xyz and rgb; an npz holds `xyz` (or `points`) and
        perhaps `rgb` (or `colors`), or a single array.

    Returns:
      Coordinates [n, 3], and colours [n, 3] or None, as the file has them; whether they can be used
      is for the caller to check.

    Raises:
      ArrayError: the file is damaged or holds something else.
      limits.LimitError: it holds too much.
      OSError: it cannot be opened.
    """
    try:
        with path.open("rb") as stream:
            file = numpy_files.ArrayFile(stream, most_bytes=limits.ARRAY_BYTES.most())
            limits.MEMBERS.check(len(file))
            xyz = [name for name in XYZ_NAMES if name in file] or list(file)
            rgb = [name for name in RGB_NAMES if name in file]
            if len(xyz) != 1 or len(rgb) > 1:
                raise ArrayError(f"holds arrays {sorted(file)[:9]}; expected xyz, and perhaps rgb")
            found = (file[xyz[0]], file[rgb[0]]) if rgb else _split(file[xyz[0]])
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
    limits.POINTS.check(len(found[0]) if found[0].ndim else 0)
    return found


def _split(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Columns 3 to 5 of six are colours."""
    if array.ndim == 2 and array.shape[1] == 6:
        return array[:, :3], array[:, 3:]
    return array, None
