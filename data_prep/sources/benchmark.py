# SPDX-License-Identifier: Apache-2.0
"""What ModelNet40 and ScanObjectNN share: labelled clouds without texts, images or features."""

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
      id: unique in the set.
      split: "train" or "test".
      label: name of its class.
      form: of the set, where it comes in several.
    """

    id: str
    split: str
    label: str
    form: str
    skip = ""

    @property
    def mark(self) -> str:
        """What decides the shape besides the cloud."""
        return f"{self.form} {self.split} {self.label} {self.skip}"

    def read(self, *, points: int, rng: np.random.Generator) -> tuple[Any, Any, bool]:
        """The cloud: xyz [count, 3], rgb [count, 3] in 0..1 or None, and whether y is up."""
        raise NotImplementedError


@dataclasses.dataclass(frozen=True, eq=False)
class Repeated(Item):
    """An entry whose id was listed before."""

    skip = "id listed before"


@dataclasses.dataclass(frozen=True, eq=False)
class Loaded(Item):
    """A cloud of a file that can only be read as a whole, so it travels with the item."""

    xyz: Any
    rgb: Any

    def read(self, *, points: int, rng: np.random.Generator) -> tuple[Any, Any, bool]:
        """As it was loaded; OpenShape's files have y up."""
        return self.xyz, self.rgb, True


@dataclasses.dataclass(frozen=True, eq=False)
class Stored(Item):
    """Row `index` of an HDF5 file."""

    path: str
    index: int

    def read(self, *, points: int, rng: np.random.Generator) -> tuple[Any, Any, bool]:
        """Reads one cloud; both benchmarks' HDF5 files have y up.

        Raises:
          ValueError: the clouds of the file are smaller than asked for.
        """
        with hdf5.opened(Path(self.path)) as file:
            available = file.points
            if available < points:
                raise ValueError(
                    f"{self.path}: clouds of {available} points, but --points {points} is asked "
                    f"for; pass --points {available} or fewer"
                )
            return file.cloud(self.index), None, True


class Benchmark(published.Published):
    """Base of the benchmarks; a subclass adds `items` and `class_set`."""

    def prepare(
        self, item: Item, *, points: int, views: int, image_size: int, seed: int
    ) -> shapes.Shape:
        """One cloud as a shape without images and captions.

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
        nothing = np.zeros((0, self.teacher.dim), np.float16)
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
            released=shapes.Released(image=nothing, image_kinds=(), text=nothing),
        )


def mark_repeated(items: Iterable[Item]) -> list[Item]:
    """Replaces every item whose id was listed before by one that is skipped and counted."""
    seen: set[str] = set()
    found = []
    for position, item in enumerate(items):
        if item.id in seen:
            name = f"{item.id} (entry {position})"
            item = Repeated(id=name, split=item.split, label=item.label, form=item.form)
        seen.add(item.id)
        found.append(item)
    return found


def list_hdf5(path: Path, *, split: str, names: Sequence[str], form: str) -> list[Stored]:
    """Lists the clouds of one file; the clouds themselves stay on disk.

    Args:
      path: of a file with data [count, points, 3] and label [count] or [count, 1].
      split: that the file belongs to.
      names: of the classes, by label.
      form: of the set.

    Raises:
      ValueError: the file does not hold that; names the file and what was found.
    """
    with hdf5.opened(path) as file:
        labels = file.labels()
    return [
        Stored(
            id=f"{path.stem}/{index:05d}",
            split=split,
            label=class_name(label, names=names, path=path),
            form=form,
            path=str(path),
            index=index,
        )
        for index, label in enumerate(labels)
    ]


def class_name(label: Any, *, names: Sequence[str], path: Path) -> str:
    """Name of a numbered class. ValueError where the number is none of a class."""
    if int(label) != label or not 0 <= label < len(names):
        raise ValueError(f"{path}: label {label}, expected 0 to {len(names) - 1}")
    return names[int(label)]


def named_classes(labels: Iterable[str], features: Path | None) -> published.ClassSet:
    """The classes of a set that names them: as released, else the sorted labels.

    Args:
      labels: names of the set's own classes.
      features: file of the released class features, or None.

    Raises:
      ValueError: a label has no released feature.
    """
    labels = sorted(set(labels))
    if features is None:
        return published.ClassSet(names=tuple(labels))
    found = published.read_class_features(features)
    known = {spoken: name for spoken, name in zip(found.spoken_names(), found.names, strict=True)}
    missing = [label for label in labels if label.replace("_", " ") not in known]
    if missing:
        raise ValueError(f"{features}: no feature of the classes {missing}; found {sorted(known)}")
    return found


def as_released(label: str, classes: published.ClassSet) -> str:
    """The released spelling of a class: `night_stand` may be `night stand` there."""
    spoken = classes.spoken_names()
    return classes.names[spoken.index(label.replace("_", " "))]
