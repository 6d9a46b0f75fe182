# SPDX-License-Identifier: Apache-2.0
r"""Builds an index of folders of shapes, and keeps it up to date.

python -m mrd_jax.tools.index my_shapes --encoder runs/quickstart --output my_index \
    --teacher data/teachers/lit_furniture

embeds every shape, draws a picture of it, and writes an index that `mrd_jax.tools.search find` and
`mrd_jax.demo` search. The index records its folders: the same command, or `mrd_jax.tools.search
update --index my_index`, embeds what has changed since and removes what is gone. With --watch, the
command goes on and does so whenever a file changes; a page that serves the index shows the new
version without a restart.

The index changes only when everything has been read: searches find the old version until then, also
if the command is killed. Run it again to continue where it stopped. Unusable files are reported and
skipped, and the exit status is then 1.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import mrd_jax.encoder
from data_prep import shape_names
from data_prep.geometry import formats
from mrd_jax import storage
from mrd_jax.checkpoints import fingerprinting
from mrd_jax.cli import command
from mrd_jax.distributed import compilation_cache
from mrd_jax.search import (
    embedded_files,
    entries,
    file_states,
    following,
    index_writer,
    manifest,
    shape_index,
)

USER = "mrd_jax.tools.index"
# Points to store per shape.
_POINTS = 2_048


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 1 if a file was skipped."""
    options = parse_options(arguments)
    output = Path(options.output)
    if missing := [given for given in options.folders if not given.exists()]:
        raise FileNotFoundError(f"{missing[0]} does not exist; expected a folder or file of shapes")
    is_new = not (output / manifest.INFO_FILE).exists()
    checkpoint = fingerprinting.checkpoint_fingerprint(options.encoder)
    if is_new:
        index_writer.check_new(output)
    else:
        _check_options(options, manifest.read(output))
        shape_index.read(output).check_encoder(checkpoint)
    encoder = mrd_jax.encoder.load(options.encoder)
    if is_new:
        index_writer.create(output, _new_manifest(options, encoder, checkpoint))
    sources = [
        file_states.source_of(
            str(given),
            output,
            up=options.up or "",
            columns=options.columns or "",
            label_from=options.label_from or "",
        )
        for given in options.folders
    ]
    return following.run(
        output,
        encoder,
        checkpoint,
        user=USER,
        sources=sources,
        interval=options.interval if options.watch else None,
        batch_size=options.batch_size,
    )


def _new_manifest(
    options: argparse.Namespace, encoder: mrd_jax.encoder.Encoder, checkpoint: str
) -> manifest.Manifest:
    """Returns the manifest of an index without shapes."""
    place = options.teacher or encoder.card.teacher
    return manifest.Manifest(
        encoder.card,
        checkpoint,
        entries.Teacher(
            encoder.card.teacher, place=embedded_files.relative_place(place, options.output)
        ),
        formats.READER_VERSION,
        options.points or _POINTS,
        ann=options.ann,
        encoder=embedded_files.relative_place(str(options.encoder), options.output),
        mesh_faces=manifest.MESH_FACES if options.mesh_faces is None else options.mesh_faces,
    )


def _check_options(options: argparse.Namespace, found: manifest.Manifest) -> None:
    """Raises ValueError if an option differs from what the index was built with."""
    teacher = options.teacher and embedded_files.relative_place(options.teacher, options.output)
    for name, given, recorded in (
        ("points", options.points, found.points),
        ("mesh_faces", options.mesh_faces, found.mesh_faces),
        ("teacher", teacher, found.teacher.place),
        ("ann", options.ann or None, found.ann),
    ):
        if given is not None and recorded != given:
            raise ValueError(
                f"--{name} is {given}, but {options.output} was built with {recorded}; omit the "
                "option, or build a new index"
            )


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.index")
    add = parser.add_argument
    add(
        "folders",
        nargs="+",
        type=command.local_path,
        metavar="FOLDER",
        help="folder of shapes, or a shape; in a folder with a table, the files of the table",
    )
    add(
        "--encoder",
        "--checkpoint",
        required=True,
        type=command.encoder_path,
        help="workdir of a run, one of its checkpoints, or encoder folder",
    )
    add("--output", required=True, type=command.path, help="folder of the index")
    add("--teacher", help="hub name or folder (default: the one on the encoder's model card)")
    add("--points", type=int, help=f"points to store per shape (default: {_POINTS})")
    add(
        "--mesh_faces",
        type=int,
        help=f"faces of the meshes on the page, 0 for none (default: {manifest.MESH_FACES})",
    )
    add("--up", choices=("y", "z"), help="vertical axis of files that state none")
    add("--columns", help=formats.COLUMNS_HELP)
    add("--label_from", help=shape_names.LABEL_FROM_HELP)
    add("--batch_size", type=int, default=32, help="point clouds per batch (default: 32)")
    add("--ann", action="store_true", help="approximate search above 200,000 shapes")
    add("--watch", action="store_true", help="go on, and follow the folders until interrupted")
    add("--interval", type=float, default=10, help="with --watch: seconds between looks (10)")
    options = parser.parse_args(arguments)
    for name in ("points", "batch_size", "interval"):
        value = getattr(options, name)
        if value is not None and not 0 < value < float("inf"):
            parser.error(f"--{name} is {value}; expected a positive number")
    if options.mesh_faces is not None and options.mesh_faces < 0:
        parser.error(f"--mesh_faces is {options.mesh_faces}; expected 0 or more")
    if storage.is_remote(options.output):
        parser.error(f"--output {options.output} is in a bucket; build it here and copy it")
    return options


if __name__ == "__main__":
    compilation_cache.enable()
    sys.exit(main())
