# SPDX-License-Identifier: Apache-2.0
r"""Searches shapes by words, pictures and shapes.

python -m mrd_jax.tools.search build --checkpoint RUN --data data/furniture/1.0.0 --output INDEX
python -m mrd_jax.tools.search build --embeddings shapes.npz --output INDEX
python -m mrd_jax.tools.search find --index INDEX --text "red chair"
python -m mrd_jax.tools.search find --index INDEX --text wooden --mesh chair.glb --weights 0.5 1 \
    --checkpoint RUN --format sheet --output found.png

`build` embeds a prepared data set, or takes what `mrd_jax.tools.embed` has embedded. `find` prints
the nearest shapes by cosine; the parts of a question may be repeated and mixed. Words and pictures
are embedded by the teacher that the encoder was trained with, shapes by the encoder itself.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.geometry import clouds
from mrd_jax import encoder as encoders
from mrd_jax.checkpoints import hashes
from mrd_jax.data import source
from mrd_jax.distributed import compilation_cache
from mrd_jax.search import index as indices
from mrd_jax.search import make, nearest, pictures, queries

FORMATS = ("table", "json", "sheet")
_ERRORS = (OSError, ValueError, clouds.MeshesUnsupportedError, nearest.AnnUnsupportedError)


def build(options: argparse.Namespace) -> None:
    """Writes an index."""
    if options.embeddings:
        make.from_embeddings(
            options.output,
            options.embeddings,
            points=options.points,
            teacher=options.teacher or "",
            ann=options.ann,
        )
    else:
        metadata = source.read_metadata(options.data)
        conventions = {name: metadata[name] for name in ("up_axis", "from_y_up", "normalisation")}
        make.from_records(
            options.output,
            options.data,
            encoder=encoders.load(options.checkpoint, **conventions),
            checkpoint=hashes.checkpoint(options.checkpoint),
            splits=options.splits,
            points=options.points,
            teacher=options.teacher or "",
            ann=options.ann,
        )
    index = indices.read(options.output)
    print(f"{len(index)} shapes in {options.output}")
    teacher = index.teacher
    # Names of a model hub have a slash.
    if not (index.folder / teacher.place).is_dir() and "/" not in teacher.place:
        name = teacher.name or "not named on the encoder's card"
        print(
            f"note: searching by words and pictures will need --teacher, the folder of the "
            f"encoder's teacher ({name}); passed to build, the index remembers it",
            file=sys.stderr,
        )


def find(options: argparse.Namespace) -> None:
    """Answers one question."""
    index = indices.read(options.index)
    kinds = {kind for kind, _ in options.parts}
    encoder = teacher = None
    if "mesh" in kinds:
        encoder = queries.load_encoder(index, options.checkpoint)
    if kinds & {"text", "image"}:
        teacher = queries.load_teacher(index, options.teacher)
    searcher = queries.Searcher(index, encoder=encoder, teacher=teacher, ann=options.ann)
    rows = [_row(searcher, kind, value, up=options.up) for kind, value in options.parts]
    found = searcher.find(queries.mix(rows, options.weights), count=options.count)
    title = " + ".join(
        f"{weight:g} × {value}" if len(rows) > 1 else value
        for (_, value), weight in zip(options.parts, options.weights, strict=True)
    )
    if options.format == "sheet":
        pictures.write_sheet(options.output, index, found.numbers, found.scores, title=title)
        print(f"{len(found.numbers)} shapes in {options.output}")
    else:
        text = {"table": table, "json": as_json}[options.format](index, found)
        if options.output:
            options.output.write_text(text + "\n", encoding="utf-8")
        else:
            print(text)


def _row(searcher: queries.Searcher, kind: str, value: str, *, up: str | None) -> np.ndarray:
    """A part of the question as a unit row."""
    if kind == "text":
        return searcher.text(value)
    try:
        if kind == "image":
            return searcher.picture(queries.read_picture(Path(value)))
        cloud = queries.read_cloud(Path(value), searcher.index, up=up)
    except OSError as error:
        raise ValueError(f"{value}: cannot be read: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"{value}: {error}") from error
    if cloud.faults:
        print(f"note: {value}: {', '.join(cloud.faults)}", file=sys.stderr)
    return searcher.cloud(cloud.xyz, cloud.rgb)


def table(index: indices.Index, found: queries.Found) -> str:
    """The shapes as lines of text, one each, below a heading."""
    rows = [("rank", "score", "name", "id", "creator", "licence")]
    for rank, (number, score) in enumerate(zip(found.numbers, found.scores, strict=True), 1):
        item = index.items[number]
        texts = (item.title, item.id, item.creator, item.licence)
        rows.append((str(rank), f"{score:.3f}", *(" ".join(text.split()) for text in texts)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def as_json(index: indices.Index, found: queries.Found) -> str:
    """The shapes as a JSON list of objects: rank, score, what is known, and the picture's path."""
    rows = []
    for rank, (number, score) in enumerate(zip(found.numbers, found.scores, strict=True), 1):
        item = dataclasses.asdict(index.items[number])
        item["picture"] = str(index.picture(number))
        rows.append({"rank": rank, "score": round(float(score), 6)} | item)
    return json.dumps(rows, indent=1, ensure_ascii=False)


class _Part(argparse.Action):
    """Keeps the parts of a question in the order of the command line, whatever their kinds."""

    def __call__(self, parser, namespace, values, option_string=None):
        namespace.parts = [*namespace.parts, (option_string.lstrip("-"), values)]


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Reads the command line.

    Args:
      arguments: without the program's name; None takes the process's own.
    """
    parser = argparse.ArgumentParser(
        prog="python -m mrd_jax.tools.search",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    _add_build(commands.add_parser("build", help="write an index"))
    _add_find(commands.add_parser("find", help="search one"))
    options = parser.parse_args(arguments)
    if options.command == "build":
        _check_build(parser, options)
    else:
        _check_find(parser, options)
    return options


def _add_build(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--output", required=True, type=Path, help="folder of the index, a new one")
    add("--data", type=Path, help="folder of a prepared data set, with its version")
    add("--embeddings", type=Path, help="instead of --data: npz file of mrd_jax.tools.embed")
    add("--checkpoint", type=Path, help="of --data: workdir of a run, or folder of an encoder")
    add("--splits", nargs="+", default=(), help="of --data; left out: all")
    add("--teacher", help="hub name or folder; left out: where data_prep.build left or took it")
    add("--points", type=int, default=2_048, help="of the clouds that are shown, at most; 2,048")
    add("--ann", action="store_true", help="write what `find --ann` needs; extra `ann`")


def _add_find(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--index", required=True, type=Path, help="folder of the index")
    for name, what in (
        ("--text", "words to search for"),
        ("--image", "picture to search for"),
        ("--mesh", f"shape to search for: {', '.join(clouds.TYPES)}"),
    ):
        add(name, action=_Part, dest="parts", default=[], metavar=name[2:].upper(), help=what)
    add("--weights", nargs="+", type=float, help="of the parts in their order; 1 each")
    add("--checkpoint", type=Path, help="of --mesh: the encoder that made the index")
    add("--teacher", help="of --text and --image: hub name or folder; left out: the index knows")
    add("--up", choices=("y", "z"), help="vertical axis of --mesh; left out: by its type")
    add("--count", type=int, default=10, help="shapes to find; 10")
    add("--format", default="table", choices=FORMATS, help="of the answer; table")
    add("--output", type=Path, help="file to write; left out: printed")
    add("--ann", action="store_true", help="search approximately, from 200,000 shapes")


def _check_build(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if (options.data is None) == (options.embeddings is None):
        parser.error("pass --data or --embeddings, one of them")
    if (options.data is None) != (options.checkpoint is None):
        parser.error("--checkpoint belongs to --data, and that needs it")
    if options.splits and options.data is None:
        parser.error("--splits belongs to --data")
    if options.points < 1:
        parser.error(f"--points is {options.points}; expected a positive number")


def _check_find(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not options.parts:
        parser.error("nothing to search for: pass --text, --image or --mesh")
    if options.weights is None:
        options.weights = [1.0] * len(options.parts)
    if len(options.weights) != len(options.parts):
        parser.error(f"{len(options.weights)} --weights for {len(options.parts)} parts: one each")
    if any(kind == "mesh" for kind, _ in options.parts) and options.checkpoint is None:
        parser.error("--mesh needs --checkpoint, the encoder that made the index")
    if options.format == "sheet" and options.output is None:
        parser.error("--format sheet needs --output, a PNG file")
    if options.count < 1:
        parser.error(f"--count is {options.count}; expected a positive number")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns its exit status."""
    options = parse_options(arguments)
    try:
        {"build": build, "find": find}[options.command](options)
    except _ERRORS as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    compilation_cache.enable()
    sys.exit(main())
