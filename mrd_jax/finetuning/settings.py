# SPDX-License-Identifier: Apache-2.0
"""Config of a fine-tuning run: checks, and what it takes from the model card of the encoder."""

import logging
from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict

from mrd_jax import hub
from mrd_jax.checkpoints import model_card, restore
from mrd_jax.data import dataset_metadata
from mrd_jax.evaluation.benchmark import test_sets
from mrd_jax.training import run as run_lib
from mrd_jax.training import validation

LOGGER = logging.getLogger(__name__)

# Fields of `config.model` that do not change the variables of an encoder. Of the others, the model
# card decides.
OWN_FIELDS = (
    *("attention", "drop_path", "dtype", "micro_batch", "patch_choice", "patch_dropout"),
    *("remat", "scan"),
)


def resolve(config: ConfigDict) -> ConfigDict:
    """Returns the config of a run that starts from the encoder in `config.initial_weights`.

    Architecture, points per cloud, teacher and the colour of clouds without colours are those on
    the model card.

    Args:
      config: config as `configs/finetune.py` describes it.

    Raises:
      mrd_jax.training.validation.ConfigError: lists every invalid field of the config.
      FileNotFoundError: there is no encoder or no data set.
      ValueError: the data set does not fit the encoder.
    """
    if not config.initial_weights:
        raise validation.ConfigError(
            "config.initial_weights is ''; expected the encoder to fine-tune: an encoder folder, "
            "the workdir of a run, or hf://USER/NAME"
        )
    card = restore.find_student(hub.resolve(config.initial_weights)).card
    resolved = run_lib.resolve(_with_card(config, card))
    check(resolved)
    metadata = dataset_metadata.read(resolved.data.directory)
    if reason := test_sets.misfit(metadata, card=card, windows=resolved.eval_windows):
        raise ValueError(
            f"config.data.directory, {resolved.data.directory}, does not fit the encoder in "
            f"config.initial_weights: {reason}"
        )
    if metadata["from_y_up"] != card.from_y_up:
        LOGGER.warning(
            "the point clouds of %s are mirror images of those that the encoder was trained on "
            "(from_y_up is %r, %r on its model card); the fine-tuned encoder takes the former",
            resolved.data.directory,
            metadata["from_y_up"],
            card.from_y_up,
        )
    return resolved


def _with_card(config: ConfigDict, card: model_card.ModelCard) -> ConfigDict:
    """Returns a config with the fields of a model card."""
    resolved = ConfigDict(config).copy_and_resolve_references()
    student: Mapping[str, Any] = card.student
    own = {
        name: config.model[name] for name in OWN_FIELDS if name in student and name in config.model
    }
    resolved.model = ConfigDict({**student, **own, "points": card.points})
    resolved.teacher.name, resolved.teacher.dim = card.teacher, card.teacher_dim
    resolved.augment.color_fill = card.colour_fill
    return resolved


def check(config: ConfigDict) -> None:
    """Checks the fields of a fine-tuning run against each other.

    Args:
      config: valid config of a run, with the architecture of its encoder.

    Raises:
      mrd_jax.training.validation.ConfigError: has a line for every fault.
    """
    faults = []
    for name, wanted, why in (
        ("optimizer.ema_decay", 0.0, "the class head would not be averaged with the encoder"),
        ("data.hard_negatives", 0, "no other sample of the batch is a negative"),
        ("data.test_directory", "", "the classes of another data set may be others"),
        ("data.corrupt_records", 0, "the labels of all records are read first"),
    ):
        if (value := _value(config, name)) != wanted:
            faults.append(f"config.{name} is {value!r}; expected {wanted!r}, since {why}")
    for name in ("train_split", "test_split"):
        if config.data[name] != name.removesuffix("_split"):
            faults.append(
                f"config.data.{name} is {config.data[name]!r}; expected "
                f"{name.removesuffix('_split')!r}, on which the benchmark fits and tests its probes"
            )
    blocks, depth = config.finetune.trainable_blocks, config.model.get("depth", 0)
    if blocks > depth:
        faults.append(
            f"config.finetune.trainable_blocks is {blocks}; the encoder has {depth} blocks; "
            f"expected 0, for the whole encoder, to {depth}"
        )
    if faults:
        raise validation.ConfigError("\n".join(faults))


def _value(config: ConfigDict, name: str) -> Any:
    section, field = name.split(".")
    return config[section][field]
