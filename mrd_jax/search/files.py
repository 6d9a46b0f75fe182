# SPDX-License-Identifier: Apache-2.0
"""Files of meshes and clouds, with what the table of their folder says of them."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

from data_prep.geometry import clouds

# As `data_prep.sources.tables` has them, whose package needs the extra `prep`: a folder of arrays
# without a table does not.
TABLES = (".csv", ".jsonl")
# Missing files that an error names.
_NAMED = 5


@dataclasses.dataclass(frozen=True)
class File:
    """A file and what is known of its shape; "" where nothing is.

    Attributes:
      path: of the file, as seen from where the command runs.
      name: in a few words.
      creator: to be credited.
      licence: of the shape.
      up: "y" or "z", the vertical axis.
    """

    path: Path
    name: str = ""
    creator: str = ""
    licence: str = ""
    up: str = ""


@dataclasses.dataclass(frozen=True)
class Listing:
    """Files in their order.

    Attributes:
      files: that are meant.
      left_out: of known types, in a folder whose table does not list them.
    """

    files: tuple[File, ...]
    left_out: tuple[Path, ...]


def find(places: Iterable[Path], *, leave_out: Path | None = None) -> Listing:
    """The files that are meant; of a folder with a table those that it lists, in its order.

    A table is one as `data_prep.sources.folder` describes it, at the top of the folder.

    Args:
      places: files and folders; their order is kept.
      leave_out: a file that is not meant although its type is known, such as the output.

    Raises:
      FileNotFoundError: a folder holds no file of a known type, or its table names files that are
        not there.
      ValueError: a table cannot be used.
      clouds.MeshesUnsupportedError: there is a table, and the extra `prep` is not installed.
    """
    files: list[File] = []
    left_out: list[Path] = []
    for place in map(Path, places):
        if place.is_dir() and any(path.suffix.lower() in TABLES for path in place.iterdir()):
            listing = _listed(place)
            files += listing.files
            left_out += [path for path in listing.left_out if not _same(path, leave_out)]
        else:
            files += map(File, clouds.find_files([place], leave_out=leave_out))
    return Listing(tuple(files), tuple(left_out))


def _listed(folder: Path) -> Listing:
    """What the table of a folder says, as `find`."""
    try:
        from data_prep.sources import folder as folders
    except ModuleNotFoundError as error:
        raise clouds.MeshesUnsupportedError(
            f"{error.name} is missing, and the table of {folder} needs it: pip install "
            '"mrd_jax[prep]", or pass the files instead of the folder'
        ) from error
    try:
        items = folders.Folder().items(folder)
    except ValueError as error:
        raise ValueError(f"{error}. Files that are passed by themselves need no table") from error
    missing = [item.path for item in items if not item.skip and not item.is_there()]
    if missing:
        more = f" and {len(missing) - _NAMED} more" if len(missing) > _NAMED else ""
        raise FileNotFoundError(
            f"the table of {folder} lists files that are not there: {', '.join(missing[:_NAMED])}"
            f"{more}; correct their paths, which are relative to the folder, or remove their lines"
        )
    return Listing(
        tuple(
            File(folder / item.path, item.name, item.creator, item.licence, up=item.up_axis)
            for item in items
            if not item.skip
        ),
        tuple(folder / item.path for item in items if item.skip == folders.UNLISTED),
    )


def _same(path: Path, other: Path | None) -> bool:
    return other is not None and path.resolve() == other.resolve()
