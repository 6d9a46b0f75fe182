# SPDX-License-Identifier: Apache-2.0
"""Labels mesh and point cloud files with the nearest names of a list, or with a class head.

python -m mrd_jax.tools.classify meshes/ --checkpoint runs/quickstart --index my_index \
    --classes words.txt --output labels
python -m mrd_jax.tools.classify meshes/ --checkpoint runs/finetune/encoder --output labels

The list has one class name per line, in UTF-8; it may have millions. A file's classes are the names
whose text features are nearest to its embedding, as in the zero-shot evaluation, with the same
prompts. Without --classes, they are the classes that the encoder was fine-tuned on. Into the folder
--output go

  labels.csv   per file: the best class, its score (cosine similarity; probability of a class head),
               the margin to the second best, the level, whether it is none of these, and the next
               classes with their scores
  labels.json  the same, with the files that could not be read
  index.html   classes with their numbers of files, and the files with the smallest margins

The level of a file is the fraction of the shapes of --index whose best score is not higher than
the file's. A file with a level below --none_level is "none of these": so many of the shapes of the
index would be, too. That is meaningful if the shapes of the index belong to the classes. A class
head does without --index; then the level is empty, and no file is none of these.

The exit status is 1 if a file was skipped.
"""

import argparse
import collections
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import mrd_jax.encoder
from data_prep.geometry import clouds, formats
from data_prep.geometry.listing import printable
from mrd_jax.cli import command
from mrd_jax.distributed import compilation_cache
from mrd_jax.encoder import Encoder
from mrd_jax.library import class_names, labelling, output
from mrd_jax.search import queries, shape_files, shape_index
from mrd_jax.tools import embed

# Files that the page lists.
_ON_PAGE = 500


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 1 if a file was skipped."""
    options = parse_options(arguments)
    classes = class_names.read(options.classes) if options.classes else None
    index = shape_index.read(options.index) if options.index else None
    folder = output.prepare_folder(options.output)
    listing = shape_files.find(options.files, label_from=None)
    listing.print_notes()
    clouds.check_readable(file.path for file in listing.files)
    encoder = _load_encoder(options, index)
    find_labels = _labeller(options, encoder, index, classes)
    embeddings, report = embed.embed_files(
        encoder,
        [file.path for file in listing.files],
        up=[file.up or options.up or "" for file in listing.files],
        roots=[file.root for file in listing.files],
    )
    report.skipped += listing.skipped
    # As an index holds its rows, so that scores of equal shapes are equal.
    labels, known = find_labels(embeddings.astype(np.float16))
    records = [*_records(report.files, labels, known, options)]
    _write(folder, records, report.skipped, top=options.top, zero_shot=classes is not None)
    none = sum(record["none_of_these"] for record in records)
    print(f"labelled {len(records)} files in {folder}; none of these: {none}")
    if report.skipped:
        print(f"skipped {len(report.skipped)} files, see {folder / 'labels.json'}", file=sys.stderr)
    return 1 if report.skipped else 0


def _load_encoder(options: argparse.Namespace, index: shape_index.ShapeIndex | None) -> Encoder:
    """Loads the encoder, which must be that of the index.

    Raises:
      ValueError: there is no list of classes, and the encoder has no class head.
    """
    if index is not None:
        encoder = queries.load_encoder(index, options.checkpoint)
    else:
        encoder = mrd_jax.encoder.load(options.checkpoint)
    if not options.classes and encoder.classes is None:
        raise ValueError(
            f"{options.checkpoint} has no class head: pass --classes, a list of names, with the "
            "--index of the encoder, or the folder `encoder` of a fine-tuned run"
        )
    return encoder


def _labeller(
    options: argparse.Namespace,
    encoder: Encoder,
    index: shape_index.ShapeIndex | None,
    classes: class_names.ClassList | None,
) -> Callable[[np.ndarray], tuple[labelling.Labels, np.ndarray]]:
    """Returns the function from unit embeddings to labels and scores of the index."""
    count = max(options.top, 2)
    if classes is None or index is None:
        assert encoder.classes is not None
        rows = None if index is None else labelling.calibration_rows(index)
        return functools.partial(
            labelling.label_with_head, head=encoder.classes, count=count, calibration=rows
        )
    for note in classes.notes:
        print(f"note: {note}", file=sys.stderr)
    teacher = queries.load_teacher(index, options.teacher, text_batch=labelling.TEXT_BATCH)
    names = labelling.NameEncoder(teacher, classes, templates=options.prompts)
    rows = labelling.calibration_rows(index)
    return functools.partial(labelling.label, encoder=names, count=count, calibration=rows)


def _records(
    files: Sequence[Path], labels: labelling.Labels, known: np.ndarray, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """Yields the results of each file; without known scores, levels are None."""
    rows = zip(files, labels.names, labels.scores, labels.margins(), strict=True)
    for path, names, scores, margin in rows:
        level = None
        if len(known):
            rank = np.searchsorted(known, np.float32(scores[0]), side="right")
            level = round(float(rank / len(known)), 4)
        yield {
            "file": printable(str(path)),
            "class": names[0],
            "score": round(scores[0], 4),
            "margin": None if margin is None else round(margin, 4),
            "level": level,
            "none_of_these": level is not None and level < options.none_level,
            "classes": [
                {"class": name, "score": round(score, 4)}
                for name, score in zip(names[: options.top], scores, strict=False)
            ],
        }


def _write(
    folder: Path,
    records: Sequence[dict[str, Any]],
    skipped: Sequence[tuple[Path, str]],
    *,
    top: int,
    zero_shot: bool,
) -> None:
    """Writes the CSV file, the JSON file and the page."""
    fields = ("file", "class", "score", "margin", "level", "none_of_these")
    further = [f"{field}_{rank}" for rank in range(2, top + 1) for field in ("class", "score")]
    rows = (
        [
            *(record[field] for field in fields),
            *(value for other in record["classes"][1:] for value in other.values()),
        ]
        for record in records
    )
    output.write_csv(folder / "labels.csv", [*fields, *further], rows)
    unread = [{"file": printable(str(path)), "reason": reason} for path, reason in skipped]
    output.write_json(folder / "labels.json", {"files": [*records], "skipped": unread})
    counts = collections.Counter(
        "none of these" if record["none_of_these"] else record["class"] for record in records
    )
    doubtful = sorted(records, key=lambda record: (record["margin"] or 0.0, record["file"]))
    meaning = "the probability of a class by the class head of the encoder"
    if zero_shot:
        meaning = "the cosine similarity of the embedding with the text feature of a class name"
    output.write_page(
        folder / output.PAGE,
        title="Labels of files",
        notes=[f"{len(records)} files. A score is {meaning}."],
        sections=[
            output.Section(
                "Classes",
                caption="Files by their best class",
                headings=("class", "files"),
                rows=[(name, str(count)) for name, count in counts.most_common(_ON_PAGE)],
            ),
            output.Section(
                "Least certain files",
                caption=f"The {min(_ON_PAGE, len(records))} files with the smallest margins",
                headings=("file", "class", "score", "margin", "level", "second class"),
                words=("class", "second class"),
                rows=[_cells(record) for record in doubtful[:_ON_PAGE]],
            ),
            output.Section(
                "Skipped files",
                notes=() if unread else ("None.",),
                caption="Files that could not be read",
                headings=("file", "reason"),
                words=("reason",),
                rows=[(row["file"], row["reason"]) for row in unread[:_ON_PAGE]],
            ),
        ],
    )


def _cells(record: dict[str, Any]) -> list[str]:
    name = "none of these" if record["none_of_these"] else record["class"]
    margin = "–" if record["margin"] is None else f"{record['margin']:.3f}"
    second = record["classes"][1]["class"] if len(record["classes"]) > 1 else "–"
    return [
        record["file"],
        name,
        f"{record['score']:.3f}",
        margin,
        "–" if record["level"] is None else f"{record['level']:.0%}",
        second,
    ]


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.classify")
    add = parser.add_argument
    add(
        "files",
        nargs="+",
        type=command.local_path,
        metavar="FILE",
        help=f"{', '.join(formats.TYPES)}, or a folder: the files of its table, or else all in it",
    )
    add(
        "--checkpoint",
        required=True,
        type=command.encoder_path,
        help="workdir of a run, one of its checkpoints, or encoder folder; that of the index",
    )
    add(
        "--index",
        type=command.path,
        help="index whose shapes tell which scores are usual, see --none_level",
    )
    add(
        "--classes",
        type=command.local_path,
        help="text file, a class per line (default: the classes of a fine-tuned encoder)",
    )
    add("--output", required=True, type=command.local_path, help="folder of the results")
    add("--teacher", help="hub name or folder (default: recorded in the index)")
    add("--top", type=int, default=5, help="classes per file (default: 5)")
    add(
        "--none_level",
        type=float,
        default=0.05,
        help="files with a lower level are none of these (default: 0.05; 0 for never)",
    )
    add(
        "--prompts",
        choices=tuple(labelling.PROMPTS),
        default="evaluation",
        help="prompts per name: 64 as in the evaluation, or 8 as in the search (default: "
        "evaluation)",
    )
    add("--up", choices=("y", "z"), help="vertical axis of the files (default: by file type)")
    options = parser.parse_args(arguments)
    if options.top < 1:
        parser.error(f"--top is {options.top}; expected a positive number")
    if options.classes and not options.index:
        parser.error("--classes needs --index, which records the teacher and usual scores")
    if options.teacher and not options.classes:
        parser.error("--teacher embeds the names of --classes; a class head needs none")
    if not 0 <= options.none_level <= 1:
        parser.error(f"--none_level is {options.none_level}; expected a number from 0 to 1")
    return options


if __name__ == "__main__":
    compilation_cache.enable()
    sys.exit(main())
