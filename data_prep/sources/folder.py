# SPDX-License-Identifier: Apache-2.0
r"""A folder of your own meshes and clouds.

python -m data_prep.build --source folder --input DIR --output data \
    --teacher data/teachers/lit_furniture

Every glb, gltf, obj, off, ply, stl, npy and npz file below the folder becomes a shape, named by its
file: `oak_chair-2.glb` is an "oak chair". Names of sub-folders are not used; they may say a class,
an author or a date. y is up in glb, gltf and obj, z in the other types; only glTF's standard says
so, and what is assumed is counted. All shapes are in the split "test", which is what evaluation
reads unless told otherwise.

A table at the top of the folder (one .csv or .jsonl file, of any name) says more:

| column | meaning | where it is empty |
| --- | --- | --- |
| path | the file, relative to the folder; only listed files become shapes | an error |
| id | unique | the path |
| name | of the shape; a caption of kind "name" | made of the file's name |
| captions | sentences, of kind "caption" | none |
| images | pictures, relative to the folder; kind "picture", behind the views | none |
| label | its class; all labels together are the classes of the zero-shot evaluation | unknown |
| up_axis | y or z | by type, as above |
| split | a word; either every line has one or none | "test" |
| creator, licence | travel with the record | unknown |

Only `path` must be there. Say `up_axis` where you know it. Several captions or images are a list in
JSON, and divided by "|" in CSV. Meshes are rendered; clouds have no views. The offline teacher
learns from names; to train one on a folder (`--teacher lit`), the table must have a split "train".

Bad input. These stop the import, with file, line and what was expected: a table that is none, has
an unknown column or a cell that cannot be meant, an unknown up axis, an id or a path that is there
twice, a path that is absolute or leaves the folder, a folder without shapes. A shape that cannot be
used is counted and left out, with its reason: listed and absent, of unknown type, damaged or empty,
not in the table, a link that leads out of the folder (links to folders are never followed). A
picture that is absent or no image is counted, and its shape kept.

A file is prepared again when its size, its time or its line of the table changes; a change of a
texture beside it is not noticed. One output folder holds the shapes of one input folder.
"""

import dataclasses
import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import ClassVar

from data_prep import shapes, teachers
from data_prep.foreign import archives
from data_prep.geometry import clouds
from data_prep.sources import shape_files, splitting, tables

# The split of shapes that no table divides.
SPLIT = "test"
# Why a file is skipped that the table says nothing of.
UNLISTED = "not in the table"
# Remembers, beside the prepared shapes, whose they are.
ORIGIN_FILE = "input_folder.txt"


@dataclasses.dataclass(frozen=True)
class Folder:
    """Shapes of one folder."""

    family: str = "folder"
    from_y_up: ClassVar[str] = "rotate"

    def items(self, input_dir: Path) -> list[shape_files.Item]:
        """Lists the files in the order of the table, else of their paths; then what is left out.

        Raises:
          ValueError: the folder or its table cannot be used.
        """
        root = Path(input_dir).resolve()
        if not root.is_dir():
            raise ValueError(f"{input_dir}: not a folder; expected one of meshes and clouds")
        table = tables.find(root)
        files = _known_files(root)
        if table is None:
            if not files:
                raise ValueError(
                    f"{root}: no shapes in it; expected files of the types "
                    f"{', '.join(clouds.TYPES)}"
                )
            items = [_item(tables.Row(where="", path=path), path, root=root) for path in files]
        else:
            items = _listed_items(tables.read(table), root=root)
            listed = {item.path for item in items}
            items += [
                _left_out(path, root=root, why=UNLISTED) for path in files if path not in listed
            ]
        links = sorted(path for path in root.rglob("*") if path.is_symlink() and path.is_dir())
        return items + [
            _left_out(
                path.relative_to(root).as_posix(), root=root, why="a link to a folder, not followed"
            )
            for path in links
        ]

    def prepare(
        self, item: shape_files.Item, *, points: int, views: int, image_size: int, seed: int
    ) -> shapes.Shape:
        """Prepares one file, as `shape_files.prepare` says."""
        return shape_files.prepare(
            item,
            family=self.family,
            points=points,
            views=views,
            image_size=image_size,
            seed=seed,
        )

    def splits(self, prepared: Sequence[shapes.Shape]) -> dict[str, list[str]]:
        """As the table divides them, else all in one. ValueError where there is no shape."""
        return splitting.by_catalogue(prepared, family=self.family)

    def classes(self, prepared: Sequence[shapes.Shape]) -> list[str]:
        """All labels, sorted."""
        return sorted({shape.label for shape in prepared} - {""})

    def check(
        self, input_dir: Path, *, output: Path, cache: Path, teacher: str, overwrite: bool
    ) -> None:
        """Refuses what would end badly after hours of work, and takes the cache for this folder.

        Args:
          input_dir: the folder.
          output: of the build.
          cache: of the prepared shapes.
          teacher: as the user named it.
          overwrite: whether the shapes of another folder may be replaced.

        Raises:
          ValueError: says what is wrong and what to do.
        """
        here = Path(input_dir).resolve()
        if output.resolve().is_relative_to(here):
            raise ValueError(
                f"--output {output} lies in --input {input_dir}, where every file is taken for a "
                "shape; choose an output folder outside of it"
            )
        found = {item.split for item in self.items(input_dir) if not item.skip}
        if teacher == teachers.LIT and "train" not in found:
            raise ValueError(
                f"--teacher {teacher}: it is trained on the split 'train', but {input_dir} has "
                f"only {sorted(found)}; pass the folder of a trained teacher or a CLIP's hub name, "
                "or add a column 'split' to the table"
            )
        origin = cache / ORIGIN_FILE
        if origin.exists() and not overwrite:
            before = origin.read_text("utf-8").strip()
            if before != str(here):
                raise ValueError(
                    f"{cache} holds the shapes of {before}, but --input is {here}; choose another "
                    "--output, or pass --overwrite if those may go"
                )
        cache.mkdir(parents=True, exist_ok=True)
        origin.write_text(f"{here}\n", "utf-8")


def name_of(path: str) -> str:
    """What the name of a file says: words, without numbers at the end.

    Args:
      path: of the file; `oak_chair-2.glb` and `oakChair2.glb` give "oak chair",
        `DamagedHelmet.glb` "Damaged Helmet", `0001.ply` nothing.
    """
    stem = unicodedata.normalize("NFC", PurePosixPath(path).stem)
    only_divide = stem[:1].islower()  # capitals, as in oakChair; not those of an abbreviation

    def word(start: re.Match) -> str:
        found = start.group()
        return " " + (found.lower() if only_divide and len(found) == 2 else found)

    # Two small letters before a capital: DamagedHelmet is two words, iPhone is one.
    apart = re.sub(r"(?<=[a-z]{2})[A-Z][a-z]?", word, stem)
    words = [word for word in re.split(r"[\s_.+()\[\]-]+", apart) if word]
    # A number at the end of a word, as in stool2, but not of one as short as mp3.
    words[-1:] = [re.sub(r"(?<=[a-z]{3})\d+$", "", word) for word in words[-1:]]
    while words and words[-1].isdigit():
        words.pop()
    return " ".join(words)


def _known_files(root: Path) -> list[str]:
    """Paths of the files of known types, relative to the folder, sorted."""
    try:
        found = list(clouds.find_files([root]))
    except FileNotFoundError:
        return []
    return [path.relative_to(root).as_posix() for path in found]


def _listed_items(rows: Sequence[tables.Row], *, root: Path) -> list[shape_files.Item]:
    """One item a row. ValueError where an id or a path is there twice."""
    items, paths, ids = [], {}, {}
    for row in rows:
        item = _item(row, _inside(row.path, where=row.where), root=root)
        for what, value, seen in (("path", item.path, paths), ("id", item.id, ids)):
            if value in seen:
                raise ValueError(
                    f"{row.where}: {what} {value!r} is there already, in {seen[value]}; expected "
                    "it once"
                )
            seen[value] = row.where
        items.append(item)
    return items


def _item(row: tables.Row, path: str, *, root: Path) -> shape_files.Item:
    name = row.name or name_of(path)
    captions = [("name", name)] if name else []
    captions += [("caption", text) for text in row.captions]
    up = row.up_axis or clouds.up_axis(path)
    certain = row.up_axis or clouds.up_is_certain(path)
    return shape_files.with_version(
        shape_files.Item(
            id=row.id or path,
            root=str(root),
            path=path,
            split=row.split or SPLIT,
            name=name,
            captions=tuple(captions),
            images=tuple(_inside(image, where=row.where) for image in row.images),
            label=row.label,
            creator=row.creator,
            licence=row.licence,
            up_axis=up,
            faults=() if certain else (shape_files.UP_ASSUMED.format(up),),
        )
    )


def _left_out(path: str, *, root: Path, why: str) -> shape_files.Item:
    return shape_files.Item(id=path, root=str(root), path=path, split="", skip=why)


def _inside(path: str, *, where: str) -> str:
    """A path below the folder in its normal form. ValueError where it leaves the folder."""
    try:
        if path.startswith(("/", "\\")):
            raise archives.ArchiveError("absolute")
        return archives.safe_path(path)
    except archives.ArchiveError as error:
        raise ValueError(
            f"{where}: path {path!r} leaves the folder; expected one relative to it"
        ) from error
