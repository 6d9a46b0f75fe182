# SPDX-License-Identifier: Apache-2.0
"""Measurement of an encoder on one test set: results table, linear probe and few-shot probes."""

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import tqdm
from ml_collections import ConfigDict

from mrd_jax.data import source
from mrd_jax.encoder import Cloud, Encoder
from mrd_jax.evaluation import baselines, few_shot, held_out_split, linear_probe, results
from mrd_jax.evaluation.benchmark import test_sets
from mrd_jax.evaluation.metrics import classification

LOGGER = logging.getLogger(__name__)

# Converts between the conventions "swap", (x, z, y), and "rotate", (x, -z, y).
_MIRROR = np.array([1, -1, 1], np.float32)


def measure(test_set: test_sets.TestSet, *, encoder: Encoder, config: ConfigDict) -> dict[str, Any]:
    """Measures an encoder on one test set.

    Args:
      test_set: test set that fits the encoder.
      encoder: encoder to measure.
      config: config as `configs/benchmarks.py` describes it.

    Returns:
      `directory`, `data` (the fingerprint), `source` and `points` of the test set; `counts`, the
      numbers of shapes per split, of labelled test shapes and of classes; `mirrored`, whether its
      point clouds were mirrored to the convention of the encoder; `results`, the rows of the
      results table as `results.Result.as_dict` returns them; if there is a training split to fit
      them to, `linear_probe` and `few_shot` as the functions of those names return them; and, if
      the encoder was fine-tuned on the classes of the test set, `fine_tuned`, the metrics of its
      class head.

    Raises:
      ValueError: a record or an embedding is invalid, or no shape has a known class.
      RuntimeError: a record cannot be read.
    """
    # The set's list of unseen names refers to its own training split, not to the encoder's.
    test = held_out_split.without_unseen(
        held_out_split.load_held_out(test_set.directory, test_sets.TEST)
    )
    by_class = len(test.ids) <= config.map_up_to
    rows = baselines.measure(
        test_set.directory,
        held_out=test,
        train_split=test_sets.TRAIN if test_set.has_train else None,
        test_split=test_sets.TEST,
        by_class=by_class,
    )
    embeddings = embed(test_set, test_sets.TEST, encoder=encoder, config=config)
    student = results.from_embeddings(
        embeddings,
        name=results.STUDENT,
        held_out=test,
        summary="The encoder under test, from points alone.",
        by_class=by_class,
    )
    return {
        "directory": str(test_set.directory),
        "data": test_set.fingerprint,
        "source": test_set.metadata["source"],
        "points": test_set.metadata["points"],
        "mirrored": _is_mirrored(test_set, encoder),
        "counts": {**test_set.metadata["counts"], "labelled": len(test.labelled)},
        "results": [row.as_dict() for row in baselines.with_student(rows, student)],
        **_fit_probes(test_set, test, embeddings, encoder=encoder, config=config),
        **_measure_class_head(test, embeddings, encoder=encoder),
    }


def embed(
    test_set: test_sets.TestSet, split: str, *, encoder: Encoder, config: ConfigDict
) -> np.ndarray:
    """Embeds every record of a split in the same way as the evaluation of a run.

    Args:
      test_set: test set that fits the encoder.
      split: name of the split.
      encoder: encoder to embed with.
      config: config; reads `batch_size` and `windows`.

    Returns:
      float32 [records, dim], unit norm, in the order of the split. With several windows, the
      normalised mean of their unit embeddings.
    """
    records = source.open_split(test_set.directory, split)
    clouds = _clouds(
        tqdm.tqdm(
            (records.read(i, ("xyz", "rgb")) for i in range(len(records))),
            desc=f"{test_set.name} {split}",
            total=len(records),
            unit="shape",
        ),
        windows=config.windows,
        points=encoder.card.points,
        mirrored=_is_mirrored(test_set, encoder),
    )
    rows = encoder.embed(clouds, batch_size=config.batch_size)
    return classification.normalise(rows.reshape(len(records), config.windows, -1).mean(axis=1))


def _clouds(
    records: Iterable[dict[str, Any]], *, windows: int, points: int, mirrored: bool
) -> Iterator[Cloud]:
    """Yields the windows of every record in turn, cut as `augment.plain` cuts them."""
    for record in records:
        xyz = np.asarray(record["xyz"], np.float32)
        rgb = np.asarray(record["rgb"], np.float32) / 255
        if mirrored:
            xyz = xyz * _MIRROR
        for start in range(0, windows * points, points):
            yield xyz[start : start + points], rgb[start : start + points]


def _is_mirrored(test_set: test_sets.TestSet, encoder: Encoder) -> bool:
    """Returns whether the set's point clouds are mirror images of what the encoder expects."""
    return test_set.metadata["from_y_up"] != encoder.card.from_y_up


def _measure_class_head(
    test: held_out_split.HeldOut, embeddings: np.ndarray, *, encoder: Encoder
) -> dict[str, Any]:
    """Measures the class head of a fine-tuned encoder; nothing if it has other classes."""
    if encoder.classes is None or encoder.classes.names != test.class_names:
        return {}
    scores = encoder.classes.logits(embeddings)
    return {"fine_tuned": results.from_scores(scores, name="fine-tuned", held_out=test).metrics}


def _fit_probes(
    test_set: test_sets.TestSet,
    test: held_out_split.HeldOut,
    embeddings: np.ndarray,
    *,
    encoder: Encoder,
    config: ConfigDict,
) -> dict[str, Any]:
    """Fits the probes that the config asks for; none without a training split of two classes."""
    probes: dict[str, tuple[bool, Callable, dict[str, Any]]] = {
        "linear_probe": (
            config.linear_probe,
            linear_probe.linear_probe,
            {"seed": config.seed, "test_groups": test.clusters},
        ),
        "few_shot": (config.few_shot, few_shot.few_shot, {}),
    }
    fits = {name: (fit, options) for name, (wanted, fit, options) in probes.items() if wanted}
    if not fits or not test_set.has_train:
        return {}
    labels = held_out_split.load_held_out(test_set.directory, test_sets.TRAIN).labels
    if len(np.unique(labels[labels >= 0])) < 2:
        return {}
    features = embed(test_set, test_sets.TRAIN, encoder=encoder, config=config)
    LOGGER.info("%s: fitting %s", test_set.name, " and ".join(fits))
    given = {"labels": labels, "test_features": embeddings, "test_labels": test.labels}
    return {name: fit(features, **given, **options) for name, (fit, options) in fits.items()}
