# SPDX-License-Identifier: Apache-2.0
"""Two or more runs on one page: their curves over one another, their results side by side."""

import dataclasses
import json
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from mrd_jax.checkpoints import run_identity
from mrd_jax.evaluation import history, results, table
from mrd_jax.evaluation.metrics import statistics
from mrd_jax.report import figures, final, templates


@dataclasses.dataclass(frozen=True)
class FinishedRun:
    """What is compared of a run.

    Attributes:
      name: on the page.
      curves: as `history.read_metrics` returns.
      student: its line of the results.
      config: {"loss.relation": "similarity", ...}.
      ids: of the held-out shapes, in the order of the split.
    """

    name: str
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]]
    student: results.Result
    config: Mapping[str, object]
    ids: tuple[str, ...]


def read(workdir: pathlib.Path, *, name: str) -> FinishedRun:
    """Reads what a finished run has left.

    Args:
      workdir: of the run.
      name: on the page.

    Raises:
      FileNotFoundError: the run has not been evaluated.
      ValueError: a file of it is damaged; names it.
    """
    path = workdir / "results.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} is missing: let the run end, or run `python -m mrd_jax.main --mode eval` with "
            "its config and workdir"
        )
    try:
        saved = json.loads(path.read_text("utf-8"))
        lines = [results.from_dict(line) for line in saved["results"]]
        (student,) = (line for line in lines if line.name == results.STUDENT)
        config = run_identity.flatten(saved["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is damaged ({error}); evaluate the run again") from error
    curves = workdir / history.FILE
    ids = tuple(final.load_embeddings(workdir)["test_ids"].tolist())
    measured = history.read_metrics(curves) if curves.is_file() else {}
    return FinishedRun(name, measured, student, config, ids)


def write_comparison(runs: Sequence[FinishedRun], *, output: pathlib.Path) -> pathlib.Path:
    """Writes one page that needs no other file and no network.

    Args:
      runs: two or more; the others are tested against the first.
      output: file to write.

    Raises:
      ValueError: fewer than two runs, or two of one name.
    """
    names = [run.name for run in runs]
    if len(runs) < 2 or len(set(names)) < len(names):
        raise ValueError(f"found runs {names}; expected two or more, each with a name of its own")
    page = templates.load("comparison.html").render(
        names=names,
        headings=table.headings(),
        results=[
            table.cells(dataclasses.replace(run.student, name=run.name, summary="")) for run in runs
        ],
        measured=runs[0].student.metrics,
        same_set=len({run.ids for run in runs}) == 1,
        tests=tests(runs),
        differences=differences(runs),
        curves=figures.overlays({run.name: run.curves for run in runs}),
    )
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(page, "utf-8")
    return output


def tests(runs: Sequence[FinishedRun]) -> dict[str, statistics.Comparison]:
    """Every other run against the first, shape by shape, where both saw the same shapes."""
    first, *others = runs
    return {
        other.name: statistics.mcnemar([_correct(first)], [_correct(other)])
        for other in others
        if other.ids == first.ids
    }


def _correct(run: FinishedRun) -> np.ndarray:
    return np.asarray(run.student.correct, dtype=bool)


def differences(runs: Sequence[FinishedRun]) -> dict[str, list[object]]:
    """Fields of the config that change a result and differ: a value of each run, or None."""
    fields = {field for run in runs for field in run.config} - run_identity.NEUTRAL_FIELDS
    found = {field: [run.config.get(field) for run in runs] for field in sorted(fields)}
    return {
        field: values
        for field, values in found.items()
        if any(value != values[0] for value in values[1:])
    }
