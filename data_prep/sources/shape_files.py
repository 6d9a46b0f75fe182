# SPDX-License-Identifier: Apache-2.0
"""Shapes of mesh and point cloud files with optional metadata, for `folder` and `objaverse`.

Items are part of the fingerprints of prepared shapes, and faults are stored with them: shapes are
prepared again if the fields of `Item` change.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from data_prep import pictures, shapes, timing
from data_prep.foreign import limits
from data_prep.geometry import clouds, render, surface
from data_prep.geometry.listing import LINK_OUTSIDE
from data_prep.sources import surfaces
from mrd_jax.data import batch_spec

# Grey value of parts and clouds without colour: 0.4 of 1, as in OpenShape and Uni3D.
COLOUR_FILL = 0.4
# Fault of a cloud with too few points.
TOO_FEW = "fewer points than asked for, repeated"
# Fault if neither the file format nor the table defines the vertical axis.
UP_ASSUMED = "vertical axis not stated, {} taken"


@dataclasses.dataclass(frozen=True)
class Item:
    """One file of a folder.

    Attributes:
      id: unique id in the folder.
      root: absolute path of the folder; files outside of it are never read.
      path: path of the mesh or cloud, relative to the folder.
      split: split that the shape belongs to.
      name: name of the shape, or "".
      captions: (kind, text) pairs.
      images: paths of images of the shape, relative to the folder.
      label: class name, or "".
      creator: creator to credit, or "".
      licence: licence of the shape, or "".
      up_axis: "y" or "z", as the table or the source states it; "" if it does not.
      faults: faults detected so far.
      skip: reason why the item is skipped, or "".
      version: size and modification time of the file and of each image, to detect changes.
    """

    id: str
    root: str
    path: str
    split: str
    name: str = ""
    captions: tuple[tuple[str, str], ...] = ()
    images: tuple[str, ...] = ()
    label: str = ""
    creator: str = ""
    licence: str = ""
    up_axis: str = ""
    faults: tuple[str, ...] = ()
    skip: str = ""
    version: tuple[tuple[int, int], ...] = ()

    @property
    def fingerprint(self) -> str:
        """Returns a hash of all fields."""
        fields = json.dumps(dataclasses.asdict(self))
        return hashlib.sha256(fields.encode()).hexdigest()[:16]

    def file_exists(self) -> bool:
        """Returns whether the file exists."""
        return Path(self.root, self.path).is_file()


def with_version(item: Item) -> Item:
    """Sets `version` to the current sizes and times of the item's files, 0 for missing ones."""
    version = []
    for name in (item.path, *item.images):
        try:
            status = os.stat(os.path.join(item.root, name))
            version.append((status.st_size, status.st_mtime_ns))
        except OSError:
            version.append((0, 0))
    return dataclasses.replace(item, version=tuple(version))


def describe_axes(items: Iterable[Item]) -> str:
    """Returns `clouds.describe_axes` of the files to prepare."""
    return clouds.describe_axes((item.path, item.up_axis) for item in items if not item.skip)


def prepare(
    item: Item, *, family: str, points: int, views: int, image_size: int, seed: int
) -> shapes.Shape:
    """Prepares one file: samples points, renders meshes and reads the item's own images.

    Clouds have no rendered views. The item's own images follow the views.

    Args:
      item: file to prepare.
      family: name of the source family.
      points: points per shape; the points of a smaller cloud are repeated, which is a fault.
      views: maximum number of rendered views of a mesh.
      image_size: height and width of the views in pixels.
      seed: seed of the point sampling.

    Raises:
      shapes.SkipShape: the file is missing, outside the folder or corrupt, or has no usable shape.
    """
    path = _usable_path(item)
    faults = list(item.faults)
    sampling = {"points": points, "seed": seed, "shape_id": item.id}
    images: list[bytes] = []
    try:
        with timing.stage("load"):
            content = clouds.read_content(path, fill=COLOUR_FILL, root=item.root)
        axis = clouds.vertical_axis(path, content, stated=item.up_axis)
        faults += [
            *([UP_ASSUMED.format(axis.up)] if axis.is_assumed else []),
            *clouds.notes_of(content, stated=item.up_axis),
        ]
        if content.surface is None:
            with timing.stage("sample"):
                xyz, rgb, new_faults = _sample_cloud(
                    content.xyz, content.rgb, up=axis.up, **sampling
                )
        else:
            is_y_up = axis.up == "y"
            upright = surface.rotate_upright(content.surface) if is_y_up else content.surface
            xyz, rgb = surfaces.sample(upright, notes=content.notes, **sampling)
            images, new_faults = surfaces.views(upright, count=views, size=image_size)
        faults += new_faults
    except clouds.CloudError as error:
        raise shapes.SkipShape(str(error)) from error
    with timing.stage("encode"):
        own_images, image_faults = _read_images(item)
    return shapes.Shape(
        id=item.id,
        source=family,
        name=item.name,
        catalogue=item.split,
        category="",
        creator=item.creator,
        licence=item.licence,
        xyz=xyz,
        rgb=rgb,
        images=(*images, *own_images),
        image_kinds=("render",) * len(images) + ("picture",) * len(own_images),
        captions=item.captions,
        label=item.label,
        faults=(*faults, *image_faults),
    )


def _usable_path(item: Item) -> Path:
    """Returns the path of the item's file. Raises SkipShape if it must not be read."""
    if item.skip:
        raise shapes.SkipShape(item.skip)
    path = Path(item.root, item.path)
    if not path.is_file():
        raise shapes.SkipShape(shapes.FILE_MISSING)
    if not _is_inside(path, item.root):
        raise shapes.SkipShape(LINK_OUTSIDE)
    return path


def _is_inside(path: Path, root: str) -> bool:
    return path.resolve().is_relative_to(Path(root).resolve())


def _sample_cloud(
    xyz: np.ndarray,
    rgb: np.ndarray | None,
    *,
    up: str,
    points: int,
    seed: int,
    shape_id: str,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Returns xyz (z up) and rgb in random order, and the faults."""
    conventions = clouds.Conventions(
        points=points,
        up_axis=batch_spec.UP_AXIS,
        from_y_up="rotate",
        normalisation=batch_spec.NORMALISATION,
        colour_fill=COLOUR_FILL,
    )
    cloud = clouds.prepare_cloud(xyz, rgb, conventions=conventions, up=up, seed=seed)
    order = shapes.generator(seed, shape_id).permutation(points)
    colours = np.rint(cloud.rgb[order] * 255).astype(np.uint8)
    return cloud.xyz[order], colours, [TOO_FEW] if len(xyz) < points else []


def _read_images(item: Item) -> tuple[list[bytes], list[str]]:
    """Returns the item's own images on white, and a fault for each unusable one."""
    images, faults = [], []
    for name in item.images:
        path = Path(item.root, name)
        if not path.is_file():
            faults.append("missing picture")
        elif not _is_inside(path, item.root):
            faults.append("picture that leaves the folder")
        else:
            try:
                picture = pictures.read(limits.read_file(path))
                images.append(render.encode(np.asarray(picture)))
            except limits.LimitError:
                faults.append("picture that is too large")
            except (OSError, ValueError):
                faults.append("unreadable picture")
    return images, faults
