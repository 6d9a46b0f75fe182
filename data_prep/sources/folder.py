# SPDX-License-Identifier: Apache-2.0
r"""Your own folder of meshes and point clouds.

python -m data_prep.build --source folder --input DIR --output data \
    --teacher data/teachers/lit_furniture

Every file of a known type (glb, gltf, obj, off, ply, stl, npy, npz and others, see
`data_prep.geometry.formats`) below the folder becomes a shape. Its name is derived from the file
name: `oak_chair-2.glb` becomes "oak chair". A file name that says nothing, such as
`model_normalized.obj`, a number or a hash, gives no name and no caption; the summary counts such
shapes. All shapes are in the split "test", the default split of the evaluation.

Names of folders are ignored by default, since they may be a class, an author or a date. With
--label_from folder, the nearest folder whose name says something is the class of a shape, and its
caption if the file name says nothing: `chair/1a2b/model.obj` is a chair. --label_from 1 takes the
folder directly in DIR, --label_from 2 the one below.

y is up in glb, gltf and obj files, z in most other formats, unless a file states its axis; only the
glTF standard defines this, so the other shapes are counted as assumed.

A table at the top of the folder (one .csv, .tsv or .jsonl file of any name) can provide more:

| column | meaning | default |
| --- | --- | --- |
| path | file relative to the folder; only listed files become shapes | required |
| id | unique id | the path |
| name | name of the shape; becomes a caption of kind "name" | derived from the file name |
| tags | words; with the name, they become a caption of kind "tags" | none |
| captions | sentences; become captions of kind "caption" | none |
| images | image files relative to the folder; kind "picture", after the views | none |
| label | class; the set of labels is the set of classes in zero-shot evaluation | --label_from |
| group | name that alike shapes share, such as variants of one product; in one split only | none |
| up_axis | y or z | stated by the file, or by format, see above |
| split | one word, in all rows or in none | "test" |
| creator, licence | stored in the record | none |

Only `path` is required, and other columns are not read, which a note says. Set `up_axis` if you
know it. Use a list for several tags, captions or images in JSON Lines, "|" as the separator in CSV.
Cells of CSV are separated by commas, semicolons or tabs. Letter case of a path need not be that of
the file if only one file matches. Meshes are rendered; clouds have no views. The offline teacher is
trained on images, names and captions: to train one on a folder (`--teacher lit`), the table must
have a split "train".

Alike shapes are not independent: intervals of accuracies are computed over the groups, and a shape
without a group is a group of its own. A group may be added to the table of a data set that exists;
the same command then writes it without preparing the shapes again.

Invalid input. The import stops with an error that names file and line if the table cannot be read,
has an invalid cell, a duplicate id or path, a group in two splits, or a path that is absolute or
leaves the folder, or if there are no shapes. A shape is skipped and counted by reason if its file
is missing, corrupt, empty, not in the table, or a link that leaves the folder. Links to folders,
which are never followed, folders that cannot be read and incomplete downloads are counted, too, and
files of types that are not read are counted by type. Hidden files are ignored. Missing and
unreadable images are counted, and their shapes kept.

A file is prepared again when its size, its modification time or its row of the table changes;
changes of its textures are not detected. An output folder holds the shapes of one input folder.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar

from data_prep import shape_names, shapes, teachers
from data_prep.foreign import archives
from data_prep.geometry import clouds, formats, listing
from data_prep.geometry.listing import printable
from data_prep.sources import path_matcher, shape_files, splitting, tables

# Split of shapes without a split in a table.
SPLIT = "test"
# Reason to skip a file that is not in the table; part of the fingerprints of prepared shapes.
UNLISTED = "not in the table"
# File in the shape cache that records the input folder.
ORIGIN_FILE = "input_folder.txt"


@dataclasses.dataclass(frozen=True)
class Contents:
    """Shapes of a folder.

    Attributes:
      items: files in the order of the table or of their paths, then the skipped entries.
      notes: what is not read, one line each.
      name_notes: shapes without a caption or a label, one line each.
      groups: id -> group of the shapes that have one.
    """

    items: tuple[shape_files.Item, ...]
    notes: tuple[str, ...]
    name_notes: tuple[str, ...]
    groups: Mapping[str, str]


@dataclasses.dataclass(frozen=True)
class Folder:
    """Source of the shapes of one folder.

    Attributes:
      label_from: folders that name the classes, see `shape_names.label_of`; None for no classes
        but those of a table.
      family: name of the shape cache.
    """

    label_from: str | None = None
    family: str = "folder"
    from_y_up: ClassVar[str] = "rotate"

    def items(self, input_dir: Path) -> list[shape_files.Item]:
        """Returns the items of `contents`, and raises the same errors."""
        return list(self.contents(input_dir).items)

    def contents(self, input_dir: Path) -> Contents:
        """Lists the files of a folder, or those of its table.

        Raises:
          ValueError: the folder is missing or empty, or its table is invalid.
        """
        root = Path(input_dir).resolve()
        if not root.is_dir():
            raise ValueError(f"{input_dir}: not a folder; expected a folder of meshes and clouds")
        table = tables.find(root)
        found = listing.scan(root)
        notes = listing.describe_types(found.other_types)
        groups: dict[str, str] = {}
        if table is None:
            if not found.files and not found.skipped:
                raise ValueError(
                    "; ".join([f"{root}: no shapes in it", *notes])
                    + f"; expected files of the types {', '.join(formats.TYPES)}"
                )
            items = [self._item(tables.Row(where="", path=p), p, root=root) for p in found.files]
        else:
            read = tables.read(table)
            items, renamed = self._listed_items(read.rows, root=root)
            notes = [*read.notes, *renamed, *notes]
            pairs = zip(items, read.rows, strict=True)
            groups = {item.id: row.group for item, row in pairs if row.group}
        name_notes = self._missing_names(items)
        listed = {item.path for item in items}
        skipped = [*((path, UNLISTED) for path in found.files), *found.skipped]
        items += [
            _skipped_item(path, root=root, reason=reason)
            for path, reason in skipped
            if path not in listed
        ]
        return Contents(tuple(items), tuple(notes), tuple(name_notes), groups)

    def _listed_items(
        self, rows: Sequence[tables.Row], *, root: Path
    ) -> tuple[list[shape_files.Item], list[str]]:
        """Returns one item per row, and notes. Raises ValueError for a duplicate id or path."""
        items, renamed = [], []
        paths: dict[str, str] = {}
        ids: dict[str, str] = {}
        matcher = path_matcher.PathMatcher(root)
        for row in rows:
            stated = _relative_path(row.path, where=row.where)
            path = matcher.match(stated)
            if path != stated:
                renamed.append(f"{printable(stated)} ({printable(path)})")
            images = (_relative_path(image, where=row.where) for image in row.images)
            row = dataclasses.replace(row, images=tuple(map(matcher.match, images)))
            item = _checked(self._item(row, path, root=root))
            for column, value, seen in (("path", item.path, paths), ("id", item.id, ids)):
                if value in seen:
                    raise ValueError(
                        f"{row.where}: {column} {value!r} is already used in {seen[value]}; "
                        "expected it once"
                    )
                seen[value] = row.where
            items.append(item)
        if not renamed:
            return items, []
        return items, [
            f"{len(renamed)} paths of the table are written otherwise on disk: "
            f"{', '.join([*renamed[:3], '...'] if len(renamed) > 3 else renamed)}"
        ]

    def _item(self, row: tables.Row, path: str, *, root: Path) -> shape_files.Item:
        label, words = shape_names.label_of(path, self.label_from) if self.label_from else ("", "")
        name = row.name or shape_names.name_of(path) or words
        captions = [("name", name)] if name else []
        if row.tags:
            captions.append(("tags", ", ".join([*([name] if name else []), *row.tags])))
        captions += [("caption", text) for text in row.captions]
        return shape_files.with_version(
            shape_files.Item(
                id=row.id or printable(path),
                root=str(root),
                path=path,
                split=row.split or SPLIT,
                name=name,
                captions=tuple(captions),
                images=row.images,
                label=row.label or label,
                creator=row.creator,
                licence=row.licence,
                up_axis=row.up_axis,
            )
        )

    def _missing_names(self, items: Sequence[shape_files.Item]) -> list[str]:
        """Returns notes about shapes without a caption and, with --label_from, without a label."""
        notes = []
        nameless = [item for item in items if not item.captions]
        if nameless:
            notes.append(
                f"{len(nameless)} shape{'s' * (len(nameless) > 1)} without a caption, since file "
                f"names such as {nameless[0].id} say nothing; use "
                + ("" if self.label_from else "--label_from folder for names of folders, or ")
                + "a table with a column 'name'"
            )
        unlabelled = [item for item in items if not item.label] if self.label_from else []
        if unlabelled:
            notes.append(
                f"{len(unlabelled)} shape{'s' * (len(unlabelled) > 1)} without a label, since "
                f"--label_from {self.label_from} finds no folder for files such as "
                f"{unlabelled[0].id}"
            )
        return notes

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

    def groups(self, input_dir: Path, prepared: Sequence[shapes.Shape]) -> dict[str, str]:
        """Returns the groups of the table."""
        groups = self.contents(input_dir).groups
        return {shape.id: groups[shape.id] for shape in prepared if shape.id in groups}

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
          formats.MissingPackageError: a package that reads one of the files is not installed.
        """
        folder = Path(input_dir).resolve()
        if output.resolve().is_relative_to(folder):
            raise ValueError(
                f"--output {output} is inside --input {input_dir}, where its files would be read "
                "as shapes; choose an output folder outside of it"
            )
        items = [item for item in self.items(input_dir) if not item.skip]
        clouds.check_readable(Path(item.path) for item in items)
        splits = {item.split for item in items}
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


def _checked(item: shape_files.Item) -> shape_files.Item:
    """Returns an item, with a reason to skip it if it is a link that leaves the folder."""
    path = Path(item.root, item.path)
    if not path.exists() or path.resolve().is_relative_to(item.root):
        return item
    return dataclasses.replace(item, skip=listing.LINK_OUTSIDE)


def _skipped_item(path: str, *, root: Path, reason: str) -> shape_files.Item:
    return shape_files.Item(id=printable(path), root=str(root), path=path, split="", skip=reason)


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
