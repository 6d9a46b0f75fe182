# SPDX-License-Identifier: Apache-2.0
"""Source `kicad_parts`: CAD models of electronic parts with the descriptions of their footprints.

python -m data_prep.fetch --what parts --output data/kicad
python -m data_prep.build --source kicad_parts --input data/kicad --output data --teacher lit
"""

import collections
import csv
import dataclasses
import functools
import hashlib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from data_prep import shapes, timing
from data_prep.geometry import clouds, formats
from data_prep.geometry.surface import Surface
from data_prep.sources import shape_files, surfaces
from data_prep.sources.kicad import debian_copyright, footprints, series

CLASSES_FILE = Path(__file__).with_name("classes.tsv")
# Entries of the input folder.
MODELS, FOOTPRINTS, COPYRIGHT = "3dmodels", "footprints", "copyright"
# Version of Debian's package that the table of classes was made from.
PACKAGE_VERSION = "6.0.10"
AXIS_NOTE = "vertical axis, z, normal to the board, in all models of the package"
# Libraries that a note names.
EXAMPLES = 8
# Cells along the radius of a part within which equal corners fall.
GRID = 500

_PITCH = re.compile(r"_\d+\.\d+mm$")
_JOINED_WORDS = re.compile(r"(?<=[a-z]{2})(?=[A-Z][a-z])")


class Library(NamedTuple):
    """Row of the table of classes.

    Attributes:
      label: class of its parts.
      models: models that the package of `PACKAGE_VERSION` has, over all pitches.
    """

    label: str
    models: int


@dataclasses.dataclass(frozen=True)
class Item:
    """One part.

    Attributes:
      id: library and name.
      path: path of the STEP file.
      name: name with its class.
      captions: (kind, text) pairs.
      label: class.
      series: result of `series.name_of`.
      creator: copyright holders with years.
      licence: short name of the licence.
      version: size of the file in bytes, and its modification time in nanoseconds.
    """

    id: str
    path: str
    name: str
    captions: tuple[tuple[str, str], ...]
    label: str
    series: str
    creator: str
    licence: str
    version: tuple[int, int]

    @property
    def fingerprint(self) -> str:
        """Returns a hash of all fields but the path, so that the folder can be moved."""
        fields = dataclasses.asdict(self) | {"path": ""}
        return hashlib.sha256(json.dumps(fields).encode()).hexdigest()[:16]

    def file_exists(self) -> bool:
        """Returns whether the file exists."""
        return Path(self.path).is_file()


class Contents(NamedTuple):
    """Parts of a folder.

    Attributes:
      items: parts to prepare, in alphabetical order of libraries and names.
      notes: what is left out or differs from the package of `PACKAGE_VERSION`, one line each.
    """

    items: list[Item]
    notes: list[str]


@dataclasses.dataclass(frozen=True)
class KicadParts:
    """Parts of the packages kicad-packages3d and kicad-footprints, see `data_prep.fetch_parts`.

    Attributes:
      family: name of the shape cache.
    """

    family: str = "kicad_parts"
    from_y_up: ClassVar[str] = "rotate"  # not used: z is up in all files

    def items(self, input_dir: Path) -> list[Item]:
        """Returns the items of `contents`, and raises the same errors."""
        return self.contents(input_dir).items

    def contents(self, input_dir: Path) -> Contents:
        """Lists the parts to prepare: at most `series.MAX_PARTS` of a series, no equal files.

        Raises:
          ValueError: the folder is not that of `data_prep.fetch`, or has no part with a class.
          formats.MissingPackageError: the package that reads STEP files is not installed.
        """
        formats.reader("step")
        root = Path(input_dir)
        files = sorted((root / MODELS).glob("*.3dshapes/*.step"))
        if not files or not (root / FOOTPRINTS).is_dir():
            raise ValueError(
                f"{input_dir}: expected {MODELS}/LIBRARY.3dshapes/NAME.step and {FOOTPRINTS}; "
                f"download them with `python -m data_prep.fetch --what parts --output {input_dir}`"
            )
        stanzas = debian_copyright.read(root / COPYRIGHT)
        texts = footprints.read(root / FOOTPRINTS)
        known = [path for path in files if library_of(path) in load_classes()]
        items = [_item(path, texts=texts, stanzas=stanzas) for path in known]
        distinct, surplus = _drop_equal_files(items)
        selected = series.limit({item.id: item.series for item in distinct})
        if not selected:
            raise ValueError(f"{root / MODELS}: no library of the table {CLASSES_FILE.name}")
        unnamed = footprints.missing(texts, [tuple(item.id.split("/")) for item in items])
        counts = {
            "models whose file equals that of another one, left out": surplus,
            f"models beyond {series.MAX_PARTS} of a series, left out": len(distinct)
            - len(selected),
            "models that no footprint references, and that have no description": unnamed,
        }
        notes = [f"{count} {what}" for what, count in counts.items() if count]
        notes += [*_differences(files), AXIS_NOTE]
        return Contents([item for item in distinct if item.id in selected], notes)

    def prepare(
        self, item: Item, *, points: int, views: int, image_size: int, seed: int
    ) -> shapes.Shape:
        """Prepares one part: samples points and renders views. z is up in the files.

        Raises:
          shapes.SkipShape: the file is missing, or cannot be converted to a surface.
        """
        path = Path(item.path)
        if not path.is_file():
            raise shapes.SkipShape(shapes.FILE_MISSING)
        try:
            with timing.stage("load"):
                content = clouds.read_content(path, fill=shape_files.COLOUR_FILL)
        except clouds.CloudError as error:
            raise shapes.SkipShape(str(error)) from error
        surface = content.surface
        if surface is None:
            raise shapes.SkipShape("no faces")
        xyz, rgb = surfaces.sample(
            surface, points=points, seed=seed, shape_id=item.id, notes=content.notes
        )
        images, blank_views = surfaces.views(surface, count=views, size=image_size)
        return shapes.Shape(
            id=item.id,
            source=self.family,
            name=item.name,
            catalogue=item.series,
            category=item.id.split("/")[0],
            creator=item.creator,
            licence=item.licence,
            xyz=xyz,
            rgb=rgb,
            images=tuple(images),
            image_kinds=("render",) * len(images),
            captions=item.captions,
            label=item.label,
            faults=(*content.notes, *blank_views),
            geometry=hash_geometry(surface),
        )

    def splits(self, prepared: Sequence[shapes.Shape]) -> dict[str, list[str]]:
        """Splits by series, see `series.split`; duplicates at unit size are in no split."""
        return series.split(_parts(prepared))

    def groups(self, input_dir: Path, prepared: Sequence[shapes.Shape]) -> dict[str, str]:
        """Returns the joined series of every part, see `series.join`."""
        del input_dir
        joined = series.join(_parts(prepared))
        return {shape.id: joined[shape.catalogue] for shape in prepared}

    def classes(self, prepared: Sequence[shapes.Shape]) -> list[str]:
        """Returns the labels that occur in the splits "train" and "test", sorted."""
        label = {shape.id: shape.label for shape in prepared}
        splits = self.splits(prepared)
        train, test = ({label[i] for i in splits[name]} for name in ("train", "test"))
        return sorted(train & test)


@functools.cache
def load_classes() -> dict[str, Library]:
    """Returns library, without its pitch -> row of the table of classes."""
    with CLASSES_FILE.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return {row["library"]: Library(row["class"], int(row["models"])) for row in rows}


def library_of(path: Path) -> str:
    """Returns the library of a model without its pitch, such as Connector_PinHeader."""
    return _PITCH.sub("", path.parent.stem)


def full_name(label: str, name: str) -> str:
    """Returns the class and the name of a file as words; part numbers and sizes stay whole.

    `DIP-8_W8.89mm` becomes "DIP package DIP-8 W8.89mm".
    """
    words = " ".join(_JOINED_WORDS.sub(" ", name.replace("_", " ")).split())
    return words if words.lower().startswith(label.lower()) else f"{label} {words}"


def hash_geometry(surface: Surface) -> str:
    """Returns a hash of the corners of a surface that does not depend on position and size."""
    corners = surface.triangles.reshape(-1, 3).astype(np.float64)
    corners -= (corners.min(axis=0) + corners.max(axis=0)) / 2
    corners /= max(float(np.linalg.norm(corners, axis=1).max()), 1e-30)
    cells = np.unique(np.rint(corners * GRID).astype(np.int32), axis=0)
    return hashlib.sha256(cells.tobytes()).hexdigest()[:16]


def _parts(prepared: Sequence[shapes.Shape]) -> list[series.Part]:
    return [series.Part(s.id, s.label, s.catalogue, s.geometry) for s in prepared]


def _item(
    path: Path,
    *,
    texts: Mapping[tuple[str, str], footprints.Texts],
    stanzas: Sequence[debian_copyright.Stanza],
) -> Item:
    """Describes a part. ValueError if the copyright file does not cover it."""
    library, name = path.parent.stem, path.stem
    stanza = debian_copyright.find(stanzas, f"{path.parent.name}/{path.name}")
    if stanza is None:
        raise ValueError(f"{path}: no stanza of the file {COPYRIGHT} covers it; fetch both again")
    label = load_classes()[library_of(path)].label
    spoken = full_name(label, name)
    found = texts.get((library.lower(), name.lower()), footprints.Texts((), ""))
    captions = [("name", spoken)]
    captions += [("tags", f"{spoken}, {found.tags}")] if found.tags else []
    captions += [("caption", text) for text in found.descriptions]
    status = path.stat()
    return Item(
        id=f"{library}/{name}",
        path=str(path),
        name=spoken,
        captions=tuple(captions),
        label=label,
        series=series.name_of(label, name),
        creator=stanza.copyright,
        licence=stanza.licence,
        version=(status.st_size, status.st_mtime_ns),
    )


def _drop_equal_files(items: Iterable[Item]) -> tuple[list[Item], int]:
    """Returns the items without later ones of their class with the same bytes, and their number.

    Only files of equal size are read.
    """
    by_size: dict[tuple[str, int], list[Item]] = {}
    for item in items:
        by_size.setdefault((item.label, item.version[0]), []).append(item)
    kept, surplus = [], 0
    for group in by_size.values():
        distinct: dict[bytes, Item] = {}
        for item in group:
            key = hashlib.sha256(Path(item.path).read_bytes()).digest() if group[1:] else b""
            distinct.setdefault(key, item)
        kept += distinct.values()
        surplus += len(group) - len(distinct)
    return sorted(kept, key=lambda item: item.id), surplus


def _differences(files: Iterable[Path]) -> list[str]:
    """Returns how the models differ from the package of `PACKAGE_VERSION`, one line each."""
    found = collections.Counter(map(library_of, files))
    known = load_classes()
    unknown = [f"{name} ({found[name]} models)" for name in sorted(found) if name not in known]
    changed = [
        f"{name} ({found[name]} models, expected {library.models})"
        for name, library in known.items()
        if found[name] != library.models
    ]
    notes = []
    if unknown:
        notes.append(f"libraries without a class, left out: {_listed(unknown)}")
    if changed:
        notes.append(f"libraries that differ from version {PACKAGE_VERSION}: {_listed(changed)}")
    return notes


def _listed(names: Sequence[str]) -> str:
    more = len(names) - EXAMPLES
    return ", ".join(names[:EXAMPLES]) + (f" and {more} more" if more > 0 else "")
