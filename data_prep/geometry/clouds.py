# SPDX-License-Identifier: Apache-2.0
"""Reads meshes and point clouds from files, and brings them under an encoder's conventions."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from data_prep import shapes
from data_prep.foreign import archives, arrays, limits
from data_prep.geometry.conventions import Conventions

if TYPE_CHECKING:
    from data_prep.geometry import meshes

# The glTF standard defines y as the vertical axis. Other types do not store it: most programs write
# OBJ with y up, and the remaining types, which come from scanners and printers, with z up.
Y_UP_TYPES = ("glb", "gltf", "obj")
MESH_TYPES = (*Y_UP_TYPES, "off", "ply", "stl")
ARRAY_TYPES = ("npy", "npz")
TYPES = MESH_TYPES + ARRAY_TYPES


class CloudError(ValueError):
    """Raised for a file without a usable point cloud; the message omits the file's name."""


class MeshesUnsupportedError(ImportError):
    """Raised when the package that reads meshes is not installed; the message names it."""


@dataclasses.dataclass(frozen=True)
class Cloud:
    """Point cloud that follows some `Conventions`.

    Attributes:
      xyz: float32 [points, 3].
      rgb: float32 [points, 3], 0 to 1.
      faults: omissions while the file was read, such as "missing texture".
    """

    xyz: np.ndarray
    rgb: np.ndarray
    faults: tuple[str, ...] = ()


def read_cloud(
    path: Path | str, *, conventions: Conventions, up: str | None = None, seed: int = 0
) -> Cloud:
    """Reads one file. The result depends on its content, type and the seed, not on its name.

    Meshes are sampled uniformly by area with their colours. Materials and textures are read only
    from the mesh's folder and the folders below it.

    Args:
      path: file of one of MESH_TYPES or ARRAY_TYPES. A mesh file without faces is a point cloud. An
        array is [n, 3] xyz or [n, 6] xyz and rgb; an npz contains `xyz` (or `points`) and
        optionally `rgb` (or `colors`), or a single array. Colours are integers 0 to 255 or floats
        0 to 1.
      conventions: conventions of the encoder.
      up: "y" or "z", the vertical axis of the file; None for that of its type, `up_axis`.
      seed: seed of the sampling; every file is sampled with the same random numbers.

    Raises:
      CloudError: the file is missing, corrupt or contains no usable point cloud.
      MeshesUnsupportedError: the file is a mesh and trimesh is not installed.
    """
    content, faults = read_content(path, fill=conventions.colour_fill)
    xyz, rgb = sample_content(content, points=conventions.points, seed=seed, faults=faults)
    cloud = prepare_cloud(xyz, rgb, conventions=conventions, up=up or up_axis(path), seed=seed)
    return dataclasses.replace(cloud, faults=tuple(faults))


def read_content(
    path: Path | str, *, fill: float, root: Path | str | None = None
) -> tuple["meshes.Surface | tuple[np.ndarray, np.ndarray | None]", list[str]]:
    """Reads the mesh or all points of a file, in the file's own axes.

    Args:
      path: as in `read_cloud`.
      fill: value, 0 to 1, of all colour channels of mesh parts without a colour.
      root: folder that may contain materials and textures; None for the mesh's own folder.

    Returns:
      The surface of a mesh, or xyz [n, 3] and rgb [n, 3] or None of a point cloud; and the
      omissions while reading, such as "missing texture".

    Raises:
      CloudError: the file is missing, corrupt or contains no usable point cloud.
      MeshesUnsupportedError: the file is a mesh and trimesh is not installed.
    """
    path = Path(path)
    kind = _kind(path)
    try:
        if kind in ARRAY_TYPES:
            return arrays.read(path), []
        if kind in MESH_TYPES:
            return _read_mesh(path, kind, fill=fill, root=Path(root or path.parent))
    except OSError as error:
        raise CloudError(f"cannot be read: {error.strerror or error}") from error
    except (arrays.ArrayError, limits.LimitError) as error:
        raise CloudError(str(error)) from error
    raise CloudError(f"unknown type {kind!r}; expected one of {', '.join(TYPES)}")


def sample_content(
    content: "meshes.Surface | tuple[np.ndarray, np.ndarray | None]",
    *,
    points: int,
    seed: int = 0,
    faults: Sequence[str] = (),
) -> tuple[np.ndarray, np.ndarray | None]:
    """Samples a mesh uniformly by area; returns a point cloud unchanged.

    Args:
      content: surface or point cloud, from `read_content`.
      points: number of points on a surface.
      seed: seed of the sampling.
      faults: omissions while the file was read, which the error repeats.

    Raises:
      CloudError: the surface has no visible area.
    """
    if isinstance(content, tuple):
        return content
    rng = np.random.default_rng(seed)
    try:
        return _mesh_reader()[0].sample_points(content, points=points, rng=rng)
    except ValueError as error:
        raise CloudError("; ".join([str(error), *faults])) from error


def up_axis(path: Path | str) -> str:
    """Returns the vertical axis of a file type: "y" for glb, gltf and obj, else "z"."""
    return "y" if _kind(Path(path)) in Y_UP_TYPES else "z"


def up_is_certain(path: Path | str) -> bool:
    """Returns True if a standard defines the vertical axis of the file type, as for glTF."""
    return _kind(Path(path)) in ("glb", "gltf")


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


def find_files(places: Iterable[Path | str], *, exclude: Path | None = None) -> Iterator[Path]:
    """Yields files, and the files of known types below folders, sorted within a folder.

    Args:
      places: files and folders; their order is kept.
      exclude: file to skip although its type is known, such as the output.

    Raises:
      FileNotFoundError: a folder contains no file of a known type.
    """
    excluded = exclude.resolve() if exclude else None
    for place in map(Path, places):
        files = [place]
        if place.is_dir():
            files = [
                path
                for path in sorted(place.rglob("*"))
                if _kind(path) in TYPES and path.is_file() and path.resolve() != excluded
            ]
        if not files:
            raise FileNotFoundError(f"{place} holds no file of a known type: {', '.join(TYPES)}")
        yield from files


def check_readable(paths: Iterable[Path]) -> None:
    """Checks, before any work, that the packages that read the files are installed.

    Raises:
      MeshesUnsupportedError: a file is a mesh and trimesh is not installed.
    """
    if any(_kind(path) in MESH_TYPES for path in paths):
        _mesh_reader()


def _kind(path: Path) -> str:
    """Returns the type of a file, its suffix in lower case."""
    return path.suffix[1:].lower()


def _mesh_reader():
    """Imports the modules that read meshes; they need trimesh, unlike those that read arrays."""
    try:
        from data_prep.geometry import assets, meshes
    except ModuleNotFoundError as error:
        raise MeshesUnsupportedError(
            f'{error.name} is missing; meshes need it. Run pip install "mrd_jax[prep]"'
        ) from error
    return meshes, assets


def _read_mesh(path: Path, kind: str, *, fill: float, root: Path) -> tuple:
    """Reads a mesh file: a surface, or all points if it has no faces."""
    meshes, assets = _mesh_reader()
    data = limits.read_file(path)
    # Not resolved: the references of a linked mesh are relative to the folder of the link.
    folder = path.parent.relative_to(root).as_posix()
    resolver = assets.AssetResolver(archives.folder_reader(root), folder=folder)
    grey = round(255 * fill)
    try:
        try:
            surface = meshes.load_surface(
                data,
                file_type=kind,
                resolver=resolver,
                rotation=np.eye(3),
                plain_colour=(grey, grey, grey, 255),
            )
            return surface, resolver.faults
        except meshes.NoFacesError:
            resolver.faults.clear()
            points = meshes.load_points(data, file_type=kind, resolver=resolver)
            return points, resolver.faults
    except meshes.MeshError as error:
        raise CloudError("; ".join([str(error), *resolver.faults])) from error


def _resample(count: int, points: int, *, seed: int) -> np.ndarray:
    """Returns the indices, among `count` points, of a point cloud of `points` points."""
    if count == points:
        return np.arange(points)
    whole, rest = divmod(points, count)
    subset = np.random.default_rng(seed).permutation(count)[:rest]
    return np.concatenate([np.tile(np.arange(count), whole), subset])
