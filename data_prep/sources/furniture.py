# SPDX-License-Identifier: Apache-2.0
"""Sweet Home 3D furniture catalogues (.sh3f): 820 named, textured models under CC licences."""

import csv
import dataclasses
import functools
import os
import posixpath
import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np

from data_prep import shapes, timing
from data_prep.foreign import archives
from data_prep.geometry import formats, meshes, render, scene
from data_prep.geometry.assets import Assets
from data_prep.geometry.surface import Y_UP_TO_Z_UP
from data_prep.sources import properties, shape_files, surfaces

CATALOGUE_FILE = "PluginFurnitureCatalog.properties"
LABELS_FILE = Path(__file__).with_name("furniture_labels.tsv")
AXIS_NOTE = "vertical axis, y by the format of the catalogues, turned by their modelRotation"
# Key of the name of a model in the properties file.
_NUMBERED = re.compile(r"name#[0-9]{1,9}")
# Tags that name the provider of a model and do not describe it.
PROVIDER_TAGS = frozenset({"blend swap", "kator legaz", "reallusion", "scopia"})
# Creators that do not identify an author: models that share one of them may be by different people.
GENERIC_CREATORS = frozenset({"", "anonymous", "blend swap", "unknown"})


@dataclasses.dataclass(frozen=True)
class Item:
    """One model, as described by the properties file of its catalogue.

    Attributes:
      id: unique id over all catalogues.
      archive: path of the .sh3f file.
      catalogue: name of that file without its suffix.
      name: name of the model.
      category: category in the catalogue, or "".
      tags: tags without those of providers.
      creator: creator to credit, or "".
      licence: licence of the catalogue.
      model: path of the mesh in the archive.
      icon: path of the picture in the archive, or "".
      rotation: nine numbers, see `parse_rotation`, or "".
    """

    id: str
    archive: str
    catalogue: str
    name: str
    category: str
    tags: tuple[str, ...]
    creator: str
    licence: str
    model: str
    icon: str
    rotation: str


@dataclasses.dataclass(frozen=True)
class Furniture:
    """Split of the catalogues: one for testing, the others or some of them for training.

    Attributes:
      test: held-out catalogue, as a file name without suffix.
      train: catalogues to train on, or None for all others.
      family: name of the shape cache, which all splits share.
    """

    test: str
    train: tuple[str, ...] | None = None
    family: str = "furniture"
    from_y_up: ClassVar[str] = "rotate"

    def items(self, input_dir: Path) -> list[Item]:
        """Lists the models of all .sh3f files in a folder, in alphabetical order of the files.

        Raises:
          ValueError: there is no catalogue, or two models have the same id.
        """
        paths = sorted(Path(input_dir).glob("*.sh3f"))
        if not paths:
            raise ValueError(
                f"{input_dir}: no .sh3f catalogue found; "
                f"download them with `python -m data_prep.fetch --output {input_dir}`"
            )
        items: dict[str, Item] = {}
        for item in (item for path in paths for item in read_catalogue(path)):
            if item.id in items:
                raise ValueError(
                    f"model id {item.id!r} is in {items[item.id].archive} and {item.archive}; "
                    "ids must be unique, so remove one of the catalogues"
                )
            items[item.id] = item
        return list(items.values())

    def prepare(
        self, item: Item, *, points: int, views: int, image_size: int, seed: int
    ) -> shapes.Shape:
        """Prepares one model: samples points, renders views, reads its picture and captions.

        Deterministic: the result depends on the arguments only.

        Raises:
          shapes.SkipShape: the mesh is missing, outside the archive, unreadable or empty.
        """
        archive = _open(item.archive)
        with timing.stage("load"):
            content = load(item)
        surface, faults = content.surface, list(content.notes)
        xyz, rgb = surfaces.sample(surface, points=points, seed=seed, shape_id=item.id)
        images, blank_views = surfaces.views(surface, count=views, size=image_size)
        faults += blank_views
        with timing.stage("encode"):
            kinds = ["render"] * len(images)
            icon = _icon(archive, item.icon, faults=faults)
            if icon is not None:
                images.append(icon)
                kinds.append("picture")
        return shapes.Shape(
            id=item.id,
            source=self.family,
            name=item.name,
            catalogue=item.catalogue,
            category=item.category,
            creator=item.creator,
            licence=item.licence,
            xyz=xyz,
            rgb=rgb,
            images=tuple(images),
            image_kinds=tuple(kinds),
            captions=_captions(item),
            label=load_labels().get(item.id, ""),
            faults=tuple(faults),
        )

    def splits(self, prepared: Sequence[shapes.Shape]) -> dict[str, list[str]]:
        """Splits by catalogue; excludes training models whose creator is also in the test split.

        Raises:
          ValueError: no shape is from the test catalogue.
        """
        test = [shape for shape in prepared if shape.catalogue == self.test]
        if not test:
            found = sorted({shape.catalogue for shape in prepared})
            raise ValueError(
                f"no shape of the test catalogue {self.test!r}, found {found}; "
                f"put {self.test}.sh3f into the input folder"
            )
        authors = set(self.groups(Path(), test).values())
        train = [
            shape
            for shape in prepared
            if shape.catalogue != self.test
            and (self.train is None or shape.catalogue in self.train)
            and shape.creator.lower() not in authors
        ]
        return {"train": [shape.id for shape in train], "test": [shape.id for shape in test]}

    def groups(self, input_dir: Path, prepared: Sequence[shapes.Shape]) -> dict[str, str]:
        """Returns the creators of the models; without those that do not identify an author."""
        del input_dir
        creators = {shape.id: shape.creator.lower() for shape in prepared}
        return {name: who for name, who in creators.items() if who not in GENERIC_CREATORS}

    def classes(self, prepared: Sequence[shapes.Shape]) -> list[str]:
        """Returns the labels that occur in both splits, sorted."""
        label = {shape.id: shape.label for shape in prepared}
        train, test = ({label[i] for i in ids} for ids in self.splits(prepared).values())
        return sorted((train & test) - {""})


def read_catalogue(path: Path) -> list[Item]:
    """Lists the models of one catalogue in the order of their numbers.

    Raises:
      ValueError: the file is not a catalogue, or a model has no mesh.
    """
    archive = _open(str(path))
    try:
        entries = properties.parse(archive.read(CATALOGUE_FILE))
    except FileNotFoundError as error:
        raise ValueError(
            f"{path}: no {CATALOGUE_FILE} in it; expected a furniture catalogue (.sh3f)"
        ) from error
    numbers = sorted(int(key[5:]) for key in entries if _NUMBERED.fullmatch(key))
    licence = " ".join(entries.get("license", "").split())
    items = []
    for number in numbers:
        entry = {
            key: entries.get(f"{key}#{number}", "").strip()
            for key in ("id", "name", "category", "tags", "creator", "model", "icon")
        }
        if not entry["model"]:
            raise ValueError(f"{path}: model#{number} is missing; expected the path of a mesh")
        tags = (tag.strip() for tag in entry.pop("tags").split(","))
        entry["id"] = entry["id"] or f"{path.stem}#{number}"
        items.append(
            Item(
                **entry,
                archive=str(path),
                catalogue=path.stem,
                tags=tuple(tag for tag in tags if tag and tag.lower() not in PROVIDER_TAGS),
                licence=licence,
                rotation=entries.get(f"modelRotation#{number}", ""),
            )
        )
    return items


@functools.cache
def load_labels() -> dict[str, str]:
    """Returns model id -> class name for the models that have a class."""
    with LABELS_FILE.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["id"]: row["class"] for row in rows if row["class"]}


def parse_rotation(text: str) -> np.ndarray:
    """Parses a `modelRotation`: nine numbers in row-major order, for column vectors with y up.

    Returns:
      Rotation matrix [3, 3]; the identity if `text` is empty.

    Raises:
      shapes.SkipShape: the text is not a rotation matrix.
    """
    if not text.strip():
        return np.eye(3)
    try:
        matrix = np.array([float(word) for word in text.split()]).reshape(3, 3)
    except ValueError as error:
        raise shapes.SkipShape("bad modelRotation") from error
    is_rotation = np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3) and np.linalg.det(matrix) > 0
    if not is_rotation:
        raise shapes.SkipShape("bad modelRotation")
    return matrix


def load(item: Item) -> meshes.Content:
    """Reads the surface of a model, with z up.

    Raises:
      shapes.SkipShape: the mesh is missing, outside the archive, unreadable or empty.
    """
    archive = _open(item.archive)
    file_type = formats.suffix(item.model)
    try:
        formats.check_type(file_type)
        content = meshes.load(
            archive.read(item.model),
            file_type=file_type,
            references=Assets(archive.read, folder=posixpath.dirname(item.model)),
            fill=shape_files.COLOUR_FILL,
            rotation=Y_UP_TO_Z_UP @ parse_rotation(item.rotation),
        )
    except FileNotFoundError as error:
        raise shapes.SkipShape("missing mesh") from error
    except archives.ArchiveError as error:
        raise shapes.SkipShape("unsafe or damaged archive member") from error
    except scene.MeshError as error:
        raise shapes.SkipShape(str(error)) from error
    if content.surface is None:
        raise shapes.SkipShape("no faces")
    return content


def _open(path: str) -> archives.Archive:
    """Opens an archive once per process, and again after the file has changed."""
    return _open_cached(path, os.stat(path).st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _open_cached(path: str, modified: int) -> archives.Archive:
    """Opens an archive; `modified` is part of the cache key only."""
    return archives.Archive(path)


def _icon(archive: archives.Archive, path: str, *, faults: list[str]) -> bytes | None:
    """Returns the catalogue's picture on white; without one, adds a fault and returns None."""
    try:
        return render.encode(render.on_white(archive.read(path)))
    except FileNotFoundError:
        faults.append("missing picture")
    except ValueError:
        faults.append("unreadable picture")
    return None


def _captions(item: Item) -> tuple[tuple[str, str], ...]:
    """Returns captions composed of name, tags and category."""
    captions = [("name", item.name)]
    if item.tags:
        captions.append(("tags", f"{item.name}, {', '.join(item.tags).lower()}"))
    if item.category and item.category.lower() != "miscellaneous":
        captions.append(("category", f"{item.name} ({item.category.lower()})"))
    return tuple(captions)
