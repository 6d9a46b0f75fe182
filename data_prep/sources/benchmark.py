# SPDX-License-Identifier: Apache-2.0
"""Base of the sources ModelNet40 and ScanObjectNN: labelled clouds without captions or images."""

import dataclasses
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import shapes, timing
from data_prep.sources import hdf5, published

CLASS_FEATURES = "cat_name_pt_feat.npy"


@dataclasses.dataclass(frozen=True, eq=False)
class Item:
    """One labelled cloud.

    Attributes:
      id: unique id in the data set.
      split: "train" or "test".
      label: class name.
      variant: format or variant of the data set, such as "off".
      skip: reason why the item is skipped, or "".
    """

    id: str
    split: str
    label: str
    variant: str
    skip = ""

    @property
    def fingerprint(self) -> str:
        """Returns everything besides the cloud itself that determines the shape."""
        return f"{self.variant} {self.split} {self.label} {self.skip}"

    def read(self, *, points: int, rng: np.random.Generator) -> tuple[Any, Any, bool]:
        """Returns xyz [count, 3], rgb [count, 3] in 0..1 or None, and whether y is up."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class DuplicateItem(Item):
    """Entry that repeats the id of an earlier one."""

    skip = "id listed before"


@dataclasses.dataclass(frozen=True, eq=False)
class InMemoryItem(Item):
    """Cloud of a file that can only be read as a whole, so the item carries the arrays."""

    xyz: Any
    rgb: Any

    def read(self, *, points: int, rng: np.random.Generator) -> tuple[Any, Any, bool]:
        """Returns the arrays of the item; y is up in OpenShape's files."""
        return self.xyz, self.rgb, True


@dataclasses.dataclass(frozen=True, eq=False)
class Hdf5Item(Item):
    """Row `index` of an HDF5 file."""

    path: str
    index: int

    def read(self, *, points: int, rng: np.random.Generator) -> tuple[Any, Any, bool]:
        """Reads one cloud; y is up in the HDF5 files of both benchmarks.

        Raises:
          ValueError: the clouds of the file have fewer than `points` points.
        """
        with hdf5.open_clouds(Path(self.path)) as file:
            available = file.points
            if available < points:
                raise ValueError(
                    f"{self.path}: clouds of {available} points, but --points is {points}; "
                    f"pass --points {available} or fewer"
                )
            return file.cloud(self.index), None, True


class Benchmark(published.Published):
    """Base class of the benchmarks; subclasses implement `items` and `class_set`."""

    def prepare(
        self, item: Item, *, points: int, views: int, image_size: int, seed: int
    ) -> shapes.Shape:
        """Prepares one cloud as a shape without images and captions.

        Raises:
          shapes.SkipShape: the cloud cannot be used.
        """
        if item.skip:
            raise shapes.SkipShape(item.skip)
        with timing.stage("load"):
            xyz, rgb, y_up = item.read(points=points, rng=shapes.generator(seed, item.id))
        with timing.stage("points"):
            xyz, rgb = published.make_cloud(
                xyz, rgb, points=points, seed=seed, shape_id=item.id, y_up=y_up
            )
        no_features = np.zeros((0, self.teacher.dim), np.float16)
        return shapes.Shape(
            id=item.id,
            source=self.family,
            name=item.id,
            catalogue=item.split,
            category="",
            creator="",
            licence="",
            xyz=xyz,
            rgb=rgb,
            images=(),
            image_kinds=(),
            captions=(),
            label=item.label,
            released=shapes.Released(image=no_features, image_kinds=(), text=no_features),
        )


def mark_duplicates(items: Iterable[Item]) -> list[Item]:
    """Replaces items that repeat an earlier id by `DuplicateItem`, which is skipped and counted."""
    seen: set[str] = set()
    result = []
    for position, item in enumerate(items):
        if item.id in seen:
            unique_id = f"{item.id} (entry {position})"
            item = DuplicateItem(
                id=unique_id, split=item.split, label=item.label, variant=item.variant
            )
        seen.add(item.id)
        result.append(item)
    return result


def list_hdf5(path: Path, *, split: str, names: Sequence[str], variant: str) -> list[Hdf5Item]:
    """Lists the clouds of an HDF5 file without reading them.

    Args:
      path: file with data [count, points, 3] and label [count] or [count, 1].
      split: split that the file belongs to.
      names: class names; a label is an index into them.
      variant: format or variant of the data set.

    Raises:
      ValueError: the file has other content.
    """
    with hdf5.open_clouds(path) as file:
        labels = file.labels()
    return [
        Hdf5Item(
            id=f"{path.stem}/{index:05d}",
            split=split,
            label=class_name(label, names=names, path=path),
            variant=variant,
            path=str(path),
            index=index,
        )
        for index, label in enumerate(labels)
    ]


def class_name(label: Any, *, names: Sequence[str], path: Path) -> str:
    """Returns the class name of an integer label.

    Raises:
      ValueError: the label is not an index into `names`.
    """
    if int(label) != label or not 0 <= label < len(names):
        raise ValueError(f"{path}: label {label}, expected 0 to {len(names) - 1}")
    return names[int(label)]


def load_classes(labels: Iterable[str], features: Path | None) -> published.ClassSet:
    """Loads the released classes and their features; without a file, returns the sorted labels.

    Args:
      labels: class names of the items.
      features: file of the released class features, or None.

    Raises:
      ValueError: a label has no released feature.
    """
    labels = sorted(set(labels))
    if features is None:
        return published.ClassSet(names=tuple(labels))
    classes = published.read_class_features(features)
    available = classes.spoken_names()
    missing = [label for label in labels if label.replace("_", " ") not in available]
    if missing:
        raise ValueError(
            f"{features}: no feature of the classes {missing}; found {sorted(classes.names)}"
        )
    return classes


def released_name(label: str, classes: published.ClassSet) -> str:
    """Returns the released spelling of a class: `night_stand` may be released as `night stand`."""
    return classes.names[classes.spoken_names().index(label.replace("_", " "))]
