# SPDX-License-Identifier: Apache-2.0
"""From a file of a mesh or a cloud to the cloud that an encoder expects."""

import dataclasses
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from data_prep import shapes
from data_prep.foreign import archives, arrays, limits
from mrd_jax.data import batch_spec

if TYPE_CHECKING:
    from data_prep.geometry import meshes

# glTF fixes its vertical axis. Of the other types only the author knows: most programs write OBJ
# with y up and the rest, which come from scanners and for printers, with z up.
Y_UP_TYPES = ("glb", "gltf", "obj")
MESH_TYPES = (*Y_UP_TYPES, "off", "ply", "stl")
ARRAY_TYPES = ("npy", "npz")
TYPES = MESH_TYPES + ARRAY_TYPES


class CloudError(ValueError):
    """A file that cannot become a cloud; the message is the reason, without the file's name."""


class MeshesUnsupportedError(ImportError):
    """Meshes cannot be read on this machine; says what to install."""


@dataclasses.dataclass(frozen=True)
class Conventions:
    """What clouds an encoder expects; fields and values as on its `mrd_jax.checkpoints.model_card.ModelCard`.

    Attributes:
      points: of a cloud.
      up_axis: "z".
      from_y_up: "swap" exchanges columns 1 and 2, "rotate" is the quarter turn (x, -z, y).
      normalisation: "unit_sphere".
      colour_fill: 0 to 1, all channels of clouds without colours.

    Raises:
      ValueError: this module cannot make such clouds; names the field.
    """

    points: int
    up_axis: str
    from_y_up: str
    normalisation: str
    colour_fill: float

    def __post_init__(self):
        for name, values in (
            ("up_axis", (batch_spec.UP_AXIS,)),
            ("from_y_up", tuple(_FROM_Y_UP)),
            ("normalisation", (batch_spec.NORMALISATION,)),
        ):
            if getattr(self, name) not in values:
                raise ValueError(f"{name} is {getattr(self, name)!r}; expected one of {values}")

    @classmethod
    def of(cls, card: Any, *, points: int | None = None) -> "Conventions":
        """What an encoder's card says about clouds.

        Args:
          card: a `mrd_jax.checkpoints.model_card.ModelCard`.
          points: of a cloud, instead of the card's.

        Raises:
          ValueError: as the class.
        """
        fields = {field.name: getattr(card, field.name) for field in dataclasses.fields(cls)}
        return cls(**fields | ({} if points is None else {"points": points}))


@dataclasses.dataclass(frozen=True)
class Cloud:
    """A cloud that obeys some `Conventions`.

    Attributes:
      xyz: float32 [points, 3].
      rgb: float32 [points, 3], 0 to 1.
      faults: what was left out on the way, such as "missing texture".
    """

    xyz: np.ndarray
    rgb: np.ndarray
    faults: tuple[str, ...] = ()


def read_cloud(
    path: Path | str, *, conventions: Conventions, up: str | None = None, seed: int = 0
) -> Cloud:
    """Reads one file. The result depends on its content, type and the seed, not on its name.

    Meshes are sampled uniformly by area with their colours. Materials and textures are read from
    the mesh's folder and those below it, never from elsewhere.

    Args:
      path: of one of MESH_TYPES or ARRAY_TYPES. A mesh file without faces is a cloud. An array is
        [n, 3] xyz or [n, 6] xyz and rgb; an npz holds `xyz` (or `points`) and perhaps `rgb` (or
        `colors`), or a single array. Colours are integers 0 to 255 or floats 0 to 1.
      conventions: of the encoder.
      up: "y" or "z", the file's vertical axis; None: as `up_axis` says.
      seed: of the sampling; the same numbers are drawn for every file.

    Raises:
      CloudError: the file is missing, damaged or holds no usable cloud.
      MeshesUnsupportedError: the file is a mesh and trimesh is not installed.
    """
    content, faults = read_content(path, fill=conventions.colour_fill)
    if isinstance(content, tuple):
        xyz, rgb = content
    else:
        rng = np.random.default_rng(seed)
        try:
            xyz, rgb = _mesh_reader()[0].sample_points(content, points=conventions.points, rng=rng)
        except ValueError as error:
            raise CloudError("; ".join([str(error), *faults])) from error
    cloud = prepare_cloud(xyz, rgb, conventions=conventions, up=up or up_axis(path), seed=seed)
    return dataclasses.replace(cloud, faults=tuple(faults))


def read_content(
    path: Path | str, *, fill: float, root: Path | str | None = None
) -> tuple["meshes.Surface | tuple[np.ndarray, np.ndarray | None]", list[str]]:
    """Reads what a file holds, in the file's own axes and with all of its points.

    Args:
      path: as in `read_cloud`.
      fill: 0 to 1, all channels of the parts of a mesh that name no colour.
      root: folder that materials and textures may lie in; None: the mesh's own.

    Returns:
      The surface of a mesh, or xyz [n, 3] and rgb [n, 3] or None of a cloud; and what was left out
      on the way, such as "missing texture".

    Raises:
      CloudError, MeshesUnsupportedError: as in `read_cloud`.
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


def up_axis(path: Path | str) -> str:
    """The vertical axis of a file by its type: "y" of glb, gltf and obj, "z" of the rest."""
    return "y" if _kind(Path(path)) in Y_UP_TYPES else "z"


def up_is_certain(path: Path | str) -> bool:
    """Whether a standard fixes the vertical axis of files of this type, as glTF's does."""
    return _kind(Path(path)) in ("glb", "gltf")


def prepare_cloud(
    xyz: np.ndarray,
    rgb: np.ndarray | None = None,
    *,
    conventions: Conventions,
    up: str = "z",
    seed: int = 0,
) -> Cloud:
    """Brings a cloud under an encoder's conventions: count of points, axes, size, colours.

    Args:
      xyz: [n, 3], any position and scale. Of more than `conventions.points` points a random
        subset is kept; of fewer, every point is repeated equally often, and a random subset once
        more. A cloud of the right size keeps its order.
      rgb: [n, 3], integers 0 to 255 or floats 0 to 1; None takes the conventions' fill.
      conventions: of the encoder.
      up: "y" or "z", the vertical axis of xyz.
      seed: of the random subset.

    Raises:
      CloudError: shapes, colours or coordinates cannot be used. Points that all coincide are
        refused, though the peers make them zeros: no embedding of zeros says what the file holds.
    """
    if up not in ("y", "z"):
        raise ValueError(f"up is {up!r}; expected 'y' or 'z'")
    xyz = np.asarray(xyz)
    if xyz.ndim != 2 or xyz.shape[1] != 3 or xyz.dtype.kind not in "fiu":
        raise CloudError(f"points are {xyz.dtype} {list(xyz.shape)}; expected numbers [n, 3]")
    if not len(xyz):
        raise CloudError("no points")
    colours = _unit_colours(rgb, count=len(xyz), fill=conventions.colour_fill)
    chosen = _resample(len(xyz), conventions.points, seed=seed)
    xyz = xyz[chosen].astype(np.float64)
    if up == "y":
        xyz = _FROM_Y_UP[conventions.from_y_up](xyz)
    try:
        # The order of numpy's sums, and with it the last bit, follows the layout in memory.
        xyz = shapes.normalise(np.ascontiguousarray(xyz))
    except shapes.SkipShape as error:
        raise CloudError(str(error)) from error
    return Cloud(xyz, colours[chosen])


def find_files(places: Iterable[Path | str], *, leave_out: Path | None = None) -> Iterator[Path]:
    """The files that are meant: files as they are, folders searched, what is there sorted.

    Args:
      places: files and folders; their order is kept.
      leave_out: a file that is not meant although its type is known, such as the output.

    Raises:
      FileNotFoundError: a folder holds no file of a known type.
    """
    left_out = leave_out.resolve() if leave_out else None
    for place in map(Path, places):
        found = [place]
        if place.is_dir():
            found = [
                path
                for path in sorted(place.rglob("*"))
                if _kind(path) in TYPES and path.is_file() and path.resolve() != left_out
            ]
        if not found:
            raise FileNotFoundError(f"{place} holds no file of a known type: {', '.join(TYPES)}")
        yield from found


def check_readable(paths: Iterable[Path]) -> None:
    """Fails where the paths need a package that is absent, before any work is done.

    Raises:
      MeshesUnsupportedError: one is a mesh and trimesh is not installed.
    """
    if any(_kind(path) in MESH_TYPES for path in paths):
        _mesh_reader()


def _kind(path: Path) -> str:
    """Type of a file by its ending."""
    return path.suffix[1:].lower()


def _mesh_reader():
    """The modules that read meshes; they need trimesh, which arrays do without."""
    try:
        from data_prep.geometry import assets, meshes
    except ModuleNotFoundError as error:
        raise MeshesUnsupportedError(
            f'{error.name} is missing, and meshes need it: pip install "mrd_jax[prep]"'
        ) from error
    return meshes, assets


def _read_mesh(path: Path, kind: str, *, fill: float, root: Path) -> tuple:
    """As `read_content`: a surface, or all points of a file without faces."""
    meshes, assets = _mesh_reader()
    data = limits.read_file(path)
    # Not resolved: a mesh reached by a link refers to what lies beside the link.
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


def _unit_colours(rgb: np.ndarray | None, *, count: int, fill: float) -> np.ndarray:
    """Colours as float32 [count, 3] in 0..1."""
    if rgb is None:
        return np.full((count, 3), fill, np.float32)
    rgb = np.asarray(rgb)
    if rgb.shape != (count, 3) or rgb.dtype.kind not in "fiu":
        raise CloudError(f"colours are {rgb.dtype} {list(rgb.shape)}; expected [{count}, 3]")
    top = 1 if rgb.dtype.kind == "f" else 255
    # A colour that is not a number fails the comparison as well.
    if not (rgb.min() >= 0 and rgb.max() <= top):
        raise CloudError(
            f"colours span {rgb.min()} to {rgb.max()}; expected floats 0 to 1 or integers 0 to 255"
        )
    return (rgb / np.float64(top)).astype(np.float32)


def _resample(count: int, points: int, *, seed: int) -> np.ndarray:
    """Which of `count` points make up a cloud of `points`."""
    if count == points:
        return np.arange(points)
    whole, rest = divmod(points, count)
    subset = np.random.default_rng(seed).permutation(count)[:rest]
    return np.concatenate([np.tile(np.arange(count), whole), subset])


# Both leave z up. A reflection shows in the result: left and right are exchanged.
_FROM_Y_UP = {
    "swap": lambda xyz: xyz[:, [0, 2, 1]],
    "rotate": lambda xyz: xyz[:, [0, 2, 1]] * [1, -1, 1],
}
