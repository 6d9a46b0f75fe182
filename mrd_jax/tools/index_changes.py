# SPDX-License-Identifier: Apache-2.0
"""The commands of `mrd_jax.tools.search` that change an index or describe it."""

import argparse
import dataclasses
import json
import sys
from pathlib import Path
from typing import Any

import mrd_jax.encoder
from data_prep import shape_names
from data_prep.geometry import formats
from data_prep.geometry.listing import printable
from mrd_jax import atomic_io, storage
from mrd_jax.checkpoints import fingerprinting
from mrd_jax.cli import command
from mrd_jax.data import dataset_metadata
from mrd_jax.search import (
    embedded_files,
    file_states,
    following,
    index_writer,
    indexing,
    manifest,
    shape_index,
)

USER = "mrd_jax.tools.search"


def add(options: argparse.Namespace) -> int:
    """Adds shapes to an index."""
    if options.files:
        encoder, checkpoint = _load_encoder(options)
        sources = [
            file_states.source_of(
                str(given),
                Path(options.index),
                up=options.up or "",
                columns=options.columns or "",
                label_from=options.label_from or "",
            )
            for given in options.files
        ]
        return following.run(
            Path(options.index), encoder, checkpoint, user=f"{USER} add", sources=sources
        )
    with index_writer.open_writer(options.index, user=f"{USER} add") as writer:
        points = writer.index.xyz.shape[1]
        if options.embeddings:
            embedded = embedded_files.read_embedded(options.embeddings)
            found = (embedded.checkpoint, embedded.reader_version)
            shapes = embedded.entries(points, mesh_faces=writer.manifest.mesh_faces)
        else:
            encoder, checkpoint = _load_encoder(options)
            data = indexing.open_data_set(options.data, encoder=encoder, splits=options.splits)
            found = (checkpoint, dataset_metadata.reader_version(data.metadata))
            shapes = data.entries(points, dense=bool(writer.manifest.mesh_faces))
            if points > data.metadata["points"]:
                raise ValueError(
                    f"{options.index} has {points} points per shape, and {options.data} "
                    f"{data.metadata['points']}; build the index again with --points"
                )
        other = dataclasses.replace(
            writer.manifest, points=0, checkpoint=found[0], reader_version=found[1]
        )
        mine = dataclasses.replace(writer.manifest, points=0)
        mine.check_same(other, name=str(options.embeddings or options.data))
        count = writer.add(shapes)
        writer.publish()
        print(f"added {count} shapes; {options.index} has {len(writer.index)} shapes")
    return 0


def remove(options: argparse.Namespace) -> int:
    """Removes shapes from an index."""
    with index_writer.open_writer(options.index, user=f"{USER} remove") as writer:
        ids = list(options.ids)
        if options.ids_from:
            lines = Path(options.ids_from).read_text("utf-8").splitlines()
            ids += [line for line in lines if line]
        sources = writer.manifest.sources
        for given in options.source:
            given = given.rstrip("/") or given
            if given not in [each.given for each in sources]:
                followed = ", ".join(each.given for each in sources) or "none"
                raise ValueError(f"{options.index} does not follow {given}; it follows {followed}")
            sources = tuple(each for each in sources if each.given != given)
            prefix = printable(given)
            ids += [
                item.id
                for item in writer.index.items
                if item.id == prefix or item.id.startswith(f"{prefix}/")
            ]
        if not ids and not options.source:
            raise ValueError("nothing to remove; pass ids, --ids_from or --source")
        ids = list(dict.fromkeys(ids))
        writer.remove(ids)
        writer.publish(sources=sources)
        print(f"removed {len(ids)} shapes; {options.index} has {len(writer.index)} shapes")
    return 0


def update(options: argparse.Namespace) -> int:
    """Brings an index up to date with the folders that it follows."""
    encoder, checkpoint = _load_encoder(options)
    interval = options.interval if options.watch else None
    return following.run(
        Path(options.index), encoder, checkpoint, user=f"{USER} update", interval=interval
    )


def info(options: argparse.Namespace) -> int:
    """Prints what an index holds."""
    index = shape_index.read(options.index)
    content = manifest.read(index.folder)
    facts: dict[str, Any] = {
        "shapes": len(index),
        "version": index.version,
        "format": content.format,
        "dim": index.rows.shape[1],
        "points": index.xyz.shape[1],
        "meshes": sum(index.mesh_size(number) > 0 for number in range(len(index))),
        "megabytes": round(sum(path.stat().st_size for path in _files(index.folder)) / 1e6, 1),
        "segments": [len(part) for part in index.layout.parts],
        "removed": sum(len(part.removed) for part in index.layout.parts),
        "recall": [each.recall for each in content.segments if each.recall is not None],
        "encoder": content.encoder,
        "checkpoint": index.checkpoint,
        "teacher": dataclasses.asdict(index.teacher),
        "reader_version": index.reader_version,
        "sources": [each.given for each in content.sources],
    }
    if options.json:
        print(json.dumps(facts))
    else:
        width = max(map(len, facts))
        for name, value in facts.items():
            print(f"{name:<{width}}  {value}")
    if index.reader_note():
        print(f"note: {index.reader_note()}", file=sys.stderr)
    return 0


def merge(options: argparse.Namespace) -> int:
    """Writes a new index with the shapes of others."""
    if options.output.exists():
        raise FileExistsError(f"{options.output} exists; choose another folder or remove it first")
    if storage.is_remote(options.output):
        raise ValueError(f"{options.output} is in a bucket; merge here and copy the result")
    indexes = [shape_index.read(place) for place in options.indexes]
    contents = [
        dataclasses.replace(manifest.read(index.folder), points=index.xyz.shape[1])
        for index in indexes
    ]
    for place, content in zip(options.indexes[1:], contents[1:], strict=True):
        contents[0].check_same(content, name=str(place))
    first, output = contents[0], Path(options.output)
    folder = indexes[0].folder
    teacher = _moved(first.teacher.place, before=folder, after=output)
    content = dataclasses.replace(
        first,
        format=manifest.FORMAT,
        version=0,
        segments=(),
        sources=(),
        encoder=_moved(first.encoder, before=folder, after=output),
        teacher=dataclasses.replace(first.teacher, place=teacher),
    )
    with atomic_io.replacing(output) as staging:
        index_writer.create(staging, content)
        with index_writer.open_writer(staging, user=f"{USER} merge") as writer:
            for index in indexes:
                for part in index.layout.parts:
                    writer.copy(part)
            writer.publish()
    print(f"wrote {len(shape_index.read(output))} shapes to {output}")
    return 0


def _moved(place: str, *, before: Path, after: Path) -> str:
    """Returns a place that is relative to an index, relative to another."""
    local = before / place
    if not place or not local.exists():
        return place
    return embedded_files.relative_place(str(local.resolve()), after)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _load_encoder(options: argparse.Namespace) -> tuple[mrd_jax.encoder.Encoder, str]:
    """Returns the encoder of --checkpoint, or the one that the index records, and its checksum."""
    place = options.checkpoint
    if place is None:
        recorded = manifest.read(options.index).encoder
        local = Path(options.index) / recorded
        if not recorded:
            raise ValueError(
                f"{options.index} does not record where its encoder is; pass --checkpoint"
            )
        place = local.resolve() if local.exists() else recorded
    checkpoint = fingerprinting.checkpoint_fingerprint(place)
    shape_index.read(options.index).check_encoder(checkpoint)  # before it is compiled
    return mrd_jax.encoder.load(place), checkpoint


def add_parsers(commands: Any) -> None:
    """Adds the commands to those of `mrd_jax.tools.search`.

    Args:
      commands: result of `ArgumentParser.add_subparsers`.
    """
    for function in (add, remove, update, info):
        parser = _new_parser(commands, function)
        parser.add_argument("--index", required=True, type=command.path, help="folder of the index")
        {add: _add_add, remove: _add_remove, update: _add_update, info: _add_info}[function](parser)
    parser = _new_parser(commands, merge)
    parser.add_argument("indexes", nargs="+", type=command.path, metavar="INDEX", help="folders")
    parser.add_argument("--output", required=True, type=command.path, help="folder of the new one")


def _new_parser(commands: Any, function: Any) -> argparse.ArgumentParser:
    text = (function.__doc__ or "").rstrip(".")
    parser = commands.add_parser(function.__name__, help=text, description=text)
    parser.set_defaults(run=function)
    return parser


def _add_encoder(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--checkpoint",
        type=command.encoder_path,
        help="encoder that the index was built with (default: recorded in the index)",
    )


def _add_add(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "files",
        nargs="*",
        type=command.local_path,
        metavar="FILE",
        help="shapes and folders, which the index follows from now on",
    )
    parser.add_argument("--embeddings", type=command.path, help="npz file of mrd_jax.tools.embed")
    parser.add_argument("--data", type=command.path, help="folder of a prepared data set")
    parser.add_argument("--splits", nargs="+", default=(), help="with --data: splits to add")
    parser.add_argument("--up", choices=("y", "z"), help="vertical axis of files that state none")
    parser.add_argument("--columns", help=formats.COLUMNS_HELP)
    parser.add_argument("--label_from", help=shape_names.LABEL_FROM_HELP)
    _add_encoder(parser)


def _add_remove(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("ids", nargs="*", metavar="ID", help="ids of shapes, as find prints them")
    parser.add_argument("--ids_from", type=command.path, help="text file with one id per line")
    parser.add_argument(
        "--source", action="append", default=[], help="folder to remove with all of its shapes"
    )


def _add_update(parser: argparse.ArgumentParser) -> None:
    _add_encoder(parser)
    parser.add_argument("--watch", action="store_true", help="go on until interrupted")
    parser.add_argument(
        "--interval", type=float, default=10, help="with --watch: seconds between looks (10)"
    )


def _add_info(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def check(parser: argparse.ArgumentParser, options: argparse.Namespace) -> None:
    """Ends the program if options of `add` or `update` do not fit together."""
    if options.command == "add":
        given = [bool(options.files), options.embeddings is not None, options.data is not None]
        if sum(given) != 1:
            parser.error("pass shapes, --embeddings or --data, one of them")
        if options.splits and options.data is None:
            parser.error("--splits needs --data")
    if options.command == "update" and not 0 < options.interval < float("inf"):
        parser.error(f"--interval is {options.interval}; expected a positive number")
    if options.command in ("add", "remove", "update") and storage.is_remote(options.index):
        parser.error(f"--index {options.index} is in a bucket; change a copy on this machine")
