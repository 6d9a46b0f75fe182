# SPDX-License-Identifier: Apache-2.0
r"""Your own folder of meshes and point clouds.

python -m data_prep.build --source folder --input DIR --output data \
    --teacher data/teachers/lit_furniture

Every glb, gltf, obj, off, ply, stl, npy and npz file below the folder becomes a shape. Its name is
derived from the file name: `oak_chair-2.glb` becomes "oak chair". Names of subfolders are ignored,
since they may be a class, an author or a date. y is up in glb, gltf and obj files, z in the other
formats; only the glTF standard defines this, so the other shapes are counted as assumed. All shapes
are in the split "test", the default split of the evaluation.

A table at the top of the folder (one .csv or .jsonl file of any name) can provide more:

| column | meaning | default |
| --- | --- | --- |
| path | file relative to the folder; only listed files become shapes | required |
| id | unique id | the path |
| name | name of the shape; becomes a caption of kind "name" | derived from the file name |
| captions | sentences; become captions of kind "caption" | none |
| images | image files relative to the folder; kind "picture", after the views | none |
| label | class; the set of labels is the set of classes in zero-shot evaluation | none |
| up_axis | y or z | by format, see above |
| split | one word, in all rows or in none | "test" |
| creator, licence | stored in the record | none |

Only `path` is required. Set `up_axis` if you know it. Use a list for several captions or images in
JSON Lines, and "|" as the separator in CSV. Meshes are rendered; clouds have no views. The offline
teacher is trained on images and names: to train one on a folder (`--teacher lit`), the table must
have a split "train".

Invalid input. The import stops with an error that names file and line if the table cannot be read,
has an unknown column, an invalid cell, a duplicate id or path, or a path that is absolute or leaves
the folder, or if there are no shapes. A shape is skipped and counted by reason if its file is
missing, of unknown type, corrupt, empty, not in the table, or a link that leaves the folder (links
to folders are never followed). Missing and unreadable images are counted, and their shapes kept.

A file is prepared again when its size, its modification time or its row of the table changes;
changes of its textures are not detected. An output folder holds the shapes of one input folder.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

from data_prep import shapes, teachers
from data_prep.foreign import archives
from data_prep.geometry import clouds, formats
from data_prep.sources import shape_files, splitting, tables

# Split of shapes without a split in a table.
SPLIT = "test"
# Reason to skip a file that is not in the table; part of the fingerprints of prepared shapes.
UNLISTED = "not in the table"
# File in the shape cache that records the input folder.
ORIGIN_FILE = "input_folder.txt"


@dataclasses.dataclass(frozen=True)
class Folder:
    """Source of the shapes of one folder."""

    family: str = "folder"
    from_y_up: ClassVar[str] = "rotate"

    def items(self, input_dir: Path) -> list[shape_files.Item]:
        """Lists the files in the order of the table or of their paths, then the skipped ones.

        Raises:
          ValueError: the folder is missing or empty, or its table is invalid.
        """
        root = Path(input_dir).resolve()
        if not root.is_dir():
            raise ValueError(f"{input_dir}: not a folder; expected a folder of meshes and clouds")
        table = tables.find(root)
        files = _known_files(root)
        if table is None:
            if not files:
                raise ValueError(
                    f"{root}: no shapes in it; expected files of the types "
                    f"{', '.join(formats.TYPES)}"
                )
            items = [_item(tables.Row(where="", path=path), path, root=root) for path in files]
        else:
            items = _listed_items(tables.read(table), root=root)
            listed = {item.path for item in items}
            items += [
                _skipped_item(path, root=root, reason=UNLISTED)
                for path in files
                if path not in listed
            ]
        links = sorted(path for path in root.rglob("*") if path.is_symlink() and path.is_dir())
        return items + [
            _skipped_item(
                path.relative_to(root).as_posix(),
                root=root,
                reason="a link to a folder, not followed",
            )
            for path in links
        ]

    def prepare(
        self, item: shape_files.Item, *, points: int, views: int, image_size: int, seed: int
    ) -> shapes.Shape:
        """Prepares one file; see `shape_files.prepare`."""
        return shape_files.prepare(
            item,
            family=self.family,
            points=points,
            views=views,
            image_size=image_size,
            seed=seed,
        )

    def splits(self, prepared: Sequence[shapes.Shape]) -> dict[str, list[str]]:
        """Returns the splits of the table, or all shapes as "test". Raises ValueError if empty."""
        return splitting.by_catalogue(prepared, family=self.family)

    def classes(self, prepared: Sequence[shapes.Shape]) -> list[str]:
        """Returns all labels, sorted."""
        return sorted({shape.label for shape in prepared} - {""})

    def check(
        self, input_dir: Path, *, output: Path, cache: Path, teacher: str, overwrite: bool
    ) -> None:
        """Checks the arguments of a build before any work, and assigns the cache to this folder.

        Args:
          input_dir: value of `--input`.
          output: value of `--output`.
          cache: folder of the prepared shapes.
          teacher: value of `--teacher`.
          overwrite: whether to replace the prepared shapes of another folder.

        Raises:
          ValueError: the output is inside the input, the teacher cannot be trained on the folder,
            or the cache belongs to another folder.
        """
        folder = Path(input_dir).resolve()
        if output.resolve().is_relative_to(folder):
            raise ValueError(
                f"--output {output} is inside --input {input_dir}, where its files would be read "
                "as shapes; choose an output folder outside of it"
            )
        splits = {item.split for item in self.items(input_dir) if not item.skip}
        if teacher == teachers.LIT and "train" not in splits:
            raise ValueError(
                f"--teacher {teacher} is trained on the split 'train', but {input_dir} has only "
                f"{sorted(splits)}; pass the folder of a teacher or the hub name of a CLIP model, "
                "or add a column 'split' to the table"
            )
        origin = cache / ORIGIN_FILE
        if origin.exists() and not overwrite:
            previous = origin.read_text("utf-8").strip()
            if previous != str(folder):
                raise ValueError(
                    f"{cache} holds the shapes of {previous}, but --input is {folder}; choose "
                    "another --output, or pass --overwrite to replace them"
                )
        cache.mkdir(parents=True, exist_ok=True)
        origin.write_text(f"{folder}\n", "utf-8")


def name_of(path: str) -> str:
    """Derives the name of a shape from its file name: the words without trailing numbers.

    `oak_chair-2.glb` and `oakChair2.glb` become "oak chair", `DamagedHelmet.glb` becomes "Damaged
    Helmet", and `0001.ply` becomes "".
    """
    stem = unicodedata.normalize("NFC", PurePosixPath(path).stem)
    # In oakChair, capitals only separate words, which are lower-case; abbreviations stay.
    is_camel_case = stem[:1].islower()

    def separate(match: re.Match) -> str:
        start = match.group()
        return " " + (start.lower() if is_camel_case and len(start) == 2 else start)

    # A capital after two lower-case letters starts a word: DamagedHelmet has two, iPhone one.
    separated = re.sub(r"(?<=[a-z]{2})[A-Z][a-z]?", separate, stem)
    words = [word for word in re.split(r"[\s_.+()\[\]-]+", separated) if word]
    # Removes the number of stool2, but not that of a word as short as mp3.
    words[-1:] = [re.sub(r"(?<=[a-z]{3})\d+$", "", word) for word in words[-1:]]
    while words and words[-1].isdigit():
        words.pop()
    return " ".join(words)


def _known_files(root: Path) -> list[str]:
    """Returns the sorted paths of the files of known types, relative to the folder."""
    try:
        files = list(clouds.find_files([root]))
    except FileNotFoundError:
        return []
    return [path.relative_to(root).as_posix() for path in files]


def _listed_items(rows: Sequence[tables.Row], *, root: Path) -> list[shape_files.Item]:
    """Returns one item per row. Raises ValueError for a duplicate id or path."""
    items, paths, ids = [], {}, {}
    for row in rows:
        item = _item(row, _relative_path(row.path, where=row.where), root=root)
        for column, value, seen in (("path", item.path, paths), ("id", item.id, ids)):
            if value in seen:
                raise ValueError(
                    f"{row.where}: {column} {value!r} is already used in {seen[value]}; expected "
                    "it once"
                )
            seen[value] = row.where
        items.append(item)
    return items


def _item(row: tables.Row, path: str, *, root: Path) -> shape_files.Item:
    name = row.name or name_of(path)
    captions = [("name", name)] if name else []
    captions += [("caption", text) for text in row.captions]
    up = row.up_axis or formats.up_axis(path)
    is_defined = row.up_axis or formats.up_is_certain(path)
    return shape_files.with_version(
        shape_files.Item(
            id=row.id or path,
            root=str(root),
            path=path,
            split=row.split or SPLIT,
            name=name,
            captions=tuple(captions),
            images=tuple(_relative_path(image, where=row.where) for image in row.images),
            label=row.label,
            creator=row.creator,
            licence=row.licence,
            up_axis=up,
            faults=() if is_defined else (shape_files.UP_ASSUMED.format(up),),
        )
    )


def _skipped_item(path: str, *, root: Path, reason: str) -> shape_files.Item:
    return shape_files.Item(id=path, root=str(root), path=path, split="", skip=reason)


def _relative_path(path: str, *, where: str) -> str:
    """Normalises a path below the folder. Raises ValueError if it leaves the folder."""
    try:
        if path.startswith(("/", "\\")):
            raise archives.ArchiveError("absolute")
        return archives.safe_path(path)
    except archives.ArchiveError as error:
        raise ValueError(
            f"{where}: path {path!r} leaves the folder; expected a path relative to it"
        ) from error
