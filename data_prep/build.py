# SPDX-License-Identifier: Apache-2.0
"""Command line: raw data and a teacher in, a TFDS data set out; every stage resumes.

python -m data_prep.build --source furniture --input DIR --output DIR --teacher lit
"""

import argparse
import dataclasses
import hashlib
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import catalogue as catalogue_lib
from data_prep import (
    evaluation,
    features,
    lock,
    offline_teacher,
    prepare,
    records,
    sources,
    teachers,
    timing,
)
from data_prep.sources import folder as folder_lib
from data_prep.sources import published
from data_prep.teachers import prompts
from mrd_jax.data import batch_spec, source

Splits = Mapping[str, Sequence[str]]


@dataclasses.dataclass(frozen=True)
class Options:
    """One field per flag; `parse_options` says what each is."""

    source: str
    input: Path
    output: Path
    teacher: str
    points: int = 10_000
    views: int = 12
    image_size: int = 224
    seed: int = 0
    workers: int | None = None
    batch_size: int = 32
    dtype: str = "float32"
    overwrite: bool = False

    @property
    def target(self) -> Path:
        """Folder of the data set."""
        return self.output / self.source / records.VERSION

    def content(self) -> dict[str, Any]:
        """What decides the content of the data set, as its metadata remember it."""
        names = ("source", "teacher", "points", "views", "image_size", "seed", "dtype")
        return {name: getattr(self, name) for name in names}


def build(options: Options) -> Path:
    """Runs every stage that is not finished yet and says what each did.

    Args:
      options: source, folders, teacher and sizes.

    Returns:
      folder of the data set, OUTPUT/SOURCE/1.0.0.

    Raises:
      ValueError: the folder holds a data set made with other options and overwrite is not set, or
        the input does not fit; names what differs.
      lock.BusyError: another build is writing into the output folder.
    """
    with lock.alone_in(options.output):
        return _build(options)


def _build(options: Options) -> Path:
    """The stages, one after another."""
    started = time.monotonic()
    _refuse_other_options(options)
    origin = sources.SOURCES[options.source]
    class_set = published.find_class_set(
        origin, source=options.source, input_dir=options.input, teacher=options.teacher
    )
    cache = options.output / "shapes" / origin.family
    if isinstance(origin, folder_lib.Folder):
        origin.check(
            options.input,
            output=options.output,
            cache=cache,
            teacher=options.teacher,
            overwrite=options.overwrite,
        )
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
        )
        print(summary)
        catalogue = catalogue_lib.read_catalogue(prepare.shard_paths(cache))
        splits = origin.splits(catalogue.entries())
        classes = class_set.names if class_set else origin.classes(catalogue.entries())
    with timing.announced("teacher"):
        teacher = _teacher(options, catalogue, splits)
        info = teacher.info if teacher else origin.teacher
        print(f"{info.name}, revision {info.revision}, dim {info.dim}")
    with timing.announced("features"):
        ids = frozenset(shape_id for split in splits.values() for shape_id in split)
        feature_dir = _encode(options, catalogue, teacher, ids)
    with timing.announced("records"):
        plan = _plan(options, catalogue, splits, classes, info, feature_dir, class_set)
        written = _write(options, plan, catalogue, teacher, class_set)
    print(f"total: {time.monotonic() - started:.1f} s")
    print(f"{options.target} {'is written' if written else 'is up to date: nothing to do'}.")
    return options.target


def _refuse_other_options(options: Options) -> None:
    """Before hours of work: the data set that is there must have been made with these options."""
    if options.overwrite or not options.target.exists():
        return
    found = source.read_metadata(options.target)["build"]
    for name, want in options.content().items():
        if found[name] != want:
            raise ValueError(
                f"{options.target} was made with --{name} {found[name]}, but --{name} {want} is "
                f"asked for; pass --overwrite to replace it, or choose another --output."
            )


def _teacher(
    options: Options, catalogue: catalogue_lib.Catalogue, splits: Splits
) -> teachers.Teacher | None:
    """The teacher that was asked for; None where the features are there already."""
    if options.teacher == teachers.RELEASED:
        return None
    if options.teacher != teachers.LIT:
        return teachers.load_teacher(
            options.teacher, batch_size=options.batch_size, dtype=options.dtype
        )
    folder = options.output / "teachers"
    return offline_teacher.load_or_train(
        folder / f"{teachers.LIT}_{options.source}",
        catalogue,
        splits["train"],
        # Shared by the teachers of all sources: their frozen image model is the same.
        cache_dir=folder / "backbone_features",
        seed=options.seed,
        batch_size=options.batch_size,
        dtype=options.dtype,
    )


def _encode(
    options: Options,
    catalogue: catalogue_lib.Catalogue,
    teacher: teachers.Teacher | None,
    ids: frozenset[str],
) -> Path | None:
    """Folder of the teacher's features; None where the shapes hold their own."""
    if teacher is None:
        print("as released; they were checked as the shapes were read")
        return None
    folder = options.output / "features" / options.source / _file_name(teacher.info.name)
    counts = features.encode_shards(list(catalogue.shards), folder, teacher, ids=ids)
    print(", ".join(f"{count} {name}" for name, count in counts.items()))
    return folder


def _plan(
    options: Options,
    catalogue: catalogue_lib.Catalogue,
    splits: Splits,
    classes: Sequence[str],
    info: teachers.TeacherInfo,
    feature_dir: Path | None,
    class_set: published.ClassSet | None,
) -> records.Plan:
    """What the data set is to contain, with a fingerprint of it among the metadata."""
    ids = frozenset(shape_id for split in splits.values() for shape_id in split)
    counts = {split: len(members) for split, members in splits.items()}
    metadata = {
        "teacher": dataclasses.asdict(info),
        "up_axis": batch_spec.UP_AXIS,
        "from_y_up": sources.SOURCES[options.source].from_y_up,
        "normalisation": batch_spec.NORMALISATION,
        "points": options.points,
        "source": options.source,
        "counts": counts | {"classes": len(classes)},
        "build": options.content(),
    }
    digests = {shape_id: catalogue.digests[shape_id] for shape_id in sorted(ids)}
    content = [metadata, records.FORMAT, prompts.TEMPLATES, splits, list(classes), digests]
    if class_set and class_set.features is not None:
        content.append(hashlib.sha256(np.ascontiguousarray(class_set.features)).hexdigest())
    mark = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    metadata["build"]["fingerprint"] = mark
    return records.Plan(
        name=options.source,
        shards=[
            records.Shard(
                shapes=path,
                features=feature_dir and feature_dir / path.name,
                ids=frozenset(shape.id for shape in shard) & ids,
            )
            for path, shard in catalogue.shards.items()
        ],
        splits=splits,
        classes=classes,
        points=options.points,
        dim=info.dim,
        metadata=metadata,
    )


def _write(
    options: Options,
    plan: records.Plan,
    catalogue: catalogue_lib.Catalogue,
    teacher: teachers.Teacher | None,
    class_set: published.ClassSet | None,
) -> bool:
    """Writes the data set unless the one that is there was made from the same; True if written."""
    if options.target.exists():
        found = source.read_metadata(options.target)["build"]["fingerprint"]
        if found == plan.metadata["build"]["fingerprint"]:
            print("made from the same shapes and features; left alone")
            return False
        if not options.overwrite:
            raise ValueError(
                f"{options.target} was made from other shapes or another revision of the teacher; "
                f"pass --overwrite to replace it, or choose another --output."
            )
    class_features = np.zeros((0, plan.dim), np.float32)
    if plan.classes and teacher is None:
        class_features = class_set.features
    elif plan.classes:
        class_features = prompts.prompt_average(teacher, published.spoken(plan.classes))
    known = catalogue.entries()
    ids = frozenset(shape_id for split in plan.splits.values() for shape_id in split)
    sidecar = evaluation.Sidecar(
        classes=plan.classes,
        class_features=class_features,
        unseen_names=evaluation.unseen_names(known, plan.splits),
        shapes=catalogue.load([s.id for s in known if s.image_kinds and s.id in ids]),
    )
    records.write_records(plan, options.output, sidecar=sidecar)
    written = ", ".join(f"{len(members)} {split}" for split, members in plan.splits.items())
    print(
        f"records written: {written}; shapes in no split: {len(known) - len(ids)}; "
        f"classes: {len(plan.classes)}; "
        f"{sum(file.stat().st_size for file in options.target.glob('*array_record*'))} bytes"
    )
    empty = sorted(set(plan.classes) - {shape.label for shape in known if shape.id in ids})
    if empty:
        few = ", ".join(empty[:10]) + (", ..." if len(empty) > 10 else "")
        print(f"{len(empty)} classes have no shape and stay among the names: {few}")
    return True


def _file_name(name: str) -> str:
    """A hub name or a path as the name of one folder."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).strip("_.") or "teacher"


def parse_options(arguments: Sequence[str] | None = None) -> Options:
    """Reads the command line.

    Args:
      arguments: without the program's name; None takes the process's own.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    add = parser.add_argument
    add("--source", required=True, choices=sorted(sources.SOURCES), help="what the data are")
    add("--input", required=True, type=Path, help="folder of the raw data")
    add("--output", required=True, type=Path, help="folder of caches, teachers and data sets")
    add(
        "--teacher",
        required=True,
        help="lit (trained here), a folder, a CLIP's hub name, or released",
    )
    add("--points", type=int, default=Options.points, help="points per shape")
    add("--views", type=int, default=Options.views, help="rendered views per shape")
    add("--image_size", type=int, default=Options.image_size, help="side of a view in pixels")
    add("--seed", type=int, default=Options.seed, help="of point sampling and LiT training")
    add("--workers", type=int, default=None, help="processes that prepare shapes; None: one a core")
    add("--batch_size", type=int, default=Options.batch_size, help="of the teacher, all devices")
    add("--dtype", choices=("float32", "bfloat16"), default="float32", help="of the teacher")
    add("--overwrite", action="store_true", help="replace a data set made with other options")
    return Options(**vars(parser.parse_args(arguments)))


if __name__ == "__main__":
    build(parse_options())
