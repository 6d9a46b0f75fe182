# SPDX-License-Identifier: Apache-2.0
"""Tells which classes of a list have few or no shapes in an index.

python -m mrd_jax.tools.coverage my_index --classes words.txt --output coverage

A shape counts for the class whose name is nearest to its embedding. The list has one class name per
line, in UTF-8; it may have millions. Into the folder --output go

  coverage.csv   per class: its status (missing, few or covered), its number of shapes, and the
                 shape that is nearest to its name, with its cosine similarity
  coverage.json  numbers of classes by status, and the names of those that are missing or have few
  index.html     the classes with few shapes, and the nearest shape of each missing one
"""

import argparse
import collections
import sys
from collections.abc import Iterator, Sequence

from mrd_jax.cli import command
from mrd_jax.distributed import compilation_cache
from mrd_jax.library import class_names, coverage, labelling, output
from mrd_jax.search import queries, shape_index

# Classes of each kind that the page lists, and that the JSON file names.
_ON_PAGE, _NAMED = 200, 10_000


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parse_options(arguments)
    classes = class_names.read(options.classes)
    for note in classes.notes:
        print(f"note: {note}", file=sys.stderr)
    index = shape_index.read(options.index)
    folder = output.prepare_folder(options.output)
    teacher = queries.load_teacher(index, options.teacher, text_batch=labelling.TEXT_BATCH)
    counts = coverage.Counts(index, classes=classes.count)
    encoder = labelling.NameEncoder(teacher, classes, templates=options.prompts)
    for names, features in encoder.chunks():
        counts.add(names, features)

    def results() -> Iterator[coverage.ClassCoverage]:
        names = (name for chunk in classes.chunks(labelling.NAMES_PER_CHUNK) for name in chunk)
        for found in counts.results(names, few=options.few):
            if found.status != coverage.REPEATED:
                yield found

    output.write_csv(
        folder / "coverage.csv",
        ("class", "status", "shapes", "nearest_shape", "score"),
        (
            (c.name, c.status, c.shapes, index.items[c.best].id, round(c.best_score, 4))
            for c in results()
        ),
    )
    totals: collections.Counter[str] = collections.Counter()
    named: dict[str, list[coverage.ClassCoverage]] = collections.defaultdict(list)
    for found in results():
        totals[found.status] += 1
        if len(named[found.status]) < _NAMED:
            named[found.status].append(found)
    counted = {name: totals[name] for name in (coverage.MISSING, coverage.FEW, coverage.COVERED)}
    output.write_json(
        folder / "coverage.json",
        {"classes": counted, "few_means_below": options.few}
        | {name: [c.name for c in named[name]] for name in (coverage.MISSING, coverage.FEW)},
    )
    _write_page(folder / output.PAGE, index, named, counted, few=options.few)
    print(
        f"of {sum(counted.values())} classes, {counted[coverage.MISSING]} have no shape and "
        f"{counted[coverage.FEW]} fewer than {options.few}; wrote {folder}"
    )
    return 0


def _write_page(path, index, named, counted, *, few: int) -> None:
    """Writes the page of the command."""

    def table(title: str, status: str, note: str) -> output.Section:
        shown = sorted(named[status], key=lambda c: (c.shapes, c.best_score))[:_ON_PAGE]
        return output.Section(
            title,
            notes=(f"{note} Shown are {len(shown)} of {counted[status]}.",),
            caption=title,
            headings=("class", "shapes", "nearest shape", "score"),
            words=("nearest shape",),
            rows=[
                (c.name, str(c.shapes), index.items[c.best].title, f"{c.best_score:.3f}")
                for c in shown
            ],
        )

    output.write_page(
        path,
        title="Coverage of classes",
        notes=(
            f"{len(index)} shapes; each counts for the class whose name is nearest to its "
            "embedding. A score is the cosine similarity of a name with its nearest shape, which "
            "may count for another class.",
        ),
        sections=[
            table("Classes without shapes", coverage.MISSING, "No shape is nearest to these."),
            table("Classes with few shapes", coverage.FEW, f"Fewer than {few} shapes each."),
            table("Covered classes", coverage.COVERED, f"{few} shapes or more each."),
        ],
    )


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.coverage")
    add = parser.add_argument
    add("index", type=command.path, metavar="INDEX", help="folder of the index")
    add("--classes", required=True, type=command.local_path, help="text file, a class per line")
    add("--output", required=True, type=command.local_path, help="folder of the results")
    add("--teacher", help="hub name or folder (default: recorded in the index)")
    add("--few", type=int, default=5, help="classes with fewer shapes have few (default: 5)")
    add(
        "--prompts",
        choices=tuple(labelling.PROMPTS),
        default="evaluation",
        help="prompts per name: 64 as in the evaluation, or 8 as in the search (default: "
        "evaluation)",
    )
    options = parser.parse_args(arguments)
    if options.few < 1:
        parser.error(f"--few is {options.few}; expected a positive number")
    return options


if __name__ == "__main__":
    compilation_cache.enable()
    sys.exit(main())
