# SPDX-License-Identifier: Apache-2.0
"""Clouds in files that numpy wrote."""

import tokenize
import zipfile
import zlib
from pathlib import Path

import numpy as np

# Names of the arrays in an npz file.
XYZ_NAMES = ("xyz", "points")
RGB_NAMES = ("rgb", "colors", "colours")

# The tokenizer is numpy's, for headers; zip files may claim compression that nobody knows.
_DAMAGED = (
    *(ValueError, EOFError, KeyError, MemoryError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)


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
      OSError: it cannot be opened.
    """
    try:
        # Opened here, because numpy leaves a file that it cannot read open.
        with path.open("rb") as stream:
            loaded = np.load(stream, allow_pickle=False)
            if isinstance(loaded, np.ndarray):
                return _split(loaded)
            names = loaded.files
            xyz = [name for name in XYZ_NAMES if name in names] or names
            rgb = [name for name in RGB_NAMES if name in names]
            if len(xyz) != 1 or len(rgb) > 1:
                raise ArrayError(f"holds arrays {sorted(names)}; expected xyz, and perhaps rgb")
            return (loaded[xyz[0]], loaded[rgb[0]]) if rgb else _split(loaded[xyz[0]])
    except ArrayError:
        raise
    except _DAMAGED as error:
        if "allow_pickle" in str(error):
            raise ArrayError(
                "holds pickled objects, which may run code when they are read; if you trust the "
                "file, load it yourself and save plain arrays: "
                "numpy.savez('cloud.npz', xyz=xyz, rgb=rgb)"
            ) from error
        raise ArrayError(f"damaged: {error}") from error


def _split(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Columns 3 to 5 of six are colours."""
    if array.ndim == 2 and array.shape[1] == 6:
        return array[:, :3], array[:, 3:]
    return array, None
