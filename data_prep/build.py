# SPDX-License-Identifier: Apache-2.0
"""Builds a TFDS data set from raw data and a frozen teacher.

python -m data_prep.build --source furniture --input DIR --output DIR --teacher lit

The stages (shapes, teacher, features, records) resume: run the same command again after an
interruption. With --output gs://BUCKET/NAME, they work in a local folder, --staging, and the data
set is then uploaded. --executor ray prepares on a Ray cluster; --part 0/3 does the work of one
process of three, after which the same command without --part completes a shared --output, and
`python -m data_prep.merge` joins separate ones.
"""

import dataclasses
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data_prep import (
    build_parser,
    catalogue,
    dataset,
    flag_types,
    lock,
    page,
    prepare,
    selection,
    shapes,
    shards,
    sources,
    status_file,
    teacher_stage,
    teachers,
    timing,
    uploading,
)
from data_prep.geometry import formats
from data_prep.options import Options
from data_prep.parts import WHOLE
from data_prep.sources import published
from data_prep.summary import Summary
from data_prep.teachers import names
from mrd_jax import storage
from mrd_jax.cli import command
from mrd_jax.data import dataset_metadata

# Options that the metadata of earlier data sets do not have.
LATER_OPTIONS = ("label_from", "captions", "licence")


def build(options: Options) -> Path:
    """Runs every stage that has not finished yet and prints a summary of each.

    Args:
      options: source, folders, teacher and sizes.

    Returns:
      Local folder of the data set, OUTPUT/SOURCE/1.0.0; not written by a part of a preparation.

    Raises:
      ValueError: the input folder is missing, the teacher cannot be used, the input is invalid, or
        the folder holds a data set that was built with other options and `overwrite` is not set.
      lock.BusyError: another build is writing into the output folder.
    """
    prepare.check_input(options.source, options.input)
    origin = sources.find(options.source, label_from=options.label_from)
    class_set = published.find_class_set(
        origin, source=options.source, input_dir=options.input, teacher=options.teacher
    )
    names.check(options.teacher, released=class_set is not None)
    part = options.execution.part
    with lock.acquire(options.output, part=part), status_file.watching(options) as options:
        target = _run_stages(options, origin, class_set)
        if options.upload is not None and part == WHOLE:
            with timing.announced("upload"):
                uploading.upload(options)
    return target


def _run_stages(
    options: Options, origin: sources.Source, class_set: published.ClassSet | None
) -> Path:
    """Checks the options, and runs the stages one after another."""
    _check_existing(options)
    if options.upload is not None:
        uploading.announce(options)
    cache = options.output / "shapes" / origin.family
    if _is_of_earlier_readers(options, origin):
        _add_groups(options, origin, cache)
        return options.target
    if isinstance(origin, sources.folder.Folder):
        origin.check(
            options.input,
            output=options.output,
            cache=cache,
            teacher=options.teacher,
            overwrite=options.overwrite,
        )
    selected = selection.check(options, origin)
    # One connection for all stages: Ray forks, which is not safe after JAX has started its threads.
    with options.execution.connected():
        return _run_checked(options, origin, class_set, cache=cache, selected=selected)


def _run_checked(
    options: Options,
    origin: sources.Source,
    class_set: published.ClassSet | None,
    *,
    cache: Path,
    selected: tuple[Any, list[str]],
) -> Path:
    """Runs the stages; `selected` is the result of `selection.check`."""
    started = time.monotonic()
    joined, notes = selected
    with timing.announced("shapes"):
        summary, prepared = _prepare(options, cache)
        prepared = selection.keep_licences(prepared, options.licence)
        splits = origin.splits(prepared.entries())
    if options.execution.part != WHOLE and options.teacher == teachers.LIT:
        print("note: the teacher lit learns from the shapes of all parts; merge them to train it")
        return options.target
    with timing.announced("teacher"):
        options = dataclasses.replace(options, dtype=teacher_stage.find_dtype(options))
        teacher = teacher_stage.load_teacher(options, prepared, splits.get("train", ()))
        info = teacher.info if teacher else origin.teacher
        print(f"{info.name}, revision {info.revision}, dim {info.dim}, {options.dtype}")
    with timing.announced("features"):
        feature_dir = teacher_stage.encode(options, prepared, teacher, splits)
        caption_files = selection.encode_captions(
            options,
            prepared,
            joined,
            folder=teacher_stage.folder_name(info.name),
            teacher=teacher,
            splits=splits,
        )
    if options.execution.part != WHOLE:
        print(f"part {options.execution.part} is prepared in {options.output}")
        return options.target
    classes = class_set.names if class_set else origin.classes(prepared.entries())
    with timing.announced("records"):
        plan = dataset.make_plan(
            options,
            prepared,
            splits=splits,
            classes=classes,
            info=info,
            feature_dir=feature_dir,
            caption_files=caption_files,
            class_set=class_set,
        )
        written = dataset.write(
            options,
            plan,
            prepared,
            teacher=teacher,
            class_set=class_set,
            groups=_groups(options, origin, prepared.entries()),
        )
        if written or not page.path_of(options).exists():
            where = page.write(options, summary=summary, prepared=prepared, plan=plan, notes=notes)
            print(f"skipped items and random shapes: {where}")
    print(f"total: {time.monotonic() - started:.1f} s")
    print(f"{options.target} {'is written' if written else 'is up to date: nothing to do'}.")
    return options.target


def _prepare(options: Options, cache: Path) -> tuple[Summary, catalogue.Catalogue]:
    """Prepares the shapes, and returns counts and the catalogue of those of this part."""
    summary = prepare.prepare_shapes(
        options.source,
        options.input,
        cache,
        points=options.points,
        views=options.views,
        image_size=options.image_size,
        seed=options.seed,
        label_from=options.label_from,
        licence=options.licence,
        execution=options.execution,
    )
    print(summary)
    part = options.execution.part
    paths = [path for path in prepare.shard_paths(cache) if part.has(shards.number_of(path))]
    return summary, catalogue.read_catalogue(paths)


def _groups(
    options: Options, origin: sources.Source, prepared: Sequence[shapes.Shape]
) -> dict[str, str]:
    """Returns id -> group of the shapes whose group the source knows."""
    return origin.groups(options.input, prepared) if isinstance(origin, sources.Grouped) else {}


def _add_groups(options: Options, origin: sources.Source, cache: Path) -> None:
    """Writes the groups of a data set that is kept, if the cache has its shapes."""
    shards.move_flat(cache)
    prepared = catalogue.read_catalogue(prepare.shard_paths(cache))
    entries = selection.keep_licences(prepared, options.licence).entries()
    if entries:
        groups = _groups(options, origin, entries)
        dataset.update_groups(options.target, groups, origin.splits(entries))


def _check_existing(options: Options) -> None:
    """Checks, before hours of work, that existing data sets were built with these options."""
    if options.overwrite:
        return
    if options.target.exists():
        _check_built(options.target, options)
    # An interrupted upload has no such file, and continues.
    upload = options.upload_target
    if upload is not None and (upload / dataset_metadata.INFO_FILES[0]).exists():
        _check_built(upload, options)


def _check_built(target: storage.PathLike, options: Options) -> None:
    """Raises ValueError if an existing data set was built with other options."""
    found = dataset_metadata.read(target).get("build")
    if not isinstance(found, dict):
        raise ValueError(
            f"{target} was not written by data_prep.build; pass --overwrite to replace it, or "
            "choose another --output"
        )
    for name, value in (dict.fromkeys(LATER_OPTIONS) | options.content()).items():
        if found.get(name) != value and (name, value) != ("dtype", flag_types.AUTO):
            raise ValueError(
                f"{target} was built with --{name} {found.get(name)}, but --{name} {value} was "
                "given; pass --overwrite to replace it, or choose another --output"
            )


def _is_of_earlier_readers(options: Options, origin: sources.Source) -> bool:
    """Returns whether the data set exists and is kept although earlier readers made it."""
    if options.overwrite or not options.target.exists():
        return False
    if origin.family not in sources.FILE_FAMILIES:
        return False
    version = dataset_metadata.reader_version(dataset_metadata.read(options.target))
    if version in (None, formats.READER_VERSION):
        return False
    print(
        f"note: {options.target} was built with version {version} of the readers of files, and is "
        f"kept. Version {formats.READER_VERSION} reads more colours and transforms as the formats "
        "define them; pass --overwrite to prepare all shapes again"
    )
    return True


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = build_parser.make_parser(__doc__, prog="python -m data_prep.build")
    return build_parser.read_options(parser, vars(parser.parse_args(arguments)))


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command line and returns its exit status.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    build(parse_options(arguments))
    return 0


if __name__ == "__main__":
    sys.exit(main())
