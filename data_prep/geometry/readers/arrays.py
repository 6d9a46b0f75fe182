# SPDX-License-Identifier: Apache-2.0
"""Point clouds in npy and npz files."""

import io

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.assets import Assets
from mrd_jax.data import numpy_files

# Names of the arrays in an npz file.
XYZ_NAMES = ("xyz", "points")
RGB_NAMES = ("rgb", "colors", "colours")


def read(data: bytes, *, assets: Assets, file_type: str) -> scene.Scene:
    """Reads a point cloud from an npy or npz file; pickles are rejected.

    Args:
      data: bytes of the file. An array is [n, 3] xyz or [n, 6] xyz and rgb; an npz contains `xyz`
        (or `points`) and optionally `rgb` (or `colors`), or a single array.
      assets: unused.
      file_type: unused; the content tells npy and npz apart.

    Raises:
      scene.MeshError: the file is corrupt or contains something else.
      limits.LimitError: the file exceeds a limit.
    """
    del assets, file_type
    try:
        file = numpy_files.ArrayFile(io.BytesIO(data), max_bytes=limits.ARRAY_BYTES.maximum())
        limits.MEMBERS.check(len(file))
        xyz = [name for name in XYZ_NAMES if name in file] or list(file)
        rgb = [name for name in RGB_NAMES if name in file]
        if len(xyz) != 1 or len(rgb) > 1:
            names = sorted(file)[:9]
            raise scene.MeshError(f"holds arrays {names}; expected xyz, and perhaps rgb")
        points = (file[xyz[0]], file[rgb[0]]) if rgb else _split(file[xyz[0]])
    except numpy_files.PickledError as error:
        raise scene.MeshError(
            "holds pickled objects, which may run code when they are read; if you trust the "
            "file, load it yourself and save plain arrays: "
            "numpy.savez('cloud.npz', xyz=xyz, rgb=rgb)"
        ) from error
    except numpy_files.TooLargeError as error:
        limits.ARRAY_BYTES.check(error.size)
        raise
    except numpy_files.ArrayFileError as error:
        raise scene.MeshError(str(error)) from error
    limits.POINTS.check(len(points[0]) if points[0].ndim else 0)
    return scene.Scene(points=(scene.Points(*points),))


def _split(array: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
    """Splits an array [n, 6] into coordinates and colours."""
    if array.ndim == 2 and array.shape[1] == 6:
        return array[:, :3], array[:, 3:]
    return array, None
