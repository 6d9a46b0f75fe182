# SPDX-License-Identifier: Apache-2.0
"""Everything that is measured of an encoder on one prepared data set."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tqdm
from ml_collections import ConfigDict

from mrd_jax import encoder as encoders
from mrd_jax.data import source
from mrd_jax.evaluation import baselines, few_shot, held_out_split, linear_probe, results
from mrd_jax.evaluation.benchmark import test_sets
from mrd_jax.evaluation.metrics import classification

LOGGER = logging.getLogger(__name__)

# From "swap" to "rotate" and back: (x, z, y) against (x, -z, y).
_MIRROR = np.array([1, -1, 1], np.float32)


def measure(
    one: test_sets.TestSet, *, encoder: encoders.Encoder, config: ConfigDict
) -> dict[str, Any]:
    """Measures one set.

    Args:
      one: that fits the encoder.
      encoder: to test.
      config: as `configs/benchmarks.py` describes it.

    Returns:
      where the set is and what it is; counts, the shapes per split, those with a class, and the
      classes; mirrored, whether its clouds were turned into the encoder's mirror world; results,
      the lines of the table as `results.Result.as_dict` gives them; and linear_probe and few_shot
      as the functions of that name return, where there is a training split to learn from.

    Raises:
      ValueError: a record or an embedding cannot be used, or nothing has a class.
      RuntimeError: a record cannot be read.
    """
    # The set knows the names of its own training split, not of the data behind the encoder.
    test = held_out_split.without_unseen(
        held_out_split.load_held_out(one.directory, test_sets.TEST)
    )
    by_class = len(test.ids) <= config.map_up_to
    lines = baselines.measure(
        one.directory,
        held_out=test,
        train_split=test_sets.TRAIN if one.has_train else None,
        test_split=test_sets.TEST,
        by_class=by_class,
    )
    embeddings = embed(one, test_sets.TEST, encoder=encoder, config=config)
    student = results.from_embeddings(
        embeddings,
        name=results.STUDENT,
        held_out=test,
        summary="The encoder under test, from points alone.",
        by_class=by_class,
    )
    return {
        "directory": str(one.directory),
        "data": one.fingerprint,
        "source": one.metadata["source"],
        "points": one.metadata["points"],
        "mirrored": _is_mirrored(one, encoder),
        "counts": {**one.metadata["counts"], "labelled": len(test.labelled)},
        "results": [line.as_dict() for line in baselines.with_student(lines, student)],
        **_learnt(one, test, embeddings, encoder=encoder, config=config),
    }


def embed(
    one: test_sets.TestSet, split: str, *, encoder: encoders.Encoder, config: ConfigDict
) -> np.ndarray:
    """Embeds every record of a split as the evaluation of a run does.

    Args:
      one: that fits the encoder.
      split: of the set.
      encoder: to embed with.
      config: reads batch_size and windows.

    Returns:
      float32 [records, dim], unit norm, in the order of the split: of several windows, the mean of
      their unit embeddings.
    """
    records = source.open_split(one.directory, split)
    every = (records[i] for i in range(len(records)))
    clouds = _clouds(
        tqdm.tqdm(every, desc=f"{one.name} {split}", total=len(records), unit="shape"),
        windows=config.windows,
        points=encoder.card.points,
        mirrored=_is_mirrored(one, encoder),
    )
    rows = encoder.embed(clouds, batch_size=config.batch_size)
    return classification.normalise(rows.reshape(len(records), config.windows, -1).mean(axis=1))


def _clouds(
    records: Iterable[dict[str, Any]], *, windows: int, points: int, mirrored: bool
) -> Iterator[encoders.Cloud]:
    """The windows of every record, as `augment.plain` cuts them, one after another."""
    for record in records:
        xyz = np.asarray(record["xyz"], np.float32)
        rgb = np.asarray(record["rgb"], np.float32) / 255
        if mirrored:
            xyz = xyz * _MIRROR
        for start in range(0, windows * points, points):
            yield xyz[start : start + points], rgb[start : start + points]


def _is_mirrored(one: test_sets.TestSet, encoder: encoders.Encoder) -> bool:
    """Whether left and right of the set are right and left of what the encoder was made for."""
    return one.metadata["from_y_up"] != encoder.card.from_y_up


def _learnt(
    one: test_sets.TestSet,
    test: held_out_split.HeldOut,
    embeddings: np.ndarray,
    *,
    encoder: encoders.Encoder,
    config: ConfigDict,
) -> dict[str, Any]:
    """What is fitted to the training split; nothing where there is none with two classes."""
    known: dict[str, tuple[bool, Callable, dict[str, Any]]] = {
        "linear_probe": (config.linear_probe, linear_probe.linear_probe, {"seed": config.seed}),
        "few_shot": (config.few_shot, few_shot.few_shot, {}),
    }
    fits = {name: (fit, more) for name, (wanted, fit, more) in known.items() if wanted}
    if not fits or not one.has_train:
        return {}
    labels = held_out_split.load_held_out(one.directory, test_sets.TRAIN).labels
    if len(np.unique(labels[labels >= 0])) < 2:
        return {}
    features = embed(one, test_sets.TRAIN, encoder=encoder, config=config)
    LOGGER.info("%s: fitting %s", one.name, " and ".join(fits))
    given = {"labels": labels, "test_features": embeddings, "test_labels": test.labels}
    return {name: fit(features, **given, **more) for name, (fit, more) in fits.items()}
