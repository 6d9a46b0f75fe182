# SPDX-License-Identifier: Apache-2.0
"""Stages of a build that `--licence` and `--captions` add."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep import captions, catalogue, dataset, licences, prepare, sources, teachers
from data_prep.captions import encoding
from data_prep.options import Options
from data_prep.sources import published
from mrd_jax.cli import command


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Adds the flags of captions and licences."""
    parser.add_argument(
        "--captions",
        type=command.argument(captions.parse),
        action="extend",
        nargs="+",
        default=[],
        metavar="FILE:KIND",
        help="captions by id: FILE is CSV (id,caption, such as Cap3D's) or JSON Lines; KIND is one "
        f"of {', '.join(captions.KINDS)}. {captions.FILTER} is OpenShape's filter of names",
    )
    parser.add_argument(
        "--licence",
        type=command.argument(licences.parse),
        default=(),
        metavar="NAMES",
        help="licences of the shapes to use, separated by commas, such as by,by-sa,cc0; others are "
        "not prepared. For sources that state licences; default: all",
    )


def check(
    options: Options, origin: sources.Source | published.Published
) -> tuple[captions.Captions | None, list[str]]:
    """Checks licences and joins captions, before hours of work, and prints counts.

    Args:
      options: options of the build.
      origin: source of the shapes.

    Returns:
      The joined captions, None without `--captions`, and what was printed, by line.

    Raises:
      ValueError: no shape has one of the licences, a file has no caption for any shape, or captions
        are added to a source without a teacher that encodes them.
    """
    if not options.licence and not options.captions:
        return None, []
    if options.teacher == teachers.RELEASED and any(
        file.kind != captions.FILTER for file in options.captions
    ):
        raise ValueError(
            f"--captions: --teacher {teachers.RELEASED} has no model that encodes captions; only "
            f"files of kind {captions.FILTER} can be used with it"
        )
    items, _ = prepare.list_items(origin, options.input)
    joined, notes = None, []
    if options.licence:
        notes.append(licences.check(items, options.licence, source=options.source))
    if options.captions:
        joined = captions.join(options.captions, (item.id for item in items))
        notes += joined.notes
    print("\n".join(notes), flush=True)
    return joined, notes


def keep_licences(prepared: catalogue.Catalogue, names: Sequence[str]) -> catalogue.Catalogue:
    """Returns the shapes with one of some licences.

    A cache that was made without `--licence` has more shapes than are wanted.

    Args:
      prepared: all shapes of the cache.
      names: short names of licences; () for all.
    """
    if not names:
        return prepared
    shards = {
        path: [shape for shape in shard if not licences.reason(shape.licence, names)]
        for path, shard in prepared.shards.items()
    }
    ids = {shape.id for shard in shards.values() for shape in shard}
    marks = {name: mark for name, mark in prepared.fingerprints.items() if name in ids}
    return catalogue.Catalogue(shards=shards, fingerprints=marks)


def encode_captions(
    options: Options,
    prepared: catalogue.Catalogue,
    joined: captions.Captions | None,
    *,
    folder: str,
    teacher: teachers.Teacher | None,
    splits: Mapping[str, Sequence[str]],
) -> Mapping[Path, Path]:
    """Encodes the joined captions.

    Args:
      options: options of the build.
      prepared: catalogue of the prepared shapes.
      joined: joined captions; None without `--captions`.
      folder: name of the folder of this teacher's features.
      teacher: encodes texts; None for released features.
      splits: split name -> ids of its shapes.

    Returns:
      File of prepared shapes -> file of its captions; {} without `--captions`.
    """
    if joined is None:
        return {}
    output = options.output / encoding.FOLDER / options.source / folder
    ids = dataset.shape_ids(splits)
    listener = options.execution.listener
    return encoding.encode_shards(
        prepared.shards, output, joined, teacher, ids=ids, dtype=options.dtype, listener=listener
    )
