# SPDX-License-Identifier: Apache-2.0
"""Facts about one mesh or point cloud file, as the readers of this project see it."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.geometry import clouds
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
# Fill of a second reading, to tell parts without a colour from grey ones.
_OTHER_FILL = 0.6


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
      surface: `data_prep.geometry.meshes.Surface` in the axes of the file; None for a cloud and for
        a file that cannot be used.
      cloud: points as an encoder takes them, under CONVENTIONS; None for a file that cannot be
        used.
    """

    facts: Facts
    surface: Any = None
    cloud: clouds.Cloud | None = None


def inspect_file(path: Path, *, up: str | None = None, seed: int = 0) -> Inspection:
    """Reads one file as `clouds.read_cloud` does, and reports what is in it.

    Args:
      path: file of one of `clouds.TYPES`.
      up: "y" or "z", the vertical axis of the file; None for that of its type.
      seed: seed of the sampling.

    Returns:
      The facts. An error is the one that `clouds.read_cloud` raises; facts found before it stay.

    Raises:
      clouds.MeshesUnsupportedError: the file is a mesh and trimesh is not installed.
    """
    facts = Facts(str(path), up_axis=up or clouds.up_axis(path))
    try:
        content, notes = clouds.read_content(path, fill=CONVENTIONS.colour_fill)
        facts.notes = list(notes)
        if isinstance(content, tuple):
            _add_cloud_facts(facts, *content)
        else:
            _add_mesh_facts(facts, content)
        xyz, rgb = clouds.sample_content(content, points=POINTS, seed=seed, faults=notes)
        cloud = clouds.prepare_cloud(
            xyz, rgb, conventions=CONVENTIONS, up=facts.up_axis or "z", seed=seed
        )
    except clouds.CloudError as error:
        facts.error = str(error)
        return Inspection(facts)
    if isinstance(content, tuple):
        if facts.extent is None:  # `prepare_cloud` checks only the points that it keeps
            facts.error = "non-finite coordinates"
            return Inspection(facts)
        _add_colour_facts(facts, rgb, count=len(xyz))
        return Inspection(facts, cloud=cloud)
    _add_colour_facts(facts, rgb if _has_colours(content, path) else None, count=len(xyz))
    return Inspection(facts, surface=content, cloud=cloud)


def _add_cloud_facts(facts: Facts, xyz: np.ndarray, rgb: np.ndarray | None) -> None:
    facts.kind = "cloud"
    facts.triangles, facts.parts, facts.area = 0, 0, 0.0
    if xyz.ndim == 2 and xyz.shape[1] == 3 and xyz.dtype.kind in "fiu":
        facts.points = len(xyz)
        _add_box(facts, xyz)


def _add_mesh_facts(facts: Facts, surface: Any) -> None:
    facts.kind = "mesh"
    facts.triangles, facts.parts, facts.points = len(surface.triangles), len(surface.width), 0
    edges = surface.triangles[:, 1:].astype(np.float64) - surface.triangles[:, :1]
    doubled = np.linalg.norm(np.cross(edges[:, 0], edges[:, 1]), axis=1)
    facts.area = float(doubled.sum() / 2)
    _add_box(facts, surface.triangles.reshape(-1, 3))


def _add_box(facts: Facts, xyz: np.ndarray) -> None:
    """Adds extent and centre of points [n, 3] unless they are empty or non-finite."""
    if not len(xyz):
        return
    low, high = xyz.min(axis=0).astype(np.float64), xyz.max(axis=0).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        extent, centre = high - low, low / 2 + high / 2
    if np.isfinite([extent, centre]).all():
        facts.extent, facts.centre = extent.tolist(), centre.tolist()


def _add_colour_facts(facts: Facts, rgb: np.ndarray | None, *, count: int) -> None:
    if rgb is None:
        return
    colours = clouds.unit_colours(rgb, count=count, fill=CONVENTIONS.colour_fill) * np.float32(255)
    facts.colour_mean = np.round(colours.mean(axis=0, dtype=np.float64), 3).tolist()
    facts.colour_std = np.round(colours.std(axis=0, dtype=np.float64), 3).tolist()


def _has_colours(surface: Any, path: Path) -> bool:
    """Returns whether a part of a mesh has a colour of its own.

    The reader fills parts without a colour. Only a mesh that is all of the fill's grey is read a
    second time, with another fill.
    """
    grey = round(255 * CONVENTIONS.colour_fill)
    if (surface.texels != (grey, grey, grey, 255)).any():
        return True
    other: Any = clouds.read_content(path, fill=_OTHER_FILL)[0]
    return np.array_equal(other.texels, surface.texels)
