# SPDX-License-Identifier: Apache-2.0
"""Shows what the readers of this project see in mesh and point cloud files.

python -m mrd_jax.tools.inspect chair.glb scans/ --sheet sheet.png

Reads each file as `mrd_jax.tools.embed`, `mrd_jax.tools.search` and `data_prep.build` do, and
prints its number of triangles or points, size, position, colours, the vertical axis that is
assumed, and what was ignored. Extent, centre and area are in the units and axes of the file.
Colours are sRGB values of 0 to 255, of points sampled by area from a mesh, or of all points of a
cloud.

With --json, prints one JSON object per line and file with the keys `file`, `kind`, `triangles`,
`points`, `area`, `extent`, `centre`, `colour_mean`, `colour_std`, `up_axis`, `parts`, `notes` and
`error`. With --sheet, draws four views of each mesh and of the points that an encoder gets.

A folder stands for the files of its table (see `data_prep.sources.folder`), or else for all files
of known types in it. The exit status is 1 if a file has an error.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from data_prep.geometry import clouds, formats
from data_prep.geometry.listing import printable
from mrd_jax.cli import command
from mrd_jax.search import inspection, shape_files

# A sheet of this many files takes 70 MB of memory.
MAX_SHEET_FILES = 100


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 1 if a file has an error."""
    options = parse_options(arguments)
    listing = shape_files.find(options.files)
    listing.print_notes()
    paths = [file.path for file in listing.files]
    clouds.check_readable(paths)
    if options.sheet and len(paths) > MAX_SHEET_FILES:
        raise ValueError(
            f"--sheet draws at most {MAX_SHEET_FILES} files, and these are {len(paths)}; name "
            "fewer files, or leave --sheet out"
        )
    rows, status = [], 0
    for inspected in _inspect(listing, up=options.up, columns=options.columns):
        facts = inspected.facts
        status = 1 if facts.error else status
        text = format_facts(facts, up_is_assumed=inspected.up_is_assumed) + "\n"
        print(json.dumps(dataclasses.asdict(facts)) if options.json else text, flush=True)
        if options.sheet:
            from mrd_jax.search import inspection_sheet  # imports JAX and the renderer

            rows.append(inspection_sheet.draw_row(inspected))
    if options.sheet:
        options.sheet.parent.mkdir(parents=True, exist_ok=True)
        inspection_sheet.write_sheet(options.sheet, rows)
    return status


def _inspect(
    listing: shape_files.Listing, *, up: str | None, columns: str | None
) -> Iterator[inspection.Inspection]:
    """Yields the inspections of all files, and the errors of entries that cannot be read."""
    for file in listing.files:
        yield inspection.inspect_file(
            file.path, up=file.up or up, root=file.root or None, columns=columns
        )
    for path, reason in listing.skipped:
        yield inspection.Inspection(inspection.Facts(printable(str(path)), error=reason))


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: without the program's name; None takes those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.inspect")
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        type=Path,
        metavar="FILE",
        help=f"{', '.join(formats.TYPES)}, or a folder: the files of its table, or else all in it",
    )
    add("--json", action="store_true", help="print one JSON object per line and file")
    add("--sheet", type=Path, help="PNG file to write, with pictures of every file")
    add(
        "--up",
        choices=("y", "z"),
        help="vertical axis of the files without one in a table; by default y for glb, gltf and "
        "obj, z for the other types",
    )
    add("--columns", help=formats.COLUMNS_HELP)
    options = parser.parse_args(arguments)
    if options.sheet and options.sheet.suffix.lower() != ".png":
        parser.error(f"--sheet is {str(options.sheet)!r}; expected a file that ends in .png")
    return options


def format_facts(facts: inspection.Facts, *, up_is_assumed: bool) -> str:
    """Formats the facts about a file as lines of a label and a value.

    Args:
      facts: facts about one file.
      up_is_assumed: whether the vertical axis is a guess by the type of the file.
    """
    lines = {"kind": facts.kind}
    if facts.kind == "mesh":
        lines |= {"triangles": facts.triangles, "parts": facts.parts, "area": _numbers(facts.area)}
    if facts.kind == "cloud":
        lines |= {"points": facts.points}
    lines |= {"extent": _numbers(facts.extent, " x "), "centre": _numbers(facts.centre)}
    if facts.colour_mean and facts.colour_std:
        lines["colour"] = f"{_colour(facts.colour_mean)} mean, {_colour(facts.colour_std)} std"
    elif facts.kind and not facts.error:
        lines["colour"] = f"none (grey {255 * inspection.CONVENTIONS.colour_fill:.0f} is used)"
    if facts.kind:
        lines["up axis"] = f"{facts.up_axis}{' (assumed; see --up)' if up_is_assumed else ''}"
    lines |= {"notes": ", ".join(facts.notes) or None, "error": facts.error}
    shown = [f"  {label:<11}{value}" for label, value in lines.items() if value is not None]
    return "\n".join([facts.file, *shown])


def _numbers(values: float | Sequence[float] | None, separator: str = ", ") -> str | None:
    if values is None:
        return None
    values = values if isinstance(values, list) else [values]
    return separator.join(f"{value:.7g}" for value in values)


def _colour(channels: Sequence[float]) -> str:
    return f"({', '.join(f'{value:.0f}' for value in channels)})"


if __name__ == "__main__":
    sys.exit(main())
