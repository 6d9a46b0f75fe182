# SPDX-License-Identifier: Apache-2.0
"""Reads meshes and point clouds from files, and brings them under an encoder's conventions."""

import collections
import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data_prep import shapes
from data_prep.foreign import limits
from data_prep.geometry import assets, formats, meshes, scene, surface
from data_prep.geometry.conventions import Conventions


class CloudError(ValueError):
    """Raised for a file without a usable point cloud; the message omits the file's name."""


@dataclasses.dataclass(frozen=True)
class Cloud:
    """Point cloud that follows some `Conventions`.

    Attributes:
      xyz: float32 [points, 3].
      rgb: float32 [points, 3], 0 to 1.
      faults: what was ignored or replaced while the file was read, such as "missing texture".
    """

    xyz: np.ndarray
    rgb: np.ndarray
    faults: tuple[str, ...] = ()


def read_cloud(
    path: Path | str,
    *,
    conventions: Conventions,
    up: str | None = None,
    root: Path | str | None = None,
    columns: str | None = None,
    seed: int = 0,
) -> Cloud:
    """Reads one file. The result depends on its content, type and the seed, not on its name.

    Meshes are sampled uniformly by area with their colours.

    Args:
      path: file of one of `formats.TYPES`. A mesh file without faces is a point cloud.
      conventions: conventions of the encoder.
      up: "y" or "z", the vertical axis of the file; None for the one that the file states, or else
        that of its type, `formats.up_axis`.
      root: folder that may contain materials and textures; None for the mesh's own folder, and for
        materials, textures and buffers in the folder above it (`assets.beside`). State the folder
        of a file from an untrusted place.
      columns: names of the columns of a text file, see `readers.text_columns.parse`; None for those
        of its header, or a guess. Other types have none.
      seed: seed of the sampling; every file is sampled with the same random numbers.

    Raises:
      CloudError: the file is missing, corrupt or contains no usable point cloud.
      formats.MissingPackageError: the package that reads the type is not installed.
    """
    content = read_content(path, fill=conventions.colour_fill, root=root, columns=columns)
    return make_cloud(content, path=path, conventions=conventions, up=up, seed=seed)


def make_cloud(
    content: meshes.Content,
    *,
    path: Path | str,
    conventions: Conventions,
    up: str | None = None,
    seed: int = 0,
) -> Cloud:
    """Returns the point cloud of the content of a file, as `read_cloud` does.

    Args:
      content: content of the file, see `read_content`.
      path: as in `read_cloud`, as are the following.
      conventions: conventions of the encoder.
      up: vertical axis of the file.
      seed: seed of the sampling.

    Raises:
      CloudError: the content has no usable point cloud.
    """
    xyz, rgb = sample_content(content, points=conventions.points, seed=seed)
    stated, up = up, vertical_axis(path, content, stated=up).up
    cloud = prepare_cloud(xyz, rgb, conventions=conventions, up=up, seed=seed)
    return dataclasses.replace(cloud, faults=notes_of(content, stated=stated))


def read_content(
    path: Path | str,
    *,
    fill: float,
    root: Path | str | None = None,
    columns: str | None = None,
) -> meshes.Content:
    """Reads the mesh or all points of a file, in the file's own axes.

    `embed`, `search`, the page, `inspect` and `data_prep.build` all read files by this function.

    Args:
      path: as in `read_cloud`.
      fill: value, 0 to 1, of all colour channels of mesh parts without a colour.
      root: folder that may contain materials and textures; None for the mesh's own folder, and for
        materials, textures and buffers in the folder above it (`assets.beside`). State the folder
        of a file from an untrusted place.
      columns: as in `read_cloud`.

    Raises:
      CloudError: the file is missing, corrupt or contains no usable point cloud.
      formats.MissingPackageError: the package that reads the type is not installed.
    """
    path = Path(path)
    file_type = formats.suffix(path)
    try:
        formats.check_type(file_type)
        data = limits.read_file(path, limit=formats.FORMATS[file_type].size_limit)
        references = assets.beside(path, root=None if root is None else Path(root))
        content = meshes.load(
            data, file_type=file_type, references=references, fill=fill, columns=columns
        )
        return dataclasses.replace(content, files=tuple(dict.fromkeys(references.files)))
    except IsADirectoryError as error:
        raise CloudError("a folder, not a file") from error
    except OSError as error:
        reason = error.strerror or str(error).removeprefix(f"{path}: ")
        raise CloudError(f"cannot be read: {reason}") from error
    except (scene.MeshError, limits.LimitError) as error:
        raise CloudError(str(error)) from error


class VerticalAxis(NamedTuple):
    """Vertical axis of a file.

    Attributes:
      up: "y" or "z".
      is_assumed: whether it is a habit of the file type, and nothing states it.
    """

    up: str
    is_assumed: bool


def describe_axes(files: Iterable[tuple[Path | str, str | None]]) -> str:
    """Returns a note about the vertical axes of files, with the number of files of each kind.

    Args:
      files: paths, and "y" or "z" where the user states the axis. A file of a few types, such as
        COLLADA, may state another axis itself.
    """
    counts: collections.Counter[str] = collections.Counter()
    for path, stated in files:
        basis = "by the standard" if formats.up_is_certain(path) else "assumed"
        kind = f"{formats.up_axis(path)} {basis} for {formats.suffix(path)}"
        counts[f"{stated} as stated" if stated else kind] += 1
    found = ", ".join(f"{kind}: {count}" for kind, count in sorted(counts.items()))
    return f"vertical axis, {found}"


def notes_of(content: meshes.Content, *, stated: str | None) -> tuple[str, ...]:
    """Returns what was ignored or replaced in a file, and whether its vertical axis is in doubt.

    Args:
      content: content of the file.
      stated: "y" or "z", as the user states the vertical axis, which ends the doubt; None or "" if
        the user does not.
    """
    return tuple(note for note in content.notes if not (stated and note == scene.MAY_BE_Z_UP))


def vertical_axis(
    path: Path | str, content: meshes.Content | None, *, stated: str | None
) -> VerticalAxis:
    """Returns the vertical axis of a file: as the user states it, else the file, else its type.

    Args:
      path: path of the file.
      content: content of the file; None if it could not be read.
      stated: "y" or "z", from a table or a flag; None or "" if neither states it.
    """
    up = stated or (content and content.up_axis)
    if up:
        return VerticalAxis(up, False)
    return VerticalAxis(formats.up_axis(path), not formats.up_is_certain(path))


def sample_content(
    content: meshes.Content, *, points: int, seed: int = 0
) -> tuple[np.ndarray, np.ndarray | None]:
    """Samples a mesh uniformly by area; returns the points of a point cloud unchanged.

    Args:
      content: content of a file, from `read_content`.
      points: number of points on a surface.
      seed: seed of the sampling.

    Returns:
      xyz [n, 3], relative to the origin of a surface, and rgb [n, 3] or None.

    Raises:
      CloudError: the surface has no visible area.
    """
    if content.surface is None:
        return content.xyz, content.rgb
    rng = np.random.default_rng(seed)
    try:
        return surface.sample_points(content.surface, points=points, rng=rng)
    except scene.MeshError as error:
        raise CloudError("; ".join([str(error), *content.notes])) from error


def prepare_cloud(
    xyz: np.ndarray,
    rgb: np.ndarray | None = None,
    *,
    conventions: Conventions,
    up: str = "z",
    seed: int = 0,
) -> Cloud:
    """Brings a point cloud under an encoder's conventions: number of points, axes, scale, colours.

    Args:
      xyz: [n, 3], any position and scale. If n exceeds `conventions.points`, a random subset is
        kept; if n is smaller, every point is repeated equally often, and a random subset once more.
        A point cloud of the right size keeps its order.
      rgb: [n, 3], integers 0 to 255 or floats 0 to 1; None for `conventions.colour_fill`.
      conventions: conventions of the encoder.
      up: "y" or "z", the vertical axis of xyz.
      seed: seed of the random subset.

    Raises:
      CloudError: shapes, colours or coordinates cannot be used. Coinciding points are rejected,
        although OpenShape and Uni3D turn them into zeros: an embedding of zeros is meaningless.
    """
    if up not in ("y", "z"):
        raise ValueError(f"up is {up!r}; expected 'y' or 'z'")
    xyz = np.asarray(xyz)
    if xyz.ndim != 2 or xyz.shape[1] != 3 or xyz.dtype.kind not in "fiu":
        raise CloudError(f"points are {xyz.dtype} {list(xyz.shape)}; expected numbers [n, 3]")
    if not len(xyz):
        raise CloudError("no points")
    colours = unit_colours(rgb, count=len(xyz), fill=conventions.colour_fill)
    chosen = _resample(len(xyz), conventions.points, seed=seed)
    xyz = xyz[chosen].astype(np.float64)
    if up == "y":
        xyz = conventions.turn_y_up(xyz)
    try:
        # numpy's order of summation, and with it the last bit, depends on the memory layout.
        xyz = shapes.normalise(np.ascontiguousarray(xyz))
    except shapes.SkipShape as error:
        raise CloudError(str(error)) from error
    return Cloud(xyz, colours[chosen])


def unit_colours(rgb: np.ndarray | None, *, count: int, fill: float) -> np.ndarray:
    """Checks and converts the colours of a point cloud.

    Args:
      rgb: [count, 3], integers 0 to 255 or floats 0 to 1; None for `fill`.
      count: number of points.
      fill: value, 0 to 1, of all channels of a point cloud without colours.

    Returns:
      float32 [count, 3], 0 to 1.

    Raises:
      CloudError: the shape or a value differs.
    """
    if rgb is None:
        return np.full((count, 3), fill, np.float32)
    rgb = np.asarray(rgb)
    if rgb.shape != (count, 3) or rgb.dtype.kind not in "fiu":
        raise CloudError(f"colours are {rgb.dtype} {list(rgb.shape)}; expected [{count}, 3]")
    largest = 1 if rgb.dtype.kind == "f" else 255
    # NaN fails the comparison as well.
    if not (rgb.min() >= 0 and rgb.max() <= largest):
        raise CloudError(
            f"colours span {rgb.min()} to {rgb.max()}; expected floats 0 to 1 or integers 0 to 255"
        )
    return (rgb / np.float64(largest)).astype(np.float32)


def check_readable(paths: Iterable[Path]) -> None:
    """Checks, before any work, that the packages that read the files are installed.

    Raises:
      formats.MissingPackageError: a package is not installed.
    """
    for file_type in sorted({formats.suffix(path) for path in paths} & set(formats.TYPES)):
        formats.reader(file_type)


def _resample(count: int, points: int, *, seed: int) -> np.ndarray:
    """Returns the indices, among `count` points, of a point cloud of `points` points."""
    if count == points:
        return np.arange(points)
    whole, rest = divmod(points, count)
    subset = np.random.default_rng(seed).permutation(count)[:rest]
    return np.concatenate([np.tile(np.arange(count), whole), subset])
