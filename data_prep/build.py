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
import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from data_prep import (
    build_flags,
    catalogue,
    dataset,
    features,
    flag_types,
    lock,
    offline_teacher,
    page,
    prepare,
    ray_encoders,
    selection,
    shards,
    sources,
    status_file,
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
from mrd_jax import storage, transfer
from mrd_jax.cli import command
from mrd_jax.data import source

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
    """Runs the stages one after another."""
    started = time.monotonic()
    _check_existing(options)
    if options.upload is not None:
        uploading.announce(options)
    if _is_of_earlier_readers(options, origin):
        return options.target
    cache = options.output / "shapes" / origin.family
    if isinstance(origin, sources.folder.Folder):
        origin.check(
            options.input,
            output=options.output,
            cache=cache,
            teacher=options.teacher,
            overwrite=options.overwrite,
        )
    joined, notes = selection.check(options, origin)
    with timing.announced("shapes"):
        summary, prepared = _prepare(options, cache)
        prepared = selection.keep_licences(prepared, options.licence)
        splits = origin.splits(prepared.entries())
    if options.execution.part != WHOLE and options.teacher == teachers.LIT:
        print("note: the teacher lit learns from the shapes of all parts; merge them to train it")
        return options.target
    with timing.announced("teacher"):
        options = dataclasses.replace(options, dtype=_find_dtype(options))
        teacher = _load_teacher(options, prepared, splits.get("train", ()))
        info = teacher.info if teacher else origin.teacher
        print(f"{info.name}, revision {info.revision}, dim {info.dim}, {options.dtype}")
    with timing.announced("features"):
        feature_dir = _encode(options, prepared, teacher, splits)
        caption_files = selection.encode_captions(
            options,
            prepared,
            joined,
            folder=_folder_name(info.name),
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
        written = dataset.write(options, plan, prepared, teacher=teacher, class_set=class_set)
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


def _check_existing(options: Options) -> None:
    """Checks, before hours of work, that existing data sets were built with these options."""
    if options.overwrite:
        return
    if options.target.exists():
        _check_built(options.target, options)
    # An interrupted upload has no such file, and continues.
    upload = options.upload_target
    if upload is not None and (upload / source.INFO_FILES[0]).exists():
        _check_built(upload, options)


def _check_built(target: storage.PathLike, options: Options) -> None:
    """Raises ValueError if an existing data set was built with other options."""
    found = source.read_metadata(target).get("build")
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
    version = source.reader_version(source.read_metadata(options.target))
    if version in (None, formats.READER_VERSION):
        return False
    print(
        f"note: {options.target} was built with version {version} of the readers of files, and is "
        f"kept. Version {formats.READER_VERSION} reads more colours and transforms as the formats "
        "define them; pass --overwrite to prepare all shapes again"
    )
    return True


def _find_dtype(options: Options) -> str:
    """Returns the dtype of the teacher's activations."""
    if options.dtype != flag_types.AUTO:
        return options.dtype
    if options.teacher == teachers.RELEASED:
        return "float32"
    if options.target.exists() and not options.overwrite:
        return source.read_metadata(options.target)["build"].get("dtype", "float32")
    found = features.find_dtype(options.output / "features" / options.source)
    if found is not None:
        return found
    if options.execution.executor == "ray":
        has_accelerators = ray_encoders.has_accelerators(options.execution.address)
        return "bfloat16" if has_accelerators else "float32"
    return teachers.default_dtype()


def _load_teacher(
    options: Options, prepared: catalogue.Catalogue, train: Sequence[str]
) -> teachers.Teacher | None:
    """Returns the teacher; None where the source brings released features."""
    if options.teacher == teachers.RELEASED:
        return None
    if options.execution.executor == "ray":
        # The devices of this host belong to its encoder, see `ray_encoders`.
        jax.config.update("jax_platforms", "cpu")
    if options.teacher != teachers.LIT:
        return teachers.load_teacher(
            options.teacher, batch_size=options.batch_size, dtype=options.dtype
        )
    folder = _lit_folder(options)
    return offline_teacher.load_or_train(
        folder,
        prepared,
        train,
        # Shared by the teachers of all sources: their frozen image model is the same.
        cache_dir=folder.parent / "backbone_features",
        seed=options.seed,
        batch_size=options.batch_size,
        dtype=options.dtype,
    )


def _encode(
    options: Options,
    prepared: catalogue.Catalogue,
    teacher: teachers.Teacher | None,
    splits: Mapping[str, Sequence[str]],
) -> Path | None:
    """Returns the folder of the teacher's features; None where the shapes hold released ones."""
    if teacher is None:
        print("released with the data; checked while the shapes were read")
        return None
    folder = options.output / "features" / options.source / _folder_name(teacher.info.name)
    ids = dataset.shape_ids(splits)
    if options.execution.executor == "ray":
        counts = _encode_on_cluster(options, prepared, teacher.info, ids, folder=folder)
    else:
        counts = features.encode_shards(
            list(prepared.shards),
            folder,
            teacher,
            ids=ids,
            dtype=options.dtype,
            listener=options.execution.listener,
        )
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    return folder


def _encode_on_cluster(
    options: Options,
    prepared: catalogue.Catalogue,
    info: teachers.TeacherInfo,
    ids: frozenset[str],
    *,
    folder: Path,
) -> dict[str, int]:
    """Encodes the shapes on the nodes of a Ray cluster, and returns the counts."""
    is_lit = options.teacher == teachers.LIT
    loading = ray_encoders.Loading(
        name=str(_lit_folder(options)) if is_lit else options.teacher,
        options={"batch_size": options.batch_size, "dtype": options.dtype},
        info=info,
    )
    members = {
        path: [shape.id for shape in shard if shape.id in ids]
        for path, shard in prepared.shards.items()
    }
    execution = options.execution
    return ray_encoders.encode_shards(
        members, folder, loading, address=execution.address, listener=execution.listener
    )


def _lit_folder(options: Options) -> Path:
    """Returns the folder of the teacher that is trained on the shapes."""
    return options.output / "teachers" / f"{teachers.LIT}_{options.source}"


def _folder_name(teacher: str) -> str:
    """Returns a hub name or a path as a single folder name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", teacher).strip("_.") or "teacher"


def make_parser(description: str | None, *, prog: str) -> command.Parser:
    """Returns the parser of the options of a build.

    Args:
      description: docstring of the command's module.
      prog: how the command is called.
    """
    parser = command.Parser(description, prog=prog)
    add = parser.add_argument
    build_flags.add_input(parser)
    add(
        "--output",
        required=True,
        help="folder of caches, teachers and data sets, or gs:// URL that data sets are copied to",
    )
    add(
        "--staging",
        type=command.local_path,
        help="with a gs:// output, the local folder of caches, teachers and data sets; default: a "
        "folder below the user's cache folder",
    )
    add(
        "--teacher",
        required=True,
        help="lit (trained on the input), the folder of a LiT teacher or a CLIP checkpoint, the "
        "hub name of a CLIP checkpoint, or released (features that come with the data)",
    )
    build_flags.add_settings(parser)
    build_flags.add_execution(parser)
    add(
        "--batch_size",
        type=flag_types.auto_or(flag_types.integer(1)),
        help="pictures or texts per call of the teacher, over all devices; default: auto, chosen "
        "by the memory of the devices, 32 on CPUs",
    )
    add(
        "--dtype",
        choices=(flag_types.AUTO, "float32", "bfloat16"),
        default=Options.dtype,
        help="dtype of the teacher's activations; auto is that of the features that exist, else "
        "bfloat16 on accelerators and float32 on CPUs; default: %(default)s",
    )
    selection.add_flags(parser)
    add("--overwrite", action="store_true", help="replace a data set built with other options")
    return parser


def read_options(parser: command.Parser, values: dict[str, Any]) -> Options:
    """Returns the options of a parsed command line.

    Args:
      parser: parser of `make_parser`, which reports contradictions.
      values: flag -> value; emptied.
    """
    del values["debug"]
    values["captions"] = tuple(values["captions"])
    execution = build_flags.pop_execution(values)
    output, staging = values.pop("output"), values.pop("staging")
    upload = storage.path(output)
    if storage.is_remote(upload):
        staging = staging or transfer.cache_folder("build", upload)
        return Options(**values, output=staging, upload=upload, execution=execution)
    if staging is not None:
        parser.error(f"--staging is for a gs:// output, and --output is {output}")
    return Options(**values, output=storage.local_path(output), execution=execution)


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = make_parser(__doc__, prog="python -m data_prep.build")
    return read_options(parser, vars(parser.parse_args(arguments)))


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
