# SPDX-License-Identifier: Apache-2.0
"""Columns of the tables that describe the shapes of a folder."""

import dataclasses
import os
import re
from collections.abc import Sequence

from data_prep.geometry.listing import printable

# Unknown columns that a note lists, and the shortest column that it suggests.
_MAX_UNKNOWN, _MIN_LENGTH = 10, 4
# Alternative column name -> column name.
ALIASES = {
    "caption": "captions",
    "image": "images",
    "license": "licence",
    "tag": "tags",
    "up": "up_axis",
}


@dataclasses.dataclass(frozen=True)
class Row:
    """One row of a table; empty cells are "" or ().

    Attributes:
      where: file and line, for error messages.
      path: path of the mesh or cloud, relative to the folder.
      id: unique id in the table.
      name: name of the shape.
      tags: words about the shape.
      captions: sentences about the shape.
      images: paths of images, relative to the folder.
      label: class name.
      group: name that alike shapes share.
      up_axis: "y" or "z".
      split: name of the split, such as "train" or "test".
      creator: creator to credit.
      licence: licence of the shape.
    """

    where: str
    path: str
    id: str = ""
    name: str = ""
    tags: tuple[str, ...] = ()
    captions: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    label: str = ""
    group: str = ""
    up_axis: str = ""
    split: str = ""
    creator: str = ""
    licence: str = ""


COLUMNS = tuple(field.name for field in dataclasses.fields(Row) if field.name != "where")
LISTS = ("captions", "images", "tags")
PATHS = ("path", "images")


def column_of(name: str) -> str:
    """Returns the column that a name means; the name in lower case if that is none of COLUMNS."""
    normalised = re.sub(r"[\s_-]+", "_", name.strip().lower())
    return ALIASES.get(normalised, normalised)


def suggest_path(names: Sequence[str]) -> str:
    """Returns advice on a table without a path if a column may be a mistyped "path", else ""."""
    similar = [name for name in names if _similar_column(name) == "path"]
    return f"; rename {similar[0]!r} if it is the path" if similar else ""


def describe_unknown(names: Sequence[str]) -> str:
    """Returns a note about columns that are not read, "" if there are none.

    Mistyped columns get a suggestion.
    """
    if not names:
        return ""
    shown = []
    for name in names[:_MAX_UNKNOWN]:
        similar = _similar_column(name)
        shown.append(printable(name) + (f" (did you mean {similar}?)" if similar else ""))
    more = f" and {len(names) - len(shown)} more" if len(names) > len(shown) else ""
    return f"columns that are not read: {', '.join(shown)}{more}"


def _similar_column(name: str) -> str:
    """Returns the known column that differs from a name by one edit, or ""."""
    for known in (*COLUMNS, *ALIASES):
        if len(known) >= _MIN_LENGTH and _is_one_edit(column_of(name), known):
            return ALIASES.get(known, known)
    return ""


def _is_one_edit(one: str, other: str) -> bool:
    """Returns whether two words differ by a letter added, removed, replaced or swapped."""
    start = len(os.path.commonprefix([one, other]))
    one, other = one[start:], other[start:]
    return one != other and (
        one[1:] in (other[1:], other)
        or one == other[1:]
        or (one[:2] == other[1::-1] and one[2:] == other[2:])
    )
