# SPDX-License-Identifier: Apache-2.0
"""Mesh and point cloud files, with the metadata that the table of their folder gives them."""

import dataclasses
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from data_prep import shape_names
from data_prep.geometry import formats, listing
from data_prep.geometry.listing import printable

# The same types as in `data_prep.sources.tables`, which needs the extra `prep`; a folder of arrays
# without a table must work without that extra.
TABLES = (".csv", ".jsonl", ".tsv")
# Arrays of the output of `mrd_jax.tools.embed` with the fields of `ShapeFile` behind `path`.
METADATA = ("names", "creators", "licences", "up", "roots", "labels")
# Missing files that an error lists.
_MAX_LISTED = 5


@dataclasses.dataclass(frozen=True)
class ShapeFile:
    """A file and the metadata of its shape; unknown metadata is "".

    Attributes:
      path: path of the file, absolute or relative to the working directory.
      name: short description of the shape.
      creator: author to credit.
      licence: licence of the shape.
      up: vertical axis, "y" or "z".
      root: folder that the user named, which may contain materials and textures; "" for a file that
        the user named itself.
      label: class of the shape.
    """

    path: Path
    name: str = ""
    creator: str = ""
    licence: str = ""
    up: str = ""
    root: str = ""
    label: str = ""


@dataclasses.dataclass(frozen=True)
class Listing:
    """Result of a search for files.

    Attributes:
      files: the files to use, in order.
      skipped: (path, reason) of each entry of a folder that cannot be used.
      notes: what else is not read, one line each.
    """

    files: tuple[ShapeFile, ...] = ()
    skipped: tuple[tuple[Path, str], ...] = ()
    notes: tuple[str, ...] = ()

    def print_notes(self) -> None:
        """Prints the notes to stderr."""
        for note in self.notes:
            print(f"note: {note}", file=sys.stderr)


def find(
    places: Iterable[Path], *, exclude: Path | None = None, label_from: str | None = None
) -> Listing:
    """Finds shape files; in a folder with a table, the files that the table lists.

    A table is a file at the top of a folder in the format of `data_prep.sources.folder`.

    Args:
      places: files and folders, in order. A folder without a table is searched recursively, see
        `data_prep.geometry.listing`.
      exclude: file to skip although its type is supported, such as the output of the command.
      label_from: folders that name the files whose own name says nothing, see
        `shape_names.label_of`; None for none.

    Returns:
      The files in the order of `places` and of the tables. A file that occurs twice, such as in a
      folder and on its own, has its first place and the metadata of its folder.

    Raises:
      FileNotFoundError: a folder has no file of a supported type, or its table lists missing files.
      OSError: a folder cannot be read.
      ValueError: a table or `label_from` is invalid.
      formats.MissingPackageError: a folder has a table and the extra `prep` is not installed.
    """
    if label_from:
        shape_names.check_label_from(label_from)
    listings = [_find_in(place, exclude=exclude, label_from=label_from) for place in places]
    files: dict[str, ShapeFile] = {}
    repeated = 0
    for file in (file for found in listings for file in found.files):
        key = os.path.abspath(file.path)
        repeated += key in files
        if key not in files or (file.root and not files[key].root):
            files[key] = file
    notes = [note for found in listings for note in found.notes]
    if repeated:
        notes.append(f"files that are given more than once, and read once: {repeated}")
    skipped = dict.fromkeys(entry for found in listings for entry in found.skipped)
    return Listing(tuple(files.values()), tuple(skipped), tuple(notes))


def _find_in(place: Path, *, exclude: Path | None, label_from: str | None) -> Listing:
    """Returns the files of one folder, or one file."""
    if not place.is_dir():
        return Listing((ShapeFile(place),))
    names = (name for name in os.listdir(place) if name.lower().endswith(TABLES))
    if any(not name.startswith((".", "~$")) for name in names):
        return _read_table(place, exclude=exclude, label_from=label_from)
    found = listing.scan(place)
    files = [path for path in found.files if not _is_same(place / path, exclude)]
    if not files and not found.errors():
        types = ", ".join(formats.TYPES)
        raise FileNotFoundError(
            "; ".join([f"{place} holds no file of a known type: {types}", *found.notes()])
        )
    return Listing(
        tuple(
            ShapeFile(
                place / path,
                name=_name_of(path, label_from),
                root=str(place),
                label=shape_names.label_of(path, label_from)[0] if label_from else "",
            )
            for path in files
        ),
        tuple((place / path, reason) for path, reason in found.errors()),
        tuple(_in_folder(place, found.notes())),
    )


def _name_of(path: str, label_from: str | None) -> str:
    """Returns the words of the folder that names a file, "" if its own name says something."""
    if not label_from or shape_names.name_of(path):
        return ""
    return shape_names.label_of(path, label_from)[1]


def _read_table(place: Path, *, exclude: Path | None, label_from: str | None) -> Listing:
    """Returns the files that the table of a folder lists."""
    try:
        from data_prep.sources.folder import UNLISTED, Folder
    except ModuleNotFoundError as error:
        raise formats.MissingPackageError(
            f"{error.name} is missing; the table of {place} needs it. Run pip install "
            '"mrd_jax[prep]", or pass the files instead of the folder'
        ) from error
    try:
        contents = Folder(label_from).contents(place)
    except ValueError as error:
        message = f"{error}. Files that are passed one by one need no table"
        raise ValueError(message) from error
    missing = [item.path for item in contents.items if not item.skip and not item.file_exists()]
    if missing:
        more = f" and {len(missing) - _MAX_LISTED} more" if len(missing) > _MAX_LISTED else ""
        raise FileNotFoundError(
            f"the table of {place} lists missing files: {', '.join(missing[:_MAX_LISTED])}{more}; "
            "correct their paths, which are relative to the folder, or remove their lines"
        )
    unlisted = [item.path for item in contents.items if item.skip == UNLISTED]
    unlisted = [path for path in unlisted if not _is_same(place / path, exclude)]
    others = listing.Listing(
        skipped=[(i.path, i.skip) for i in contents.items if i.skip and i.skip != UNLISTED]
    )
    notes = [*contents.notes, *others.notes()]
    if unlisted:
        notes.append(
            f"skipped {len(unlisted)} files that the table of their folder does not list, such as "
            f"{printable(str(place / unlisted[0]))}"
        )
    return Listing(
        tuple(
            ShapeFile(
                place / item.path,
                item.name,
                item.creator,
                item.licence,
                up=item.up_axis,
                root=str(place),
                label=item.label,
            )
            for item in contents.items
            if not item.skip
        ),
        tuple((place / path, reason) for path, reason in others.errors()),
        tuple(notes),
    )


def _in_folder(place: Path, notes: Sequence[str]) -> list[str]:
    """Returns notes that name their folder."""
    return [f"{printable(str(place))}: {note}" for note in notes]


def _is_same(path: Path, other: Path | None) -> bool:
    """Returns whether two paths are one file; cheap for files of different names."""
    if other is None or path.name != other.name:
        return False
    return os.path.realpath(path) == os.path.realpath(other)
