# SPDX-License-Identifier: Apache-2.0
"""Embeds mesh and point cloud files with a trained or converted encoder.

python -m mrd_jax.tools.embed --checkpoint runs/quickstart --output shapes.npz meshes/

Writes an npz file with `embeddings` [n, dim] of unit norm and, in the order of the files given,
`files`, `names`, `creators`, `licences`, `up`, `labels` and `roots` [n] (the folder that was given,
which may contain textures), each "" if unknown; `skipped` [m] and `reasons` [m]; the encoder's
model card as JSON in `card`; the fingerprint of its files in `checkpoint`; the `head` that
embedded; and `reader_version`. Unusable files are reported and skipped, and the exit status is
then 1.

If a folder has a table in the format of `data_prep.sources.folder`, the files that it lists are
embedded, with the names, creators, licences and vertical axes of the table. What a folder holds
beside them is counted by type. A file whose name says nothing, such as `model.obj`, has no name
unless a table or --label_from gives it one.
"""

import argparse
import dataclasses
import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import tqdm

import mrd_jax.encoder
from data_prep import shape_names
from data_prep.geometry import clouds, formats
from data_prep.geometry.listing import printable
from mrd_jax import atomic_io, storage
from mrd_jax.checkpoints import fingerprinting, model_card
from mrd_jax.cli import command
from mrd_jax.encoder import Encoder, embedding
from mrd_jax.search import read_ahead, shape_files


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command and returns its exit status: 1 if a file was skipped."""
    options = parse_options(arguments)
    listing = shape_files.find(
        options.files, exclude=_local_or_none(options.output), label_from=options.label_from
    )
    listing.print_notes()
    files = [dataclasses.replace(file, up=file.up or options.up or "") for file in listing.files]
    paths = [file.path for file in files]
    clouds.check_readable(paths)
    storage.make_folder(options.output.parent)
    encoder = mrd_jax.encoder.load(options.checkpoint, teacher=options.teacher, head=options.head)
    embeddings, report = embed_files(
        encoder,
        paths,
        up=[file.up for file in files],
        roots=[file.root for file in files],
        columns=options.columns,
        seed=options.seed,
        batch_size=options.batch_size,
    )
    for path, reason in listing.skipped:
        print(f"skipped {printable(str(path))}: {reason}", file=sys.stderr)
    report.skipped += listing.skipped
    write_embeddings(
        options.output,
        embeddings,
        report,
        files=files,
        card=encoder.card,
        checkpoint=fingerprinting.checkpoint_fingerprint(options.checkpoint),
        head=options.head,
    )
    print(
        f"embedded {len(report.files)} of {len(report.files) + len(report.skipped)} files into "
        f"{options.output}; "
        f"skipped {len(report.skipped)}"
    )
    return 1 if report.skipped else 0


def _local_or_none(output: storage.Path) -> Path | None:
    """Returns the local path of the output, which may lie among the files to embed."""
    return None if storage.is_remote(output) else storage.local_path(output)


def parse_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m mrd_jax.tools.embed")
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
        help="workdir of a run, one of its checkpoints, or encoder folder",
    )
    add("--output", required=True, type=command.path, help="npz file to write")
    add(
        "--up",
        choices=("y", "z"),
        help="vertical axis of files without one in a table (default: y for glb, gltf and obj, z "
        "for other types)",
    )
    add(
        "--batch_size",
        type=int,
        default=32,
        help="point clouds per batch, over all devices (default: 32)",
    )
    add("--columns", help=formats.COLUMNS_HELP)
    add("--seed", type=int, default=0, help="seed of the point sampling (default: 0)")
    add("--label_from", help=shape_names.LABEL_FROM_HELP)
    add(
        "--head",
        choices=embedding.HEADS,
        default="contrastive",
        help="head that embeds, of an encoder with a head of its own for the relations; mean: the "
        "normalised sum of both (default: contrastive)",
    )
    add("--teacher", help="fail unless the encoder was trained with this teacher")
    options = parser.parse_args(arguments)
    if options.batch_size < 1:
        parser.error(f"--batch_size is {options.batch_size}; expected a positive number")
    return options


@dataclasses.dataclass
class Report:
    """Files that were embedded and files that were skipped, each in the order given.

    Attributes:
      files: embedded files, one per row of the embeddings.
      skipped: (file, reason) of every other file.
    """

    files: list[Path] = dataclasses.field(default_factory=list)
    skipped: list[tuple[Path, str]] = dataclasses.field(default_factory=list)


def embed_files(
    encoder: Encoder,
    paths: Sequence[Path],
    *,
    up: str | Sequence[str] | None = None,
    roots: Sequence[Path | str] | None = None,
    columns: str | None = None,
    seed: int = 0,
    batch_size: int = 32,
) -> tuple[np.ndarray, Report]:
    """Embeds files in order, reading the next while the devices work; reports faults on stderr.

    Args:
      encoder: encoder whose model card sets the conventions of the point clouds.
      paths: files of the types in `formats.TYPES`.
      up: vertical axis, "y" or "z", of all files or of each; "" or None for the one
        that the file states, or else that of its type.
      roots: folder of each file that may contain its materials and textures, "" for the file's own;
        None for the own folders of all.
      columns: names of the columns of text files, as in `clouds.read_cloud`.
      seed: seed of the sampling of points.
      batch_size: point clouds per batch, over all devices.

    Returns:
      The embeddings, float32 [embedded files, dim] of unit norm, and the report on every file.
    """
    conventions = clouds.Conventions.of(encoder.card)
    axes = [up] * len(paths) if up is None or isinstance(up, str) else up

    def read(file: tuple[Path, str | None, Path | str]) -> clouds.Cloud | clouds.CloudError:
        path, axis, root = file
        try:
            return clouds.read_cloud(
                path,
                conventions=conventions,
                up=axis or None,
                root=root or None,
                columns=columns,
                seed=seed,
            )
        except clouds.CloudError as error:
            return error

    files = zip(paths, axes, roots or [""] * len(paths), strict=True)
    results = read_ahead.map_ahead(read, files, count=2 * batch_size)
    report = Report()
    return encoder.embed(_usable(paths, results, report), batch_size=batch_size), report


def _usable(
    paths: Sequence[Path],
    results: Iterable[clouds.Cloud | clouds.CloudError],
    report: Report,
) -> Iterator[mrd_jax.encoder.Cloud]:
    """Yields the point clouds, adds every file to the report, and prints faults as they occur."""
    with tqdm.tqdm(total=len(paths), desc="embedding", unit="file") as bar:
        for path, cloud in zip(paths, results, strict=True):
            bar.update()
            if isinstance(cloud, clouds.CloudError):
                bar.write(f"skipped {printable(str(path))}: {cloud}", file=sys.stderr)
                report.skipped.append((path, str(cloud)))
                continue
            if cloud.faults:
                notes = ", ".join(cloud.faults)
                bar.write(f"note: {printable(str(path))}: {notes}", file=sys.stderr)
            report.files.append(path)
            yield cloud.xyz, cloud.rgb


def write_embeddings(
    output: storage.PathLike,
    embeddings: np.ndarray,
    report: Report,
    *,
    files: Sequence[shape_files.ShapeFile],
    card: model_card.ModelCard,
    checkpoint: str,
    head: str = "contrastive",
) -> None:
    """Writes the npz file of the command atomically.

    Args:
      output: file to write.
      embeddings: [len(report.files), dim].
      report: embedded and skipped files.
      files: all files with their metadata.
      card: model card of the encoder.
      checkpoint: fingerprint of the encoder, see `fingerprinting.checkpoint_fingerprint`.
      head: head that embedded.
    """
    by_path = {file.path: file for file in files}
    embedded = [by_path[path] for path in report.files]
    fields = [dataclasses.astuple(file)[1:] for file in embedded]
    columns = zip(*fields, strict=True) if fields else [()] * len(shape_files.METADATA)
    metadata = dict(zip(shape_files.METADATA, columns, strict=True))
    atomic_io.write_npz(
        output,
        embeddings=embeddings,
        files=np.array([str(file.path) for file in embedded], np.str_),
        **{name: np.array(values, np.str_) for name, values in metadata.items()},
        skipped=np.array([str(path) for path, _ in report.skipped], np.str_),
        reasons=np.array([reason for _, reason in report.skipped], np.str_),
        card=np.array(card.to_json()),
        checkpoint=np.array(checkpoint),
        head=np.array(head),
        reader_version=np.array(formats.READER_VERSION),
    )


if __name__ == "__main__":
    sys.exit(main())
