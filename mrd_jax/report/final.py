# SPDX-License-Identifier: Apache-2.0
"""Final evaluation of a run: `embeddings.npz`, `results.json`, `report.html` and the table."""

import json
import logging
import time
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from mrd_jax import atomic_io, report, storage
from mrd_jax.data import source
from mrd_jax.evaluation import baselines, held_out_split, results
from mrd_jax.evaluation.evaluator import Evaluator
from mrd_jax.report import relations

LOGGER = logging.getLogger(__name__)

# Embeddings of both splits, for further measurements on frozen features.
EMBEDDINGS_FILE = "embeddings.npz"
RESULTS_FILE = "results.json"


class Embedded(NamedTuple):
    """A split with its embeddings.

    Attributes:
      shapes: annotations of the shapes.
      embeddings: float32 [count, dim], unit norm, in the order of the split.
    """

    shapes: held_out_split.HeldOut
    embeddings: np.ndarray


def write_results(
    evaluator: Evaluator, variables: dict[str, Any], *, workdir: storage.PathLike
) -> None:
    """Evaluates the student, writes the files of the final evaluation and prints the table.

    Every process embeds; process 0 writes.

    Args:
      evaluator: evaluator of the run.
      variables: `params` and `batch_stats` of the student, on the devices.
      workdir: folder of the run.
    """
    started = time.perf_counter()
    train = embed_training_split(evaluator, variables)
    test = Embedded(evaluator.held_out, evaluator.embed(variables, evaluator.records))
    if jax.process_index() != 0:
        return
    folder = storage.path(workdir)
    write_embeddings(folder, test=test, train=train)
    rows = measure(evaluator, test, train_split=train is not None)
    write_rows(folder, rows, config=evaluator.config)
    page = report.write_report(
        folder,
        held_out=test.shapes,
        embeddings=test.embeddings,
        results=rows,
        gallery=train.shapes if train else None,
        gallery_embeddings=train.embeddings if train else None,
        tracked=relations.track(test.shapes, evaluator.config.loss),
    )
    print(report.format_table(rows))
    LOGGER.info("final evaluation took %.0f s", time.perf_counter() - started)
    LOGGER.info("wrote %s and %s", folder / RESULTS_FILE, page)


def embed_training_split(evaluator: Evaluator, variables: dict[str, Any]) -> Embedded | None:
    """Embeds the training split, which baselines are fitted to and neighbours are looked up in.

    Args:
      evaluator: evaluator of the run.
      variables: `params` and `batch_stats` of the student, on the devices.

    Returns:
      The embedded split, or `held_out_split.training_subset` of it; None for a run that is tested
      on another data set, and for a split with corrupt records: metrics on the others would be
      mistaken for metrics on the whole split.
    """
    data = evaluator.config.data
    if data.test_directory:
        return None
    records = source.open_split(data.directory, data.train_split)
    indices = held_out_split.training_subset(len(records))
    if len(indices) < len(records):
        LOGGER.info(
            "embedding a random %d of the %d training shapes, for nearest neighbours and baselines",
            len(indices),
            len(records),
        )
    # Every process reads every record, so that all of them come to the same decision.
    if data.corrupt_records and (error := source.find_corrupt_record(records, indices)):
        LOGGER.warning(
            "skipped all measurements on the training split, which has corrupt records: %s", error
        )
        return None
    embeddings = evaluator.embed(variables, records, indices)
    shapes = held_out_split.load_held_out(data.directory, data.train_split, indices=indices)
    return Embedded(shapes, embeddings)


def measure(evaluator: Evaluator, test: Embedded, *, train_split: bool) -> list[results.Result]:
    """Measures the student and the baselines on the held-out split.

    Args:
      evaluator: evaluator of the run.
      test: held-out split.
      train_split: measure the baselines that are fitted to the training split, too.

    Returns:
      Rows of the results table.
    """
    data = evaluator.config.data
    rows = baselines.measure(
        evaluator.directory,
        held_out=test.shapes,
        train_split=data.train_split if train_split else None,
        test_split=data.test_split,
    )
    student = results.from_embeddings(
        test.embeddings,
        name=results.STUDENT,
        held_out=test.shapes,
        summary="The trained 3D encoder, from points alone.",
    )
    return baselines.with_student(rows, student)


def write_embeddings(folder: storage.Path, *, test: Embedded, train: Embedded | None) -> None:
    """Writes `EMBEDDINGS_FILE` atomically; `load_embeddings` reads it.

    Args:
      folder: folder of the run.
      test: held-out split.
      train: training split, if it was embedded.
    """
    arrays: dict[str, Any] = {"test": test.embeddings, "test_ids": test.shapes.ids}
    if train is not None:
        arrays |= {"train": train.embeddings, "train_ids": train.shapes.ids}
    atomic_io.write_npz(folder / EMBEDDINGS_FILE, **arrays)


def load_embeddings(workdir: storage.PathLike) -> dict[str, np.ndarray]:
    """Reads the embeddings that `write_embeddings` saved.

    Args:
      workdir: folder of the run.

    Returns:
      `test`, float32 [test, dim], and `train`, float32 [train, dim], unit norm; and the ids of
      their shapes in the same order, `test_ids` [test] and `train_ids` [train]. `train` and
      `train_ids` are missing if the run was tested on another data set
      (`config.data.test_directory`) or its training split has corrupt records.

    Raises:
      FileNotFoundError: the run has not been evaluated.
    """
    path = storage.path(workdir) / EMBEDDINGS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: run `python -m mrd_jax.main --mode eval` with the run's config "
            "and this workdir"
        )
    return storage.read_arrays(path)


def write_rows(
    folder: storage.Path, rows: Sequence[results.Result], *, config: FrozenConfigDict
) -> None:
    """Writes `RESULTS_FILE` atomically: the config of the run and the rows of the results table.

    The file is {"config": ..., "results": [{"name", "summary", "metrics", "correct",
    "retrieval"}, ...]}.

    Args:
      folder: folder of the run.
      rows: rows of the results table.
      config: config of the run.
    """
    content = {
        "config": json.loads(config.to_json()),
        "results": [row.as_dict() for row in rows],
    }
    atomic_io.write_text(folder / RESULTS_FILE, json.dumps(content, indent=1))
