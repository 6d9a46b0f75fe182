# SPDX-License-Identifier: Apache-2.0
"""The batch contract: shapes and types of a batch, a fake batch, and random keys per sample.

JAX is imported inside the functions: data preparation only needs the constants.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from ml_collections import ConfigDict

if TYPE_CHECKING:
    import jax

# Conventions of every record, written by data_prep and required by training.
UP_AXIS = "z"
NORMALISATION = "unit_sphere"
# Points per record by default in data_prep.build; assumed where a program is compiled or timed
# without a data set.
DEFAULT_POINTS = 10_000
# Kinds of captions that the sources of data_prep write.
CAPTION_KINDS = (
    *("name", "name_rejected", "tags", "category", "description", "caption"),
    *("blip", "msft", "retrieved", "cap3d"),
)


def batch_spec(config: ConfigDict) -> dict[str, jax.ShapeDtypeStruct]:
    """Returns shapes and types of one global batch.

    Arrays are transferred to the devices as half floats and bytes; the step widens them.

    Args:
      config: config of the run; reads batch_size, data.points, data.image_positives,
        data.text_positives, loss.relation_features and teacher.dim.

    Returns:
      xyz [global_batch, points, 3], rgb [global_batch, points, 3], image and text
      [global_batch, dim], and has_image, has_text, label, index, epoch [global_batch]. With several
      positives of a modality, its features are [global_batch, positives, dim] and their mask
      [global_batch, positives]: filled slots come first. With means of the features, image_mean and
      text_mean [global_batch, dim].

    Raises:
      ValueError: data.points is 0; see `dataset_metadata.with_points`.
    """
    import jax

    batch, points, dim = config.batch_size, config.data.points, config.teacher.dim
    if not points:
        raise ValueError(
            "config.data.points is 0, the number of the data set, which is not known here; set it "
            "to the points per record"
        )
    rows = {
        name: (batch, positives(config, name)) if positives(config, name) > 1 else (batch,)
        for name in ("image", "text")
    }
    means = ("image_mean", "text_mean") if has_means(config) else ()
    shapes = {
        "xyz": ((batch, points, 3), np.float16),
        "rgb": ((batch, points, 3), np.uint8),
        "image": ((*rows["image"], dim), np.float16),
        "text": ((*rows["text"], dim), np.float16),
        "has_image": (rows["image"], np.bool_),
        "has_text": (rows["text"], np.bool_),
        **dict.fromkeys(means, ((batch, dim), np.float16)),
        "label": ((batch,), np.int32),
        "index": ((batch,), np.int32),
        "epoch": ((batch,), np.int32),
    }
    return {name: jax.ShapeDtypeStruct(*shape) for name, shape in shapes.items()}


def positives(config: ConfigDict, name: str) -> int:
    """Returns the number of features of a modality, image or text, that are drawn per sample."""
    return config.data[f"{name}_positives"]


def has_means(config: ConfigDict) -> bool:
    """Returns whether batches have means of the teacher's features, for the relations."""
    return config.loss.relation_features == "mean"


def fake_batch(config: ConfigDict, *, seed: int = 0) -> dict[str, np.ndarray]:
    """Makes a random batch that satisfies `batch_spec`, for benchmarks and tests without data.

    Point clouds fill the unit ball, and some samples lack an image or a text.

    Args:
      config: config of the run, as in `batch_spec`.
      seed: seed of the random numbers.

    Returns:
      Arrays as `batch_spec` describes them; features of a missing modality are zeros.
    """
    rng = np.random.default_rng(seed)
    spec = batch_spec(config)
    xyz = rng.normal(size=spec["xyz"].shape)
    xyz /= np.maximum(np.linalg.norm(xyz, axis=-1, keepdims=True), 1.0)
    has = {name: rng.random(config.batch_size) < 0.9 for name in ("image", "text")}
    for name, present in has.items():
        if positives(config, name) > 1:
            slots = rng.integers(1, positives(config, name) + 1, config.batch_size) * present
            has[name] = np.arange(positives(config, name)) < slots[:, None]
    values = {
        "xyz": xyz,
        "rgb": rng.integers(0, 256, spec["rgb"].shape),
        "image": rng.normal(size=spec["image"].shape) * has["image"][..., None],
        "text": rng.normal(size=spec["text"].shape) * has["text"][..., None],
        "has_image": has["image"],
        "has_text": has["text"],
        "label": rng.integers(-1, 10, config.batch_size),
        "index": np.arange(config.batch_size),
        "epoch": np.zeros(config.batch_size),
    }
    if has_means(config):
        for name in has:
            present = has[name].reshape(config.batch_size, -1)[:, :1]
            values[f"{name}_mean"] = rng.normal(size=spec[f"{name}_mean"].shape) * present
    return {name: values[name].astype(spec[name].dtype) for name in spec}


def sample_keys(seed: int, index: jax.Array, epoch: jax.Array) -> jax.Array:
    """Derives one random key per sample, independent of the batch and the device it is on.

    Args:
      seed: `config.seed` of the run.
      index: [batch], positions of the records in their split.
      epoch: [batch], distinguishes repeated uses of a record, see
        `mrd_jax.data.hard_negatives.sampler.epoch_of`.

    Returns:
      [batch] typed keys.
    """
    import jax

    root = jax.random.key(seed)

    def key(index: jax.Array, epoch: jax.Array) -> jax.Array:
        return jax.random.fold_in(jax.random.fold_in(root, index), epoch)

    return jax.vmap(key)(index, epoch)


def check_batch_size(batch_size: int, *, process_count: int, device_count: int) -> int:
    """Checks that a batch divides over processes and devices.

    Args:
      batch_size: size of the global batch.
      process_count: number of processes.
      device_count: number of devices of all processes.

    Returns:
      Number of samples per process.

    Raises:
      ValueError: the batch does not divide over the processes or the devices.
    """
    for count, what in ((process_count, "processes"), (device_count, "devices")):
        if batch_size <= 0 or batch_size % count:
            raise ValueError(
                f"config.batch_size is {batch_size}, which does not divide over {count} {what}; "
                f"expected a positive multiple of {count}."
            )
    return batch_size // process_count
