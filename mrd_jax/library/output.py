# SPDX-License-Identifier: Apache-2.0
"""Writes the results of a command on a library: CSV, JSON and an HTML page."""

import csv
import dataclasses
import json
from collections.abc import Iterable, Sequence
from typing import Any

from mrd_jax import atomic_io, pages, storage
from mrd_jax.search import shape_index

PAGE = "index.html"


@dataclasses.dataclass(frozen=True)
class Card:
    """A shape on a page.

    Attributes:
      title: name of the shape.
      lines: what is known about it.
      picture: picture as a data URI; "" for none.
      credit: creator and licence.
    """

    title: str
    lines: Sequence[str] = ()
    picture: str = ""
    credit: str = ""


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of a page.

    Attributes:
      title: heading.
      notes: paragraphs below it.
      caption: caption of the table.
      headings: headings of the columns.
      words: those of `headings` whose columns hold words, which are aligned to the left.
      rows: cells of the table, of which the first is the heading of its row.
      cards: shapes below the table.
    """

    title: str
    notes: Sequence[str] = ()
    caption: str = ""
    headings: Sequence[str] = ()
    words: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    cards: Sequence[Card] = ()


def prepare_folder(folder: storage.PathLike) -> storage.Path:
    """Creates the folder of the results, before any work.

    Raises:
      FileExistsError: the path is a file.
    """
    target = storage.path(folder)
    if target.is_file():
        raise FileExistsError(f"{folder} is a file; expected a folder, or a path to create one at")
    storage.make_folder(target)
    return target


def write_csv(
    path: storage.PathLike, headings: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Writes a CSV file in UTF-8 atomically, a row at a time.

    Args:
      path: file to write.
      headings: names of the columns.
      rows: values in the order of `headings`.
    """
    # A path of etils has no argument `newline`.
    with (
        atomic_io.replacing(path) as temporary,
        open(temporary, "w", encoding="utf-8", newline="") as file,
    ):
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(headings)
        writer.writerows(rows)


def write_json(path: storage.PathLike, content: Any) -> None:
    """Writes a JSON file atomically."""
    atomic_io.write_text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def write_page(
    path: storage.PathLike, *, title: str, notes: Sequence[str], sections: Sequence[Section]
) -> None:
    """Writes an HTML page that needs no other files and no network.

    Args:
      path: file to write.
      title: heading of the page.
      notes: paragraphs below it.
      sections: contents.
    """
    template = pages.load("mrd_jax.pages", "library.html")
    atomic_io.write_text(path, template.render(title=title, notes=notes, sections=sections))


def make_card(index: shape_index.ShapeIndex, number: int, lines: Sequence[str] = ()) -> Card:
    """Returns the card of a shape of an index, with its picture and credit.

    Args:
      index: an open index.
      number: row of the shape.
      lines: what is known about it.
    """
    item = index.items[number]
    picture = pages.data_uri(index.picture(number), "image/jpeg")
    credit = ", ".join(text for text in (item.creator, item.licence) if text)
    return Card(item.title, lines, picture, credit)
