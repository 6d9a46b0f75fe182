# SPDX-License-Identifier: Apache-2.0
"""Finds copies in an index: exact, near, and up to rotation and scale.

python -m mrd_jax.tools.duplicates my_index --output duplicates

Candidates come from the embeddings and from rotation-invariant statistics of the point clouds; each
is aligned and compared point by point. Kinds of copies:

  exact    the same points and colours
  near     the same surface in the same pose, such as a re-meshed, recoloured or scaled copy
  rotated  the same surface in another pose

Mirror images, and shapes that differ in a part, are no copies. An index holds shapes without their
size. Into the folder --output go

  duplicates.csv   a line per shape of a group: what it is a copy of, the kind, the distance after
                   alignment (0 for the same points, about 1 for two samples of one surface), the
                   turn in degrees, and the mean difference of the colours, 0 to 1
  duplicates.json  the same by group
  index.html       pictures of all groups
  group-0001.png   a contact sheet per group

No shape is removed or changed.
"""

import argparse
import sys
from collections.abc import Sequence

import numpy as np

from mrd_jax.cli import command
from mrd_jax.library import duplicates, output
from mrd_jax.search import pictures, shape_index

_FIELDS = ("kind", "copy_of", "distance", "turn", "colour", "similarity")
# Groups on the page.
_ON_PAGE = 200


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parse_options(arguments)
    index = shape_index.read(options.index)
    folder = output.prepare_folder(options.output)
    groups = duplicates.find(index, max_distance=options.max_distance)
    described = [[_describe(index, copy) for copy in group] for group in groups]
    output.write_csv(
        folder / "duplicates.csv",
        ("group", "id", "name", "creator", "licence", *_FIELDS),
        ((number, *row.values()) for number, rows in enumerate(described, 1) for row in rows),
    )
    output.write_json(
        folder / "duplicates.json",
        {
            "shapes": len(index),
            "max_distance": options.max_distance,
            "groups": described,
        },
    )
    for number, group in enumerate(groups[: options.sheets], 1):
        _write_sheet(folder / f"group-{number:04d}.png", index, group, number)
    _write_page(folder / output.PAGE, index, groups)
    copies = sum(len(group) - 1 for group in groups)
    print(f"{len(groups)} groups with {copies} copies among {len(index)} shapes; wrote {folder}")
    if len(groups) > options.sheets:
        print(
            f"note: the first {options.sheets} of {len(groups)} groups have contact sheets; "
            "--sheets sets their number",
            file=sys.stderr,
        )
    return 0


def _describe(index: shape_index.ShapeIndex, copy: duplicates.Copy) -> dict[str, object]:
    """Returns the values of a line of the CSV file by column."""
    item = index.items[copy.number]
    values: dict[str, object] = {
        "id": item.id,
        "name": item.name,
        "creator": item.creator,
        "licence": item.licence,
    }
    if copy.of is None:
        return values | dict.fromkeys(_FIELDS)
    return values | {
        "kind": copy.kind,
        "copy_of": index.items[copy.of].id,
        "distance": round(copy.distance, 3),
        "turn": round(copy.turn, 1),
        "colour": round(copy.colour, 3),
        "similarity": round(_similarity(index, copy.number, copy.of), 4),
    }


def _similarity(index: shape_index.ShapeIndex, first: int, second: int) -> float:
    """Returns the cosine similarity of two embeddings."""
    first_row, second_row = (np.asarray(index.rows[row], np.float32) for row in (first, second))
    return float(first_row @ second_row)


def _write_sheet(path, index: shape_index.ShapeIndex, group, number: int) -> None:
    numbers = np.array([copy.number for copy in group])
    scores = np.array([_similarity(index, int(row), group[0].number) for row in numbers])
    title = f"Group {number}; scores: similarity with the embedding of the first"
    pictures.write_sheet(path, index, numbers, scores, title=title)


def _write_page(path, index: shape_index.ShapeIndex, groups) -> None:
    sections = [
        output.Section(
            f"Group {number}: {index.items[group[0].number].title}",
            cards=[output.make_card(index, copy.number, _lines(index, copy)) for copy in group],
        )
        for number, group in enumerate(groups[:_ON_PAGE], 1)
    ]
    output.write_page(
        path,
        title="Duplicates",
        notes=[
            f"{len(groups)} groups among {len(index)} shapes"
            + (f", of which the first {_ON_PAGE} are shown." if len(groups) > _ON_PAGE else "."),
            "A distance is 0 for the same points, and about 1 for two samples of one surface.",
        ],
        sections=sections,
    )


def _lines(index: shape_index.ShapeIndex, copy: duplicates.Copy) -> list[str]:
    """Returns what a card says about a copy."""
    lines = [index.items[copy.number].id]
    if copy.of is None:
        return [*lines, "first of its group"]
    kind = f"{copy.kind} copy of {index.items[copy.of].id}"
    kind += ", recoloured" if copy.is_recoloured else ""
    turn = f", turned by {copy.turn:.0f}°" if copy.kind == duplicates.ROTATED else ""
    return [*lines, kind, f"distance {copy.distance:.2f}{turn}"]


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.duplicates")
    add = parser.add_argument
    add("index", type=command.path, metavar="INDEX", help="folder of the index")
    add("--output", required=True, type=command.local_path, help="folder of the results")
    add(
        "--max_distance",
        type=float,
        default=duplicates.MAX_DISTANCE,
        help="largest distance of a copy after alignment; smaller finds fewer "
        f"(default: {duplicates.MAX_DISTANCE})",
    )
    add(
        "--sheets", type=int, default=1_000, help="largest number of contact sheets (default: 1000)"
    )
    options = parser.parse_args(arguments)
    if not options.max_distance > 0:
        parser.error(f"--max_distance is {options.max_distance}; expected a positive number")
    if options.sheets < 0:
        parser.error(f"--sheets is {options.sheets}; expected 0 or more")
    return options


if __name__ == "__main__":
    sys.exit(main())
