# SPDX-License-Identifier: Apache-2.0
"""A file of a mesh or a cloud, with what is known of it, as a shape."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np

from data_prep import pictures, shapes, timing
from data_prep.foreign import limits
from data_prep.geometry import clouds, meshes, render
from data_prep.sources import surfaces
from mrd_jax.data import batch_spec

# Of parts and clouds without colour: 0.4 of 1, as in OpenShape and Uni3D.
FILL = 0.4
# Noted where a cloud had to repeat points.
TOO_FEW = "fewer points than asked for, repeated"
# Noted where neither a standard nor the table says which axis is vertical.
UP_ASSUMED = "vertical axis not stated, {} taken"
# Why an item is skipped whose file is a link to elsewhere.
LINK_OUTSIDE = "a link that leaves the folder"


@dataclasses.dataclass(frozen=True)
class Item:
    """One file of a folder.

    Attributes:
      id: unique in the folder.
      root: the folder, resolved; nothing outside of it is read.
      path: of the mesh or cloud, relative to the folder.
      split: that the shape belongs to.
      name: of the shape, or "".
      captions: (kind, text) pairs.
      images: paths of pictures, relative to the folder.
      label: name of its class, or "".
      creator: to be credited, or "".
      licence: of the shape, or "".
      up_axis: "y" or "z"; "" of an item that is left out.
      faults: found so far.
      skip: why the item becomes no shape, or "".
      version: size and time of the file and its pictures, so that a change is noticed.
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
    def mark(self) -> str:
        """Hash of everything here."""
        known = json.dumps(dataclasses.asdict(self))
        return hashlib.sha256(known.encode()).hexdigest()[:16]

    def is_there(self) -> bool:
        """Whether the file exists."""
        return Path(self.root, self.path).is_file()


def with_version(item: Item) -> Item:
    """The item with the size and time of its files as they are now; absent ones count as empty."""
    version = []
    for name in (item.path, *item.images):
        try:
            found = Path(item.root, name).stat()
            version.append((found.st_size, found.st_mtime_ns))
        except OSError:
            version.append((0, 0))
    return dataclasses.replace(item, version=tuple(version))


def prepare(
    item: Item, *, family: str, points: int, views: int, image_size: int, seed: int
) -> shapes.Shape:
    """Samples, renders and describes one file.

    Meshes are rendered; clouds have no views. Pictures of the item's own follow the views.

    Args:
      item: the file.
      family: of the source.
      points: of the shape; a smaller cloud repeats its points, which is noted among the faults.
      views: rendered views of a mesh, at most.
      image_size: side of the views in pixels.
      seed: of the points.

    Raises:
      shapes.SkipShape: the file is missing, leads out of the folder, is damaged or holds no usable
        shape.
    """
    path = _usable_path(item)
    faults = list(item.faults)
    sizes = {"points": points, "seed": seed, "shape_id": item.id}
    images: list[bytes] = []
    try:
        with timing.stage("load"):
            content, found = clouds.read_content(path, fill=FILL, root=item.root)
        faults += found
        if isinstance(content, tuple):
            with timing.stage("sample"):
                xyz, rgb, found = _cloud(*content, up=item.up_axis, **sizes)
        else:
            surface = _upright(content) if item.up_axis == "y" else content
            xyz, rgb = surfaces.sample(surface, **sizes)
            images, found = surfaces.views(surface, count=views, size=image_size)
        faults += found
    except clouds.CloudError as error:
        raise shapes.SkipShape(str(error)) from error
    with timing.stage("encode"):
        pictures, unusable = _pictures(item)
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
        images=(*images, *pictures),
        image_kinds=("render",) * len(images) + ("picture",) * len(pictures),
        captions=item.captions,
        label=item.label,
        faults=(*faults, *unusable),
    )


def _usable_path(item: Item) -> Path:
    """The item's file. SkipShape where there is none that may be read."""
    if item.skip:
        raise shapes.SkipShape(item.skip)
    path = Path(item.root, item.path)
    if not path.is_file():
        raise shapes.SkipShape(shapes.FILE_MISSING)
    if not _is_inside(path, item.root):
        raise shapes.SkipShape(LINK_OUTSIDE)
    return path


def _upright(surface: meshes.Surface) -> meshes.Surface:
    """The surface with y up turned to z."""
    turn = meshes.Y_UP_TO_Z_UP.T.astype(np.float32)
    return dataclasses.replace(surface, triangles=surface.triangles @ turn)


def _is_inside(path: Path, root: str) -> bool:
    return path.resolve().is_relative_to(Path(root).resolve())


def _cloud(
    xyz: np.ndarray,
    rgb: np.ndarray | None,
    *,
    up: str,
    points: int,
    seed: int,
    shape_id: str,
) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """A cloud as records have it: z up, in random order; and what was done about too few points."""
    rules = clouds.Conventions(
        points=points,
        up_axis=batch_spec.UP_AXIS,
        from_y_up="rotate",
        normalisation=batch_spec.NORMALISATION,
        colour_fill=FILL,
    )
    cloud = clouds.prepare_cloud(xyz, rgb, conventions=rules, up=up, seed=seed)
    order = shapes.generator(seed, shape_id).permutation(points)
    colours = np.rint(cloud.rgb[order] * 255).astype(np.uint8)
    return cloud.xyz[order], colours, [TOO_FEW] if len(xyz) < points else []


def _pictures(item: Item) -> tuple[list[bytes], list[str]]:
    """The item's own pictures on white, and a fault for each that cannot be used."""
    pictures, faults = [], []
    for name in item.images:
        path = Path(item.root, name)
        if not path.is_file():
            faults.append("missing picture")
        elif not _is_inside(path, item.root):
            faults.append("picture that leaves the folder")
        else:
            try:
                pictures.append(_picture(limits.read_file(path)))
            except limits.LimitError:
                faults.append("picture that is too large")
            except (OSError, ValueError):
                faults.append("unreadable picture")
    return pictures, faults


def _picture(data: bytes) -> bytes:
    """A picture on white and of moderate size. ValueError where the bytes are none."""
    return render.encode(np.asarray(pictures.read(data)))
