# SPDX-License-Identifier: Apache-2.0
"""Comparison page of two or more runs: results, significance tests, settings and curves."""

import dataclasses
import json
from collections.abc import Mapping, Sequence

import numpy as np

from mrd_jax import atomic_io, pages, storage
from mrd_jax.checkpoints import run_identity
from mrd_jax.evaluation import history, results, table
from mrd_jax.evaluation.metrics import statistics
from mrd_jax.report import figures, final


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """A run as read from its workdir.

    Attributes:
      name: name of the run on the page.
      curves: metrics as `history.read_metrics` returns them.
      student: row of the student in the results table.
      config: config values by dotted field name, such as {"loss.relation": "similarity"}.
      ids: ids of the held-out shapes, in the order of the split.
    """

    name: str
    curves: figures.Curves
    student: results.Result
    config: Mapping[str, object]
    ids: tuple[str, ...]


def read_run(workdir: storage.Path, *, name: str) -> FinishedRun:
    """Reads the results, curves and config of a finished run.

    Args:
      workdir: folder of the run.
      name: name of the run on the page.

    Raises:
      FileNotFoundError: the run has not been evaluated.
      ValueError: a file of the run is corrupt; the message names it.
    """
    path = workdir / final.RESULTS_FILE
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: let the run end, or run `python -m mrd_jax.main --mode eval` with "
            "its config and workdir"
        )
    try:
        content = json.loads(path.read_text())
        rows = [results.from_dict(row) for row in content["results"]]
        (student,) = (row for row in rows if row.name == results.STUDENT)
        config = run_identity.flatten(content["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is corrupt ({error}); evaluate the run again") from error
    metrics_file = workdir / history.FILE
    curves = history.read_metrics(metrics_file) if metrics_file.is_file() else {}
    ids = tuple(final.load_embeddings(workdir)["test_ids"].tolist())
    return FinishedRun(name, curves, student, config, ids)


def write_comparison(runs: Sequence[FinishedRun], *, output: storage.Path) -> storage.Path:
    """Writes a page that needs no other files and no network.

    Args:
      runs: two or more runs; the others are tested against the first.
      output: file to write.

    Returns:
      `output`.

    Raises:
      ValueError: there are fewer than two runs, or two have the same name.
    """
    names = [run.name for run in runs]
    if len(runs) < 2 or len(set(names)) < len(names):
        raise ValueError(f"found runs {names}; expected two or more, each with a name of its own")
    page = pages.load("mrd_jax.report", "comparison.html").render(
        names=names,
        headings=table.headings(),
        intervals=table.describe_intervals([run.student for run in runs]),
        results=[table.cells(dataclasses.replace(run.student, name=run.name)) for run in runs],
        measured=runs[0].student.metrics,
        same_set=len({run.ids for run in runs}) == 1,
        tests=compare_with_first(runs),
        differences=differing_settings(runs),
        curves=figures.draw_overlays({run.name: run.curves for run in runs}),
    )
    storage.make_folder(output.parent)
    atomic_io.write_text(output, page)
    return output


def compare_with_first(runs: Sequence[FinishedRun]) -> dict[str, statistics.Comparison]:
    """Compares every other run on the same held-out shapes with the first by a paired test."""
    first, *others = runs
    return {
        other.name: statistics.mcnemar([_correct(first)], [_correct(other)])
        for other in others
        if other.ids == first.ids
    }


def differing_settings(runs: Sequence[FinishedRun]) -> dict[str, list[object]]:
    """Returns the config fields that differ and can change results, with a value per run.

    The value of a run without the field is None.
    """
    fields = {field for run in runs for field in run.config} - run_identity.NEUTRAL_FIELDS
    values = {field: [run.config.get(field) for run in runs] for field in sorted(fields)}
    return {
        field: by_run
        for field, by_run in values.items()
        if any(value != by_run[0] for value in by_run[1:])
    }


def _correct(run: FinishedRun) -> np.ndarray:
    return np.asarray(run.student.correct, dtype=bool)
