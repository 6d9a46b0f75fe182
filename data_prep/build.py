# SPDX-License-Identifier: Apache-2.0
"""Builds a TFDS data set from raw data and a frozen teacher.

python -m data_prep.build --source furniture --input DIR --output DIR --teacher lit

The stages (shapes, teacher, features, records) resume: run the same command again after an
interruption. With --output gs://BUCKET/NAME, they work in a local folder, --staging, and the data
set is then uploaded.
"""

import re
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from data_prep import (
    captions,
    catalogue,
    dataset,
    features,
    flag_types,
    licences,
    lock,
    offline_teacher,
    prepare,
    shape_names,
    sources,
    teachers,
    timing,
    uploading,
)
from data_prep.captions import encoding
from data_prep.geometry import formats
from data_prep.options import Options
from data_prep.sources import published
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
      Local folder of the data set, OUTPUT/SOURCE/1.0.0.

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
    with lock.acquire(options.output):
        target = _run_stages(options, origin, class_set)
        if options.upload is not None:
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
    selected, joined = _join(options, origin)
    with timing.announced("shapes"):
        summary = prepare.prepare_shapes(
            options.source,
            options.input,
            cache,
            points=options.points,
            views=options.views,
            image_size=options.image_size,
            workers=options.workers,
            seed=options.seed,
            label_from=options.label_from,
            excluded=selected and selected.excluded,
        )
        print(summary)
        prepared = catalogue.read_catalogue(prepare.shard_paths(cache))
        if selected:
            # A cache that was made without --licence has more shapes.
            prepared = catalogue.without(prepared, selected.excluded)
        splits = origin.splits(prepared.entries())
        classes = class_set.names if class_set else origin.classes(prepared.entries())
    with timing.announced("teacher"):
        teacher = _load_teacher(options, prepared, splits.get("train", ()))
        info = teacher.info if teacher else origin.teacher
        print(f"{info.name}, revision {info.revision}, dim {info.dim}")
    with timing.announced("features"):
        feature_dir = _encode(options, prepared, teacher, splits)
        caption_files = _encode_captions(options, prepared, joined, teacher, splits)
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
    print(f"total: {time.monotonic() - started:.1f} s")
    print(f"{options.target} {'is written' if written else 'is up to date: nothing to do'}.")
    return options.target


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
        if found.get(name) != value:
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


def _load_teacher(
    options: Options, prepared: catalogue.Catalogue, train: Sequence[str]
) -> teachers.Teacher | None:
    """Returns the teacher; None where the source brings released features."""
    if options.teacher == teachers.RELEASED:
        return None
    if options.teacher != teachers.LIT:
        return teachers.load_teacher(
            options.teacher, batch_size=options.batch_size, dtype=options.dtype
        )
    folder = options.output / "teachers"
    return offline_teacher.load_or_train(
        folder / f"{teachers.LIT}_{options.source}",
        prepared,
        train,
        # Shared by the teachers of all sources: their frozen image model is the same.
        cache_dir=folder / "backbone_features",
        seed=options.seed,
        batch_size=options.batch_size,
        dtype=options.dtype,
    )


def _join(
    options: Options, origin: sources.Source | published.Published
) -> tuple[licences.Selection | None, captions.Captions | None]:
    """Selects licences and joins captions, before hours of work, and prints counts.

    Raises:
      ValueError: no shape has one of the licences, a file has no caption for any shape, or captions
        are added to a source without a teacher that encodes them.
    """
    if not options.licence and not options.captions:
        return None, None
    if options.teacher == teachers.RELEASED and any(
        file.kind != captions.FILTER for file in options.captions
    ):
        raise ValueError(
            f"--captions: --teacher {teachers.RELEASED} has no model that encodes captions; only "
            f"files of kind {captions.FILTER} can be used with it"
        )
    with timing.announced("captions and licences"):
        items, _ = prepare.list_items(origin, options.input)
        selected, joined = None, None
        if options.licence:
            selected = licences.select(items, options.licence, source=options.source)
            print(selected)
        if options.captions:
            joined = captions.join(options.captions, (item.id for item in items))
            print("\n".join(joined.notes))
    return selected, joined


def _encode_captions(
    options: Options,
    prepared: catalogue.Catalogue,
    joined: captions.Captions | None,
    teacher: teachers.Teacher | None,
    splits: Mapping[str, Sequence[str]],
) -> Mapping[Path, Path]:
    """Returns the file of joined captions of every shard; {} without `--captions`."""
    if joined is None:
        return {}
    name = _folder_name(teacher.info.name if teacher else teachers.RELEASED)
    return encoding.encode_shards(
        prepared.shards,
        options.output / "captions" / options.source / name,
        joined,
        teacher,
        ids=dataset.shape_ids(splits),
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
    counts = features.encode_shards(
        list(prepared.shards), folder, teacher, ids=dataset.shape_ids(splits)
    )
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    return folder


def _folder_name(teacher: str) -> str:
    """Returns a hub name or a path as a single folder name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", teacher).strip("_.") or "teacher"


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """Parses the command line.

    Args:
      arguments: arguments without the program's name; None for those of the process.
    """
    parser = command.Parser(__doc__, prog="python -m data_prep.build")
    add, default = parser.add_argument, "default: %(default)s"
    positive = flag_types.integer(1)
    add("--source", required=True, choices=sorted(sources.SOURCES), help="kind of raw data")
    add("--input", required=True, type=command.local_path, help="folder of the raw data")
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
    add("--points", type=positive, default=Options.points, help=f"points per shape; {default}")
    add(
        "--views",
        type=flag_types.integer(0, prepare.VIEWS),
        default=Options.views,
        help=f"rendered views per shape; 0 takes only the own pictures of the shapes; {default}",
    )
    add(
        "--image_size",
        type=positive,
        default=Options.image_size,
        help=f"side of a view in pixels; {default}",
    )
    add(
        "--seed",
        type=flag_types.integer(0),
        default=Options.seed,
        help=f"seed of point sampling and LiT training; {default}",
    )
    add("--workers", type=positive, help="processes that prepare shapes; default: one per core")
    add(
        "--batch_size",
        type=positive,
        default=Options.batch_size,
        help=f"pictures or texts per call of the teacher, over all devices; {default}",
    )
    add(
        "--dtype",
        choices=("float32", "bfloat16"),
        default=Options.dtype,
        help=f"dtype of the teacher's activations; {default}",
    )
    add("--label_from", help=f"for --source folder: {shape_names.LABEL_FROM_HELP}")
    add(
        "--captions",
        type=command.argument(captions.parse),
        action="append",
        default=[],
        metavar="FILE:KIND",
        help="captions by id, repeatable: FILE is CSV (id,caption, as Cap3D's) or JSON Lines, KIND "
        f"one of {', '.join(captions.KINDS)}; {captions.FILTER} is OpenShape's file of names",
    )
    add(
        "--licence",
        type=command.argument(licences.parse),
        default=(),
        metavar="NAMES",
        help=licences.HELP,
    )
    add("--overwrite", action="store_true", help="replace a data set built with other options")
    values = vars(parser.parse_args(arguments))
    del values["debug"]
    values["captions"] = tuple(values["captions"])
    output, staging = values.pop("output"), values.pop("staging")
    upload = storage.path(output)
    if storage.is_remote(upload):
        staging = staging or transfer.cache_folder("build", upload)
        return Options(**values, output=staging, upload=upload)
    if staging is not None:
        parser.error(f"--staging is for a gs:// output, and --output is {output}")
    return Options(**values, output=storage.local_path(output))


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
