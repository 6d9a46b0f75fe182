# SPDX-License-Identifier: Apache-2.0
"""Data set of a build: its plan, its fingerprint, and writing it."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data_prep import catalogue, evaluation, record_builder, records, sources, teachers
from data_prep.captions import encoding
from data_prep.geometry import formats
from data_prep.options import Options
from data_prep.shards import beside
from data_prep.sources import published
from data_prep.teachers import prompts
from mrd_jax.data import batch_spec, dataset_metadata

# Classes without a shape that the summary lists by name.
EXAMPLES = 10


def shape_ids(splits: Mapping[str, Sequence[str]]) -> frozenset[str]:
    """Returns the ids of the shapes in all splits."""
    return frozenset(itertools.chain.from_iterable(splits.values()))


def make_plan(
    options: Options,
    prepared: catalogue.Catalogue,
    *,
    splits: Mapping[str, Sequence[str]],
    classes: Sequence[str],
    info: teachers.TeacherInfo,
    feature_dir: Path | None,
    caption_files: Mapping[Path, Path],
    class_set: published.ClassSet | None,
) -> record_builder.Plan:
    """Returns the plan of the data set, with a fingerprint of its content in the metadata.

    Args:
      options: options of the build.
      prepared: catalogue of the prepared shapes.
      splits: split name -> ids of its shapes.
      classes: class names of the zero-shot evaluation.
      info: description of the teacher.
      feature_dir: folder of the teacher's features; None for released features.
      caption_files: file of prepared shapes -> file of joined captions; {} for none.
      class_set: classes that a published data set brings; None for other sources.
    """
    ids = shape_ids(splits)
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
    if sources.SOURCES[options.source].family in sources.FILE_FAMILIES:
        metadata["reader_version"] = formats.READER_VERSION
    fingerprints = {shape_id: prepared.fingerprints[shape_id] for shape_id in sorted(ids)}
    content = [metadata, records.FORMAT, prompts.TEMPLATES, splits, list(classes), fingerprints]
    if class_set and class_set.features is not None:
        content.append(hashlib.sha256(np.ascontiguousarray(class_set.features)).hexdigest())
    content += [encoding.fingerprint(caption_files[path]) for path in sorted(caption_files)]
    encoded = json.dumps(content, sort_keys=True).encode()
    metadata["build"]["fingerprint"] = hashlib.sha256(encoded).hexdigest()
    return record_builder.Plan(
        name=options.source,
        shards=[
            records.Shard(
                shapes=path,
                features=feature_dir and beside(path, feature_dir),
                ids=frozenset(shape.id for shape in shard) & ids,
                captions=caption_files.get(path),
            )
            for path, shard in prepared.shards.items()
        ],
        splits=splits,
        classes=classes,
        points=options.points,
        dim=info.dim,
        metadata=metadata,
    )


def write(
    options: Options,
    plan: record_builder.Plan,
    prepared: catalogue.Catalogue,
    *,
    teacher: teachers.Teacher | None,
    class_set: published.ClassSet | None,
    groups: Mapping[str, str],
) -> bool:
    """Writes the data set unless the existing one has the same fingerprint.

    Groups are no part of the fingerprint: those of an existing data set are written or replaced.

    Args:
      options: options of the build.
      plan: plan of `make_plan`.
      prepared: catalogue of the prepared shapes.
      teacher: encodes the class names; None for released features.
      class_set: classes that a published data set brings; None for other sources.
      groups: id -> group of the shapes that have one.

    Returns:
      True if the data set was written.

    Raises:
      ValueError: the existing data set has another fingerprint and `overwrite` is not set.
    """
    if options.target.exists():
        found = dataset_metadata.read(options.target).get("build", {}).get("fingerprint")
        if found == plan.metadata["build"]["fingerprint"]:
            print("the data set was built from the same shapes and features; kept")
            update_groups(options.target, groups, plan.splits)
            return False
        if not options.overwrite:
            raise ValueError(
                f"{options.target} was built from other shapes or another revision of the teacher; "
                "pass --overwrite to replace it, or choose another --output"
            )
    class_features = np.zeros((0, plan.dim), np.float32)
    if plan.classes and teacher is None:
        class_features = class_set.features
    elif plan.classes:
        class_features = prompts.prompt_average(teacher, published.spoken(plan.classes))
    sidecar = evaluation.Sidecar(
        classes=plan.classes,
        class_features=class_features,
        unseen_names=evaluation.unseen_names(prepared.entries(), plan.splits),
        groups=in_splits(groups, plan.splits),
    )
    record_builder.write_records(
        plan,
        options.output,
        sidecar=sidecar,
        workers=options.execution.processes(),
        listener=options.execution.listener,
    )
    _print_summary(options, plan, prepared, sidecar.groups)
    return True


def update_groups(
    target: Path, groups: Mapping[str, str], splits: Mapping[str, Sequence[str]]
) -> None:
    """Writes the groups of an existing data set if they have changed, and says so.

    Args:
      target: folder of the data set.
      groups: id -> group.
      splits: split -> ids of its shapes.
    """
    used = in_splits(groups, splits)
    if evaluation.write_groups(target / "evaluation", used):
        print(f"groups written: {len(set(used.values()))} of {len(used)} shapes")


def in_splits(groups: Mapping[str, str], splits: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Returns the groups of the shapes in splits, in the order of the splits.

    Raises:
      ValueError: a group is in two splits.
    """
    crossing = evaluation.crossing_groups(groups, splits)
    for group, names in crossing.items():
        raise ValueError(
            f"{len(crossing)} groups have shapes in several splits, such as {group!r} in {names}; "
            "expected each in one"
        )
    order = itertools.chain.from_iterable(splits.values())
    return {shape_id: groups[shape_id] for shape_id in order if shape_id in groups}


def _print_summary(
    options: Options,
    plan: record_builder.Plan,
    prepared: catalogue.Catalogue,
    groups: Mapping[str, str],
) -> None:
    """Prints the counts of the data set that was written."""
    entries, ids = prepared.entries(), shape_ids(plan.splits)
    counts = ", ".join(f"{len(members)} {split}" for split, members in plan.splits.items())
    print(
        f"records written: {counts}; shapes in no split: {len(entries) - len(ids)}; "
        f"classes: {len(plan.classes)}; "
        f"groups: {len(set(groups.values()))}; "
        f"{sum(file.stat().st_size for file in options.target.glob('*array_record*'))} bytes"
    )
    empty = sorted(set(plan.classes) - {shape.label for shape in entries if shape.id in ids})
    if empty:
        examples = ", ".join(empty[:EXAMPLES]) + (", ..." if len(empty) > EXAMPLES else "")
        print(f"{len(empty)} classes have no shape and stay among the names: {examples}")
