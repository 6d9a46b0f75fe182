# SPDX-License-Identifier: Apache-2.0
"""A tiny run and its data set, for checks of the whole step and of resumption."""

import pathlib
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from data_prep import evaluation, record_builder, records, shapes
from mrd_jax.checkpoints import run_identity
from mrd_jax.data import batch_spec

# Divides over 1, 2, 3, 4, 6, 8, 12 and 16 devices.
BATCH = 48
POINTS, DIM = 96, 24
# Fields of a run that differ from the recipe; those of `model` where the student has them.
FIELDS = {
    "spmd": "shard_map",
    "shard_state": False,
    "deterministic": False,
    "batch_size": BATCH,
    "total_steps": 4,
    "log_every": 1,
    "checkpoint_every": 2,
    "checkpoints_kept": 2,
    "initial_weights": "",
    "tracker": "none",
    "data.points": POINTS,
    "data.train_split": "train",
    "data.test_split": "",
    "data.hard_negatives": 0,
    "teacher.name": "",
    "teacher.dim": DIM,
    "optimizer.warmup_steps": 2,
    "optimizer.ema_decay": 0.0,
    # Terms that take long to compile; `kernels.check_losses` has them.
    "loss.lambda_image": 0.0,
    "loss.lambda_text": 0.0,
    "loss.dtype": "float32",
    "model.dtype": "float32",
    "model.points": 64,
    "model.dim": 64,
    "model.depth": 1,
    "model.heads": 1,
    "model.mlp_dim": 96,
    "model.sa_dim": 16,
    "model.groups": 8,
    "model.group_size": 8,
    "model.radius": 0.4,
    "model.out_dim": DIM,
    "model.micro_batch": 0,
    "model.remat": False,
}


def fields(config: ConfigDict) -> dict[str, Any]:
    """Returns the fields of `FIELDS` that a config has."""
    known = run_identity.flatten(config)
    return {name: value for name, value in FIELDS.items() if name in known}


def shrink(config: ConfigDict) -> ConfigDict:
    """Returns a copy of a config with the tiny sizes."""
    config = ConfigDict(config)
    config.update_from_flattened_dict(fields(config))
    return config


def write_data(folder: pathlib.Path, *, count: int, points: int, dim: int) -> pathlib.Path:
    """Writes random records in the format of data_prep.

    Args:
      folder: empty folder.
      count: number of records.
      points: points per record.
      dim: length of a feature.

    Returns:
      Folder of the data set.
    """
    rng = np.random.default_rng(0)
    drawn = [_shape(index, rng, points=points, dim=dim) for index in range(count)]
    folder.mkdir(parents=True)
    file = folder / "shapes.npz"
    shapes.save_shard(file, drawn)
    ids = [shape.id for shape in drawn]
    plan = record_builder.Plan(
        name="selfcheck",
        shards=[records.Shard(file, None, frozenset(ids))],
        splits={"train": ids},
        classes=["any"],
        points=points,
        dim=dim,
        metadata={
            "teacher": {"name": "random", "revision": "1", "dim": dim, "preprocessing": "none"},
            "up_axis": batch_spec.UP_AXIS,
            "from_y_up": "rotate",
            "normalisation": batch_spec.NORMALISATION,
            "points": points,
            "source": "selfcheck",
            "counts": {"train": count, "classes": 1},
        },
    )
    sidecar = evaluation.Sidecar(["any"], np.ones((1, dim)), [])
    return record_builder.write_records(plan, folder, sidecar=sidecar)


def _shape(index: int, rng: np.random.Generator, *, points: int, dim: int) -> shapes.Shape:
    views, captions = 4, 3
    return shapes.Shape(
        id=f"shape {index}",
        source="selfcheck",
        name=f"shape {index}",
        catalogue="train",
        category="",
        creator="",
        licence="",
        xyz=shapes.normalise(rng.normal(size=(points, 3))),
        rgb=rng.integers(0, 256, (points, 3)).astype(np.uint8),
        images=(),
        image_kinds=(),
        captions=tuple(("name", f"shape {index}") for _ in range(captions)),
        label="any",
        released=shapes.Released(
            rng.normal(size=(views, dim)).astype(np.float16),
            ("render",) * views,
            rng.normal(size=(captions, dim)).astype(np.float16),
        ),
    )
