# SPDX-License-Identifier: Apache-2.0
r"""Searches shapes by text, pictures and shapes.

python -m mrd_jax.tools.search build --checkpoint RUN --data data/furniture/1.0.0 --output INDEX
python -m mrd_jax.tools.search build --embeddings shapes.npz --output INDEX
python -m mrd_jax.tools.search find --index INDEX --text "red chair"
python -m mrd_jax.tools.search add --index INDEX more_shapes --checkpoint RUN
python -m mrd_jax.tools.search update --index INDEX
python -m mrd_jax.tools.search find --index INDEX --text wooden --mesh chair.glb --weights 0.5 1 \
    --checkpoint RUN --format sheet --output found.png

`build` writes an index of a prepared data set, or of files that `mrd_jax.tools.embed` has embedded.
`find` prints the shapes with the highest cosine similarity to the query. A query has one or more
parts, which are added with their weights. Text and pictures are embedded by the teacher that the
encoder was trained with, shapes by the encoder itself.

`add`, `remove` and `update` change an index while others search it, `info` describes it, `merge`
writes one index with the shapes of several. `mrd_jax.tools.index` builds an index of a folder and
keeps it up to date.
"""

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data_prep.geometry import formats
from data_prep.geometry.listing import printable
from mrd_jax import atomic_io, encoder
from mrd_jax.checkpoints import fingerprinting
from mrd_jax.cli import command
from mrd_jax.data import dataset_metadata
from mrd_jax.distributed import compilation_cache
from mrd_jax.search import embedded_files, indexing, manifest, pictures, queries, shape_index
from mrd_jax.tools import index_changes

FORMATS = ("table", "json", "sheet")


def build(options: argparse.Namespace) -> None:
    """Writes an index."""
    if options.embeddings:
        embedded_files.index_embeddings(
            options.output,
            options.embeddings,
            points=options.points,
            teacher=options.teacher or "",
            mesh_faces=options.mesh_faces,
            ann=options.ann,
        )
    else:
        metadata = dataset_metadata.read(options.data)
        conventions = {name: metadata[name] for name in ("up_axis", "from_y_up", "normalisation")}
        indexing.index_data_set(
            options.output,
            options.data,
            encoder=encoder.load(options.checkpoint, **conventions),
            checkpoint=fingerprinting.checkpoint_fingerprint(options.checkpoint),
            splits=options.splits,
            points=options.points,
            teacher=options.teacher or "",
            mesh_faces=options.mesh_faces,
            ann=options.ann,
        )
    index = shape_index.read(options.output)
    print(f"wrote {len(index)} shapes to {options.output}")
    for listed in manifest.read(index.folder).segments:
        if listed.recall is not None:
            print(f"approximate search finds {listed.recall:.1%} of the ten nearest shapes")
    nameless = [item.id for item in index.items if not item.name]
    if nameless:
        print(
            f"note: {len(nameless)} shape{'s' * (len(nameless) > 1)} without a name, such as "
            f"{nameless[0]}; use --label_from folder when files are embedded or prepared, or a "
            "table with a column 'name'",
            file=sys.stderr,
        )
    if index.reader_note():
        print(f"note: {index.reader_note()}", file=sys.stderr)
    teacher = index.teacher
    # Names of the Hugging Face Hub contain a slash.
    if not (index.folder / teacher.place).is_dir() and "/" not in teacher.place:
        name = teacher.name or "not named on the encoder's model card"
        print(
            f"note: queries by text or picture will need --teacher, the folder of the encoder's "
            f"teacher ({name}). Pass it to build to record it in the index",
            file=sys.stderr,
        )


def find(options: argparse.Namespace) -> None:
    """Prints or writes the shapes nearest to a query."""
    index = shape_index.read(options.index)
    kinds = {kind for kind, _ in options.parts}
    student = teacher = None
    if "mesh" in kinds:
        student = queries.load_encoder(index, options.checkpoint)
        if index.reader_note():
            print(f"note: {index.reader_note()}", file=sys.stderr)
    if kinds & {"text", "image"}:
        teacher = queries.load_teacher(index, options.teacher)
    searcher = queries.Searcher(index, encoder=student, teacher=teacher, ann=options.ann)
    rows = [_embed_part(searcher, kind, value, up=options.up) for kind, value in options.parts]
    matches = searcher.find(queries.mix(rows, options.weights), count=options.count)
    title = " + ".join(
        f"{weight:g} × {value}" if len(rows) > 1 else value
        for (_, value), weight in zip(options.parts, options.weights, strict=True)
    )
    if options.format == "sheet":
        pictures.write_sheet(options.output, index, matches.numbers, matches.scores, title=title)
        print(f"wrote {len(matches.numbers)} shapes to {options.output}")
    else:
        text = {"table": format_table, "json": format_json}[options.format](index, matches)
        if options.output:
            atomic_io.write_text(options.output, text + "\n")
        else:
            print(text)


def _embed_part(searcher: queries.Searcher, kind: str, value: str, *, up: str | None) -> np.ndarray:
    """Returns the embedding of one part of the query, unit norm."""
    if kind == "text":
        return searcher.embed_text(value)
    try:
        if kind == "image":
            return searcher.embed_picture(queries.read_picture(Path(value)))
        cloud = queries.read_cloud(Path(value), searcher.index, up=up)
    except OSError as error:
        raise ValueError(f"cannot read {value}: {error.strerror or error}") from error
    except ValueError as error:
        raise ValueError(f"cannot use {value}: {error}") from error
    if cloud.faults:
        print(f"note: {printable(value)}: {', '.join(cloud.faults)}", file=sys.stderr)
    return searcher.embed_cloud(cloud.xyz, cloud.rgb)


def format_table(index: shape_index.ShapeIndex, matches: queries.Matches) -> str:
    """Returns a text table with a header and one line per shape."""
    rows = [("rank", "score", "name", "id", "creator", "licence")]
    for rank, (number, score) in enumerate(zip(matches.numbers, matches.scores, strict=True), 1):
        item = index.items[number]
        texts = (item.title, item.id, item.creator, item.licence)
        rows.append((str(rank), f"{score:.3f}", *(" ".join(text.split()) for text in texts)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )


def format_json(index: shape_index.ShapeIndex, matches: queries.Matches) -> str:
    """Returns a JSON list with rank, score, metadata and picture path of each shape."""
    rows = []
    for rank, (number, score) in enumerate(zip(matches.numbers, matches.scores, strict=True), 1):
        item = dataclasses.asdict(index.items[number])
        del item["origin"]
        item["picture"] = str(index.picture_path(number))
        rows.append({"rank": rank, "score": round(float(score), 6)} | item)
    return json.dumps(rows, indent=1, ensure_ascii=False)


class _AppendPart(argparse.Action):
    """Collects (kind, value) of --text, --image and --mesh in the order of the command line."""

    def __call__(self, parser, namespace, values, option_string=None):
        namespace.parts = [*namespace.parts, (option_string.lstrip("-"), values)]


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.search")
    commands = parser.add_subparsers(dest="command", required=True)
    build_parser, find_parser = (
        commands.add_parser(name, help=text, description=text)
        for name, text in (("build", "write an index"), ("find", "search an index"))
    )
    _add_build(build_parser)
    _add_find(find_parser)
    build_parser.set_defaults(run=build)
    find_parser.set_defaults(run=find)
    index_changes.add_parsers(commands)
    options = parser.parse_args(arguments)
    if options.command == "build":
        _check_build(build_parser, options)
    elif options.command == "find":
        _check_find(find_parser, options)
    else:
        index_changes.check(parser, options)
    return options


def _add_build(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--output", required=True, type=command.path, help="folder of the index, must not exist")
    add("--data", type=command.path, help="folder of a prepared data set, with its version")
    add(
        "--embeddings", type=command.path, help="npz file of mrd_jax.tools.embed, instead of --data"
    )
    add(
        "--checkpoint",
        type=command.encoder_path,
        help="with --data: workdir of a run, or folder of an encoder",
    )
    add("--splits", nargs="+", default=(), help="with --data: splits to index (default: all)")
    add(
        "--teacher",
        help="hub name or folder of the teacher (default: the one that data_prep.build saved or "
        "loaded, or the one on the encoder's model card)",
    )
    add("--points", type=int, default=2_048, help="points to store per shape (default: 2048)")
    add(
        "--mesh_faces",
        type=int,
        default=manifest.MESH_FACES,
        help="faces of the meshes that the page shows, 0 for point clouds only (default: "
        f"{manifest.MESH_FACES})",
    )
    add("--ann", action="store_true", help="also write the file for find --ann; needs mrd_jax[ann]")


def _add_find(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--index", required=True, type=command.path, help="folder of the index")
    for name, text in (
        ("--text", "text to search for; may be repeated"),
        ("--image", "picture file to search for; may be repeated"),
        ("--mesh", f"shape file to search for: {', '.join(formats.TYPES)}; may be repeated"),
    ):
        add(name, action=_AppendPart, dest="parts", default=[], metavar=name[2:].upper(), help=text)
    add("--weights", nargs="+", type=float, help="one weight per part, in order (default: 1 each)")
    add(
        "--checkpoint",
        type=command.encoder_path,
        help="with --mesh: the encoder that the index was built with",
    )
    add(
        "--teacher",
        help="with --text and --image: hub name or folder (default: recorded in the index)",
    )
    add("--up", choices=("y", "z"), help="vertical axis of --mesh (default: by file type)")
    add("--count", type=int, default=10, help="number of shapes to find (default: 10)")
    add("--format", default="table", choices=FORMATS, help="output format (default: table)")
    add("--output", type=command.path, help="file to write (default: print to stdout)")
    add("--ann", action="store_true", help="search approximately; for 200,000 shapes and more")


def _check_build(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if (options.data is None) == (options.embeddings is None):
        parser.error("pass either --data or --embeddings")
    if (options.data is None) != (options.checkpoint is None):
        parser.error("--data and --checkpoint must be passed together")
    if options.splits and options.data is None:
        parser.error("--splits needs --data")
    if options.points < 1:
        parser.error(f"--points is {options.points}; expected a positive number")
    if options.mesh_faces < 0:
        parser.error(f"--mesh_faces is {options.mesh_faces}; expected 0 or more")


def _check_find(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    if not options.parts:
        parser.error("nothing to search for; pass --text, --image or --mesh")
    if options.weights is None:
        options.weights = [1.0] * len(options.parts)
    if len(options.weights) != len(options.parts):
        parser.error(
            f"--weights has {len(options.weights)} values for {len(options.parts)} parts; expected "
            "one value per part"
        )
    if any(kind == "mesh" for kind, _ in options.parts) and options.checkpoint is None:
        parser.error("--mesh needs --checkpoint, the encoder that the index was built with")
    if options.format == "sheet" and options.output is None:
        parser.error("--format sheet needs --output, the PNG file to write")
    if options.count < 1:
        parser.error(f"--count is {options.count}; expected a positive number")


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status."""
    options = parse_options(arguments)
    return options.run(options) or 0


if __name__ == "__main__":
    compilation_cache.enable()
    sys.exit(main())
