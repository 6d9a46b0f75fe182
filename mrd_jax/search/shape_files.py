# SPDX-License-Identifier: Apache-2.0
"""Mesh and point cloud files, with the metadata that the table of their folder gives them."""

import dataclasses
import sys
from collections.abc import Iterable
from pathlib import Path

from data_prep.geometry import clouds, formats

# The same types as in `data_prep.sources.tables`, which needs the extra `prep`; a folder of arrays
# without a table must work without that extra.
TABLES = (".csv", ".jsonl")
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
    """

    path: Path
    name: str = ""
    creator: str = ""
    licence: str = ""
    up: str = ""


@dataclasses.dataclass(frozen=True)
class Listing:
    """Result of a search for files.

    Attributes:
      files: the files to use, in order.
      unlisted: files of supported types that the table of their folder does not list.
    """

    files: tuple[ShapeFile, ...]
    unlisted: tuple[Path, ...]

    def print_unlisted(self) -> None:
        """Prints to stderr how many files are skipped because a table does not list them."""
        if self.unlisted:
            print(
                f"note: skipped {len(self.unlisted)} files that the table of their folder does not "
                f"list, such as {self.unlisted[0]}",
                file=sys.stderr,
            )


def find(places: Iterable[Path], *, exclude: Path | None = None) -> Listing:
    """Finds shape files; in a folder with a table, the files that the table lists.

    A table is a file at the top of a folder in the format of `data_prep.sources.folder`.

    Args:
      places: files and folders, in order. A folder without a table is searched recursively.
      exclude: file to skip although its type is supported, such as the output of the command.

    Returns:
      The files in the order of `places` and of the tables.

    Raises:
      FileNotFoundError: a folder has no file of a supported type, or its table lists missing files.
      ValueError: a table is invalid.
      formats.MissingPackageError: a folder has a table and the extra `prep` is not installed.
    """
    files: list[ShapeFile] = []
    unlisted: list[Path] = []
    for place in map(Path, places):
        if place.is_dir() and any(path.suffix.lower() in TABLES for path in place.iterdir()):
            listing = _read_table(place)
            files += listing.files
            unlisted += [path for path in listing.unlisted if not _is_same(path, exclude)]
        else:
            files += map(ShapeFile, clouds.find_files([place], exclude=exclude))
    return Listing(tuple(files), tuple(unlisted))


def _read_table(folder: Path) -> Listing:
    """Returns the files that the table of a folder lists."""
    try:
        from data_prep.sources.folder import UNLISTED, Folder
    except ModuleNotFoundError as error:
        raise formats.MissingPackageError(
            f"{error.name} is missing; the table of {folder} needs it. Run pip install "
            '"mrd_jax[prep]", or pass the files instead of the folder'
        ) from error
    try:
        items = Folder().items(folder)
    except ValueError as error:
        message = f"{error}. Files that are passed one by one need no table"
        raise ValueError(message) from error
    missing = [item.path for item in items if not item.skip and not item.file_exists()]
    if missing:
        more = f" and {len(missing) - _MAX_LISTED} more" if len(missing) > _MAX_LISTED else ""
        raise FileNotFoundError(
            f"the table of {folder} lists missing files: {', '.join(missing[:_MAX_LISTED])}{more}; "
            "correct their paths, which are relative to the folder, or remove their lines"
        )
    return Listing(
        tuple(
            ShapeFile(folder / item.path, item.name, item.creator, item.licence, up=item.up_axis)
            for item in items
            if not item.skip
        ),
        tuple(folder / item.path for item in items if item.skip == UNLISTED),
    )


def _is_same(path: Path, other: Path | None) -> bool:
    return other is not None and path.resolve() == other.resolve()
