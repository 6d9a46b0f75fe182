# SPDX-License-Identifier: Apache-2.0
"""Point clouds in npy and npz files."""

import io
from collections.abc import Mapping

import numpy as np

from data_prep.foreign import limits
from data_prep.geometry import scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.readers import colouring, ply_columns
from mrd_jax.data import numpy_files

# Names of the arrays in an npz file, in any letter case.
XYZ_NAMES = (
    *("xyz", "points", "coords", "pos", "position", "positions", "vertices", "verts"),
    *("xyz_rgb", "xyzrgb", "point_cloud", "pointcloud", "pc", "pcd", "cloud"),
)
RGB_NAMES = ("rgb", "colors", "colours", "color", "colour", "rgbs")
# Channels of Point-E and Cap3D.
CHANNEL_NAMES = (("r", "g", "b"), ("red", "green", "blue"))
FACE_NAMES = ("faces", "triangles")
COLUMNS_IGNORED = "columns beyond 6, ignored"
NOT_COLOURS = "columns 4 to 6 are not colours, ignored"
FACES_IGNORED = "faces in an array file, ignored"


def read(data: bytes, *, assets: Assets, file_type: str) -> scene.Scene:
    """Reads a point cloud from an npy or npz file; pickles are rejected.

    Args:
      data: bytes of the file. An array is [n, 3] xyz, or [n, 6] or more, xyz and rgb, or has named
        fields; an npz contains one of XYZ_NAMES and optionally one of RGB_NAMES or three channels
        such as `R`, `G` and `B`, or a single array.
      assets: collects the notes.
      file_type: unused; the content tells npy and npz apart.

    Raises:
      scene.MeshError: the file is corrupt or contains something else.
      limits.LimitError: the file exceeds a limit.
    """
    del file_type
    try:
        file = numpy_files.ArrayFile(io.BytesIO(data), max_bytes=limits.ARRAY_BYTES.maximum())
        limits.MEMBERS.check(len(file))
        xyz, rgb = _choose(file, notes=assets.notes)
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
    if xyz.dtype.names:
        return scene.Scene(points=(_from_fields(xyz, notes=assets.notes),))
    xyz, rgb = _split(_checked(xyz), rgb, notes=assets.notes)
    limits.POINTS.check(len(xyz))
    if rgb is not None:
        rgb = _unit_colours(rgb, count=len(xyz), notes=assets.notes)
    return scene.Scene(points=(scene.Points(xyz, rgb),))


def _choose(
    file: Mapping[str, np.ndarray], *, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Returns the arrays of points and of colours by their names."""
    names = {name.lower(): name for name in file}
    xyz = [names[name] for name in XYZ_NAMES if name in names] or list(file)
    rgb = [names[name] for name in RGB_NAMES if name in names]
    channels = ply_columns.first_of(names, CHANNEL_NAMES)
    if len(xyz) != 1 and channels:
        xyz = [name for name in xyz if name.lower() not in channels]
    if len(xyz) != 1 or len(rgb) > 1:
        listed = sorted(file)[:9]
        raise scene.MeshError(f"holds arrays {listed}; expected xyz, and perhaps rgb")
    if any(name in names for name in FACE_NAMES):
        notes.append(FACES_IGNORED)
    if rgb:
        return file[xyz[0]], file[rgb[0]]
    if channels:
        columns = [file[names[name]].reshape(-1) for name in channels]
        if len({(len(column), column.dtype.kind) for column in columns}) != 1:
            sizes = [len(column) for column in columns]
            raise scene.MeshError(f"channels of colour of different sizes or types: {sizes}")
        return file[xyz[0]], np.stack(columns, axis=1)
    return file[xyz[0]], None


def _checked(xyz: np.ndarray) -> np.ndarray:
    """Checks the shape of points; returns them without leading axes of size 1.

    Raises:
      scene.MeshError: the array is no list of points.
    """
    while xyz.ndim > 2 and len(xyz) == 1:
        xyz = xyz[0]
    columns = xyz.shape[1] if xyz.ndim == 2 else 0
    if xyz.dtype.kind in "fiu" and (columns == 3 or columns >= 6):
        is_wide = columns > 64 and len(xyz) < 16
        if not is_wide:
            return xyz
    message = f"points are {xyz.dtype} {list(xyz.shape)}; expected numbers [n, 3] or [n, 6]"
    if xyz.dtype.kind in "fiu" and xyz.ndim == 2 and len(xyz) in (3, 6):
        message += "; transpose the array"
    if xyz.dtype.kind in "fiu" and xyz.ndim == 3:
        message += "; save every cloud to a file of its own"
    raise scene.MeshError(message)


def _split(
    array: np.ndarray, rgb: np.ndarray | None, *, notes: list[str]
) -> tuple[np.ndarray, np.ndarray | None]:
    """Splits the columns of an array [n, 3 or more] into coordinates and colours."""
    if array.shape[1] == 3:
        return array, rgb
    if rgb is None:
        candidate = array[:, 3:6]
        if not _are_normals(candidate):
            if array.shape[1] > 6:
                notes.append(COLUMNS_IGNORED)
            return array[:, :3], candidate
        notes.append(NOT_COLOURS)
        # x y z, normals and colours.
        if array.shape[1] == 9 and array[:, 6:].min(initial=0) >= 0:
            return array[:, :3], array[:, 6:]
    if array.shape[1] > 6:
        notes.append(COLUMNS_IGNORED)
    return array[:, :3], rgb


def _are_normals(columns: np.ndarray) -> bool:
    """Returns whether columns [n, 3] are vectors of length 1, some with negative components."""
    if columns.dtype.kind != "f" or not len(columns) or not columns.min() < 0:
        return False
    lengths = np.linalg.norm(columns.astype(np.float64), axis=1)
    # Normals of points without a surface are zero or not finite.
    return bool(np.mean((np.abs(lengths - 1) < 0.05) | ~(lengths > 0)) > 0.95)


def _unit_colours(rgb: np.ndarray, *, count: int, notes: list[str]) -> np.ndarray:
    """Checks colours, and converts them to uint8 or floats of 0 to 1.

    Raises:
      scene.MeshError: they are no colours [count, 3 or 4].
    """
    while rgb.ndim > 2 and len(rgb) == 1:
        rgb = rgb[0]
    if rgb.ndim != 2 or len(rgb) != count or rgb.shape[1] not in (3, 4):
        raise scene.MeshError(f"colours are {rgb.dtype} {list(rgb.shape)}; expected [{count}, 3]")
    if rgb.dtype.kind not in "fiub":
        raise scene.MeshError(f"colours are {rgb.dtype} {list(rgb.shape)}; expected numbers")
    rgb = rgb[:, :3]
    if rgb.dtype.kind == "b":
        return rgb.astype(np.float32)
    code = "f8" if rgb.dtype.kind == "f" else "u8"
    scale = colouring.full_intensity(rgb.astype(np.float64), is_integer=code == "u8")
    if scale is None or not np.isfinite(rgb).all():
        raise scene.MeshError(
            f"colours span {rgb.min()} to {rgb.max()}; expected floats 0 to 1 or integers 0 to 255"
        )
    return colouring.to_unit(rgb, code=code, notes=notes)


def _from_fields(array: np.ndarray, *, notes: list[str]) -> scene.Points:
    """Returns the points of an array with named fields, such as x, y, z, red, green and blue."""
    limits.POINTS.check(array.size)
    columns, codes = {}, {}
    for name in array.dtype.names:
        field = array.reshape(-1)[name]
        if field.dtype.kind in "fiu" and field.ndim == 1:
            columns.setdefault(name.lower(), field)
            codes.setdefault(name.lower(), f"{field.dtype.kind}{field.dtype.itemsize}")
    xyz = ply_columns.positions(columns, element="of the array")
    return scene.Points(xyz, ply_columns.colours(columns, codes, notes=notes))
