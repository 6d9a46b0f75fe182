# SPDX-License-Identifier: Apache-2.0
"""Final evaluation of a run: `embeddings.npz`, `results.json`, `report.html` and the table."""

import json
import logging
import pathlib
import time
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from mrd_jax import atomic_io, report
from mrd_jax.data import source
from mrd_jax.evaluation import baselines, held_out_split, results
from mrd_jax.evaluation.evaluator import Evaluator
from mrd_jax.report import relations

LOGGER = logging.getLogger(__name__)

# Embeddings of both splits, for further measurements on frozen features.
EMBEDDINGS_FILE = "embeddings.npz"
RESULTS_FILE = "results.json"


def write_results(evaluator: Evaluator, variables: dict[str, Any], *, workdir: str) -> None:
    """Evaluates the student and writes `embeddings.npz`, `results.json`, `report.html` and the table.

    Every process embeds; process 0 writes.

    Args:
      evaluator: evaluator of the run.
      variables: `params` and `batch_stats` of the student, on the devices.
      workdir: folder of the run.
    """
    started = time.perf_counter()
    gallery, gallery_embeddings = gallery_of(evaluator, variables)
    embeddings = evaluator.embed(variables, evaluator.records)
    if jax.process_index() != 0:
        return
    folder = pathlib.Path(workdir)
    saved: dict[str, Any] = {"test": embeddings, "test_ids": evaluator.held_out.ids}
    if gallery is not None:
        saved |= {"train": gallery_embeddings, "train_ids": gallery.ids}
    atomic_io.write_npz(folder / EMBEDDINGS_FILE, **saved)
    lines = baselines.measure(
        evaluator.directory,
        held_out=evaluator.held_out,
        train_split=None if gallery is None else evaluator.config.data.train_split,
        test_split=evaluator.config.data.test_split,
    )
    student = results.from_embeddings(
        embeddings,
        name=results.STUDENT,
        held_out=evaluator.held_out,
        summary="the trained 3D encoder, from points alone",
    )
    lines = baselines.with_student(lines, student)
    described = json.dumps(as_json(lines, evaluator.config), indent=1)
    atomic_io.write_text(folder / RESULTS_FILE, described)
    page = report.write_report(
        folder,
        held_out=evaluator.held_out,
        embeddings=embeddings,
        results=lines,
        gallery=gallery,
        gallery_embeddings=gallery_embeddings,
        tracked=relations.track(evaluator.held_out, evaluator.config.loss),
    )
    print(report.format_table(lines))
    LOGGER.info("evaluation: %.0f s", time.perf_counter() - started)
    LOGGER.info("wrote %s and %s", folder / RESULTS_FILE, page)


def gallery_of(
    evaluator: Evaluator, variables: dict[str, Any]
) -> tuple[held_out_split.HeldOut | None, np.ndarray | None]:
    """The training shapes and their embeddings.

    None for a run that is tested on another set, and for one that left out damaged records: what is
    measured on the others would look like a figure of the whole split.
    """
    data = evaluator.config.data
    if data.test_directory:
        return None, None
    records = source.open_split(data.directory, data.train_split)
    # Every process looks at every record, so that all of them decide alike.
    if data.corrupt_records and (error := source.first_corrupt(records)):
        LOGGER.warning("nothing is measured on the training split, which is damaged: %s", error)
        return None, None
    embeddings = evaluator.embed(variables, records)
    return held_out_split.load_held_out(data.directory, data.train_split), embeddings


def load_embeddings(workdir: str | pathlib.Path) -> dict[str, np.ndarray]:
    """Reads what `write_results` saved of a run.

    Args:
      workdir: of the run.

    Returns:
      test float32 [test, dim] and train float32 [train, dim], unit norm, and the shapes' ids in
      their order, test_ids [test] and train_ids [train]. The training split is there unless the
      run was tested on another data set (`config.data.test_directory`).

    Raises:
      FileNotFoundError: the run has not been evaluated.
    """
    path = pathlib.Path(workdir) / EMBEDDINGS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: run `python -m mrd_jax.main --mode eval` with the run's config "
            "and this workdir"
        )
    with np.load(path) as file:
        return dict(file)


def as_json(lines: Sequence[results.Result], config: FrozenConfigDict) -> dict[str, Any]:
    """The results file: what every method reached, shape by shape, and the config it belongs to.

    Args:
      lines: of the table.
      config: of the run.

    Returns:
      {"config": ..., "results": [{"name", "summary", "metrics", "correct", "retrieval"}, ...]}.
    """
    return {
        "config": json.loads(config.to_json()),
        "results": [line.as_dict() for line in lines],
    }
