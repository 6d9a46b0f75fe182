# SPDX-License-Identifier: Apache-2.0
"""Facts about one mesh or point cloud file, as the readers of this project see it."""

import dataclasses
from pathlib import Path

import numpy as np

from data_prep.geometry import clouds
from data_prep.geometry.listing import printable
from data_prep.geometry.surface import Surface, face_areas
from mrd_jax.data import batch_spec

# Points sampled from a mesh, and kept of a point cloud for its pictures.
POINTS = 10_000
# Conventions of the released encoders and of `data_prep`, up to the mirror image of OpenShape.
CONVENTIONS = clouds.Conventions(
    points=POINTS,
    up_axis=batch_spec.UP_AXIS,
    from_y_up="rotate",
    normalisation=batch_spec.NORMALISATION,
    colour_fill=0.4,
)


@dataclasses.dataclass
class Facts:
    """Facts about a file, with the keys of a line of `mrd_jax.tools.inspect --json`.

    All lengths and positions are in the units and axes of the file. Facts that a file does not
    have, or that could not be read, are None.

    Attributes:
      file: path of the file.
      kind: "mesh" or "cloud"; a mesh file without faces is a cloud.
      triangles: number of triangles; 0 for a cloud.
      points: number of points of a cloud; 0 for a mesh.
      area: total area of the triangles; 0 for a cloud.
      extent: sides of the axis-aligned bounding box, [x, y, z].
      centre: centre of the box, [x, y, z].
      colour_mean: mean per sRGB channel, 0 to 255, of POINTS points sampled by area, or of the
        points of a cloud; None if nothing in the file has a colour. Parts without a colour count
        with `CONVENTIONS.colour_fill`.
      colour_std: standard deviation of the same colours.
      up_axis: vertical axis, "y" or "z".
      parts: number of meshes in the scene, each with one material; 0 for a cloud.
      notes: what the reader ignored or replaced, such as "missing texture".
      error: why the file cannot be used, or None.
    """

    file: str
    kind: str | None = None
    triangles: int | None = None
    points: int | None = None
    area: float | None = None
    extent: list[float] | None = None
    centre: list[float] | None = None
    colour_mean: list[float] | None = None
    colour_std: list[float] | None = None
    up_axis: str | None = None
    parts: int | None = None
    notes: list[str] = dataclasses.field(default_factory=list)
    error: str | None = None


@dataclasses.dataclass(frozen=True)
class Inspection:
    """Result of `inspect_file`.

    Attributes:
      facts: facts about the file.
      surface: surface in the axes of the file; None for a cloud and for a file that cannot be used.
      cloud: points as an encoder takes them, under CONVENTIONS; None for a file that cannot be
        used.
      up_is_assumed: whether neither the user nor the file states the vertical axis.
    """

    facts: Facts
    surface: Surface | None = None
    cloud: clouds.Cloud | None = None
    up_is_assumed: bool = False


def inspect_file(
    path: Path,
    *,
    up: str | None = None,
    root: Path | str | None = None,
    columns: str | None = None,
    seed: int = 0,
) -> Inspection:
    """Reads one file as `clouds.read_cloud` does, and reports what is in it.

    Args:
      path: file of one of `formats.TYPES`.
      up: "y" or "z", the vertical axis of the file; None for the one that the file states, or else
        that of its type.
      root: folder that may contain materials and textures; None for a file that the user named, see
        `assets.beside`.
      columns: names of the columns of a text file, as in `clouds.read_cloud`.
      seed: seed of the sampling.

    Returns:
      The facts. An error is the one that `clouds.read_cloud` raises; facts found before it stay.

    Raises:
      formats.MissingPackageError: the package that reads the type is not installed.
    """
    axis = clouds.vertical_axis(path, None, stated=up)
    facts = Facts(printable(str(path)), up_axis=axis.up)
    try:
        content = clouds.read_content(
            path, fill=CONVENTIONS.colour_fill, root=root, columns=columns
        )
        axis = clouds.vertical_axis(path, content, stated=up)
        facts.up_axis, facts.notes = axis.up, list(clouds.notes_of(content, stated=up))
        if content.surface is not None:
            _add_mesh_facts(facts, content.surface)
        elif content.xyz is not None:
            _add_cloud_facts(facts, content.xyz)
        xyz, rgb = clouds.sample_content(content, points=POINTS, seed=seed)
        cloud = clouds.prepare_cloud(xyz, rgb, conventions=CONVENTIONS, up=axis.up, seed=seed)
    except clouds.CloudError as error:
        facts.error = str(error)
        return Inspection(facts)
    if content.surface is None or content.surface.coloured.any():
        _add_colour_facts(facts, rgb, count=len(xyz))
    return Inspection(facts, content.surface, cloud, up_is_assumed=axis.is_assumed)


def _add_cloud_facts(facts: Facts, xyz: np.ndarray) -> None:
    facts.kind = "cloud"
    facts.triangles, facts.parts, facts.area, facts.points = 0, 0, 0.0, len(xyz)
    low, high = xyz.min(axis=0).astype(np.float64), xyz.max(axis=0).astype(np.float64)
    with np.errstate(over="ignore"):
        facts.extent, facts.centre = (high - low).tolist(), (low / 2 + high / 2).tolist()


def _add_mesh_facts(facts: Facts, surface: Surface) -> None:
    facts.kind = "mesh"
    facts.triangles, facts.parts, facts.points = len(surface.triangles), len(surface.width), 0
    facts.area = float(face_areas(surface).sum())
    corners = surface.triangles.reshape(-1, 3)
    low, high = corners.min(axis=0).astype(np.float64), corners.max(axis=0).astype(np.float64)
    facts.extent = (high - low).tolist()
    facts.centre = (surface.origin + low / 2 + high / 2).tolist()


def _add_colour_facts(facts: Facts, rgb: np.ndarray | None, *, count: int) -> None:
    if rgb is None:
        return
    colours = clouds.unit_colours(rgb, count=count, fill=CONVENTIONS.colour_fill) * np.float32(255)
    facts.colour_mean = np.round(colours.mean(axis=0, dtype=np.float64), 3).tolist()
    facts.colour_std = np.round(colours.std(axis=0, dtype=np.float64), 3).tolist()
