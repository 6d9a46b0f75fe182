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
from data_prep.geometry import assets, meshes, render
from data_prep.sources import properties, surfaces

CATALOGUE_FILE = "PluginFurnitureCatalog.properties"
LABELS_FILE = Path(__file__).with_name("furniture_labels.tsv")
# Key of the name of a model.
_NUMBERED = re.compile(r"name#[0-9]{1,9}")
# Tags that name where a model came from, not what it is.
PROVIDER_TAGS = frozenset({"blend swap", "kator legaz", "reallusion", "scopia"})
# Creators that name nobody: two models under one of these need not be by the same hand.
GENERIC_CREATORS = frozenset({"", "anonymous", "blend swap", "unknown"})


@dataclasses.dataclass(frozen=True)
class Item:
    """One model of a catalogue, as its properties file describes it."""

    id: str
    archive: str  # path of the .sh3f file
    catalogue: str  # its name without ending
    name: str
    category: str
    tags: tuple[str, ...]
    creator: str
    licence: str
    model: str  # path of the mesh inside the archive
    icon: str  # path of the picture inside the archive, or ""
    rotation: str  # nine numbers, or ""


@dataclasses.dataclass(frozen=True)
class Furniture:
    """A split of the catalogues: one for testing, others (by default all) for training.

    Attributes:
      test: catalogue (file name without ending) that is held out.
      train: catalogues to train on; None for all others.
    """

    test: str
    train: tuple[str, ...] | None = None
    family: str = "furniture"
    from_y_up: ClassVar[str] = "rotate"

    def items(self, input_dir: Path) -> list[Item]:
        """Lists the models of every .sh3f file in a folder, catalogues in alphabetical order.

        Raises:
          ValueError: there is no catalogue, or two models share an id.
        """
        paths = sorted(Path(input_dir).glob("*.sh3f"))
        if not paths:
            raise ValueError(
                f"{input_dir}: no .sh3f catalogue found; "
                f"`python -m data_prep.fetch --output {input_dir}` gets them"
            )
        found: dict[str, Item] = {}
        for item in (item for path in paths for item in read_catalogue(path)):
            if item.id in found:
                raise ValueError(
                    f"model id {item.id!r} is in {found[item.id].archive} and {item.archive}; "
                    "expected it once: remove one of the catalogues"
                )
            found[item.id] = item
        return list(found.values())

    def prepare(
        self, item: Item, *, points: int, views: int, image_size: int, seed: int
    ) -> shapes.Shape:
        """Samples, renders and describes one model; a pure function of its arguments.

        Raises:
          shapes.SkipShape: the mesh is missing, outside the archive, unreadable or empty.
        """
        archive = _open(item.archive)
        with timing.stage("load"):
            surface, faults = _load(archive, item)
        xyz, rgb = surfaces.sample(surface, points=points, seed=seed, shape_id=item.id)
        images, blank = surfaces.views(surface, count=views, size=image_size)
        faults += blank
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
        """Splits by catalogue; training models by a test catalogue's author are in neither.

        Raises:
          ValueError: the test catalogue is not among the shapes.
        """
        test = [shape for shape in prepared if shape.catalogue == self.test]
        if not test:
            found = sorted({shape.catalogue for shape in prepared})
            raise ValueError(
                f"test catalogue {self.test!r} is not prepared, found {found}; "
                f"put {self.test}.sh3f into the input folder"
            )
        authors = {shape.creator.lower() for shape in test} - GENERIC_CREATORS
        train = [
            shape
            for shape in prepared
            if shape.catalogue != self.test
            and (self.train is None or shape.catalogue in self.train)
            and shape.creator.lower() not in authors
        ]
        return {"train": [shape.id for shape in train], "test": [shape.id for shape in test]}

    def classes(self, prepared: Sequence[shapes.Shape]) -> list[str]:
        """Labels with at least one training and one test model, sorted."""
        label = {shape.id: shape.label for shape in prepared}
        train, test = ({label[i] for i in ids} for ids in self.splits(prepared).values())
        return sorted((train & test) - {""})


def read_catalogue(path: Path) -> list[Item]:
    """Lists the models of one catalogue in its own order.

    Raises:
      ValueError: the file is not a catalogue, or an entry lacks its name or model.
    """
    archive = _open(str(path))
    try:
        entries = properties.parse(archive.read(CATALOGUE_FILE))
    except FileNotFoundError as error:
        raise ValueError(
            f"{path}: no {CATALOGUE_FILE} in it; expected a furniture catalogue"
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
    """Model id -> class name, for the models that have a class."""
    with LABELS_FILE.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["id"]: row["class"] for row in rows if row["class"]}


def parse_rotation(text: str) -> np.ndarray:
    """Reads a `modelRotation`: nine numbers, row by row, applied to columns with y up.

    Returns:
      [3, 3] rotation; the identity where text is empty.

    Raises:
      shapes.SkipShape: the text is not a proper rotation.
    """
    if not text.strip():
        return np.eye(3)
    try:
        matrix = np.array([float(word) for word in text.split()]).reshape(3, 3)
    except ValueError as error:
        raise shapes.SkipShape("bad modelRotation") from error
    proper = np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3) and np.linalg.det(matrix) > 0
    if not proper:
        raise shapes.SkipShape("bad modelRotation")
    return matrix


def _open(path: str) -> archives.Archive:
    """One open archive per catalogue and process, opened again when the file changes."""
    return _open_once(path, os.stat(path).st_mtime_ns)


@functools.lru_cache(maxsize=8)
def _open_once(path: str, modified: int) -> archives.Archive:
    """Opens an archive; `modified` only tells versions of the file apart."""
    return archives.Archive(path)


def _load(archive: archives.Archive, item: Item) -> tuple[meshes.Surface, list[str]]:
    """Returns the model's surface with z up, and the faults found on the way."""
    resolver = assets.AssetResolver(archive.read, folder=posixpath.dirname(item.model))
    rotation = meshes.Y_UP_TO_Z_UP @ parse_rotation(item.rotation)
    file_type = posixpath.splitext(item.model)[1][1:].lower()
    try:
        data = archive.read(item.model)
        surface = meshes.load_surface(
            data, file_type=file_type, resolver=resolver, rotation=rotation
        )
    except FileNotFoundError as error:
        raise shapes.SkipShape("missing mesh") from error
    except archives.ArchiveError as error:
        raise shapes.SkipShape("unsafe or damaged archive member") from error
    except meshes.MeshError as error:
        raise shapes.SkipShape(str(error)) from error
    return surface, resolver.faults


def _icon(archive: archives.Archive, path: str, *, faults: list[str]) -> bytes | None:
    """The catalogue's picture on white, or None with a fault noted."""
    try:
        return render.encode(render.on_white(archive.read(path)))
    except FileNotFoundError:
        faults.append("missing picture")
    except ValueError:
        faults.append("unreadable picture")
    return None


def _captions(item: Item) -> tuple[tuple[str, str], ...]:
    """What the catalogue says of a model, and nothing else."""
    captions = [("name", item.name)]
    if item.tags:
        captions.append(("tags", f"{item.name}, {', '.join(item.tags).lower()}"))
    if item.category and item.category.lower() != "miscellaneous":
        captions.append(("category", f"{item.name} ({item.category.lower()})"))
    return tuple(captions)
