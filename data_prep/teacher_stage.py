# SPDX-License-Identifier: Apache-2.0
"""Stages of a build that use the teacher: loading or training it, and encoding the shapes."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import jax

from data_prep import (
    catalogue,
    dataset,
    features,
    flag_types,
    offline_teacher,
    ray_encoders,
    teachers,
)
from data_prep.options import Options
from mrd_jax.data import dataset_metadata


def find_dtype(options: Options) -> str:
    """Returns the dtype of the teacher's activations.

    Args:
      options: options of the build.
    """
    if options.dtype != flag_types.AUTO:
        return options.dtype
    if options.teacher == teachers.RELEASED:
        return "float32"
    if options.target.exists() and not options.overwrite:
        return dataset_metadata.read(options.target)["build"].get("dtype", "float32")
    found = features.find_dtype(options.output / "features" / options.source)
    if found is not None:
        return found
    if options.execution.executor == "ray":
        has_accelerator = ray_encoders.has_accelerators(options.execution.address)
    else:
        has_accelerator = jax.default_backend() != "cpu"
    return teachers.default_dtype(options.teacher, has_accelerator=has_accelerator)


def load_teacher(
    options: Options, prepared: catalogue.Catalogue, train: Sequence[str]
) -> teachers.Teacher | None:
    """Returns the teacher; None where the source brings released features.

    Args:
      options: options of the build, whose dtype is not "auto".
      prepared: catalogue of the prepared shapes.
      train: ids of the training shapes.
    """
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


def encode(
    options: Options,
    prepared: catalogue.Catalogue,
    teacher: teachers.Teacher | None,
    splits: Mapping[str, Sequence[str]],
) -> Path | None:
    """Encodes the shapes of all splits without up-to-date features.

    Args:
      options: options of the build, whose dtype is not "auto".
      prepared: catalogue of the prepared shapes.
      teacher: encodes images and texts; None for released features.
      splits: split -> ids of its shapes.

    Returns:
      The folder of the teacher's features; None where the shapes hold released ones.
    """
    if teacher is None:
        print("released with the data; checked while the shapes were read")
        return None
    folder = options.output / "features" / options.source / folder_name(teacher.info.name)
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


def folder_name(teacher: str) -> str:
    """Returns a hub name or a path as a single folder name."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", teacher).strip("_.") or "teacher"
