# SPDX-License-Identifier: Apache-2.0
"""Labelled shapes of a data set, and checks of the labels before anything is computed."""

import dataclasses
import logging

import numpy as np
from ml_collections import ConfigDict

from mrd_jax.data import subset
from mrd_jax.evaluation import held_out_split
from mrd_jax.training import run as run_lib
from mrd_jax.training import validation

LOGGER = logging.getLogger(__name__)


def open_labelled(
    config: ConfigDict, *, test: held_out_split.HeldOut
) -> tuple[run_lib.TrainingData, np.ndarray]:
    """Opens the labelled shapes of the training split.

    Shapes of unknown class (label -1) are in no batch.

    Args:
      config: config of the run.
      test: held-out split.

    Returns:
      Training split, whose records are the labelled shapes alone; and their classes, int [records].

    Raises:
      ValueError: the labels of the data set cannot be learned or tested.
    """
    data = run_lib.open_data(config)
    train = held_out_split.load_held_out(config.data.directory, config.data.train_split)
    check_labels(train.labels, test.labels, where=config.data.directory)
    validation.validate_records(config, records=len(train.labelled))
    records = subset.Subset(data.records, train.labelled)
    return dataclasses.replace(data, records=records), train.labelled_classes


def check_labels(train: np.ndarray, test: np.ndarray, *, where: str) -> None:
    """Checks that classes can be learned and tested, and logs what limits the accuracy.

    Args:
      train: int [count], classes of the training split, -1 for an unknown one.
      test: int [count], classes of the test split, likewise.
      where: data set, for messages.

    Raises:
      ValueError: a split has no labelled shape, or the training split fewer than two classes.
    """
    for name, labels in (("training", train), ("test", test)):
        if not np.any(labels >= 0):
            raise ValueError(
                f"{where}: all {len(labels)} labels of the {name} split are -1, an unknown class; "
                "fine-tuning needs a data set with classes, see docs/data.md"
            )
    classes, sizes = np.unique(train[train >= 0], return_counts=True)
    if len(classes) < 2:
        raise ValueError(
            f"{where}: the labelled training shapes are of one class; expected two or more"
        )
    LOGGER.info(
        "classes: %d, with %d labelled of %d training shapes", len(classes), sizes.sum(), len(train)
    )
    known = test[test >= 0]
    for count, what in (
        (int(np.sum(sizes == 1)), "classes have one training shape"),
        (
            int(np.sum(~np.isin(known, classes))),
            "test shapes are of a class without training shapes",
        ),
    ):
        if count:
            LOGGER.warning("%d %s", count, what)
