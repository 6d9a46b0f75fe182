# SPDX-License-Identifier: Apache-2.0
"""From a student's variables to its embeddings and its figures on the held-out split."""

import functools
import json
import logging
import pathlib
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from mrd_jax import hosts, report, step
from mrd_jax.data import source
from mrd_jax.evaluators import baselines, held_out, results, retrieval, zero_shot
from mrd_jax.report import relations

if TYPE_CHECKING:
    from mrd_jax import train

LOGGER = logging.getLogger(__name__)

# What the student makes of both splits, for whatever else is to be measured on frozen features.
EMBEDDINGS_FILE = "embeddings.npz"


class Measured(NamedTuple):
    """One evaluation.

    Attributes:
      values: metrics by name.
      embeddings: [count, dim] of the held-out split.
    """

    values: dict[str, float]
    embeddings: np.ndarray


class Evaluator:
    """Embeds the held-out split with whatever variables it is given, and measures.

    The teacher's side of the split is read once; points are read at every evaluation, since a
    split may be larger than memory.
    """

    def __init__(self, run: "train.Run"):
        """Opens the split that `config.data` names.

        Args:
          run: what the config built.

        Raises:
          ValueError: there is no such split, or `config.data.test_directory` does not fit the run.
        """
        data = run.config.data
        self._run = run
        self.config = run.config
        self.directory = data.test_directory or data.directory
        if data.test_directory:
            source.check_test_set(data.test_directory, run.config)
        fingerprint = source.fingerprint(source.read_metadata(self.directory))
        hosts.require_same({"test set": fingerprint})
        self.records = source.open_split(self.directory, data.test_split)
        self.held_out = held_out.load_held_out(self.directory, data.test_split)
        if data.test_directory:
            self.held_out = held_out.without_unseen(self.held_out)
        self.watched = relations.Watched(
            self.held_out,
            teacher_temperature=run.config.loss.teacher_temperature,
            student_temperature=run.config.loss.student_temperature,
        )
        self._body = run.runner.embed(
            functools.partial(step.embed_step, model=run.model, config=run.config)
        )

    def embed(self, variables: dict[str, Any], records: source.RecordSource) -> np.ndarray:
        """Embeds every record of a split, over all devices of all processes.

        Args:
          variables: of the student, on the devices.
          records: of the split.

        Returns:
          [records, dim] float32, unit norm, in the order of the split.
        """
        rows = [
            self._run.runner.gather(self._body(variables, self._run.runner.place_batch(batch)))
            for batch in self._batches(records)
        ]
        return np.concatenate(rows)[: len(records)]

    def run(self, variables: dict[str, Any]) -> Measured:
        """Zero-shot and retrieval figures of the held-out split, as `test/...` metrics.

        Without the retrieval by class: it takes minutes on Objaverse-LVIS, and `write_results`
        measures it once at the end.
        """
        embeddings = self.embed(variables, self.records)
        return Measured(measure(embeddings, self.held_out), embeddings)

    def _batches(self, records: source.RecordSource) -> Iterator[dict[str, np.ndarray]]:
        """This process's rows of each global batch; the last one repeats its last record."""
        size = self.config.batch_size
        local = size // jax.process_count()
        for start in range(jax.process_index() * local, len(records) + size - 1, size):
            if start - jax.process_index() * local >= len(records):
                return
            rows = [records[min(i, len(records) - 1)] for i in range(start, start + local)]
            yield {name: np.stack([row[name] for row in rows]) for name in ("xyz", "rgb")}


def measure(embeddings: np.ndarray, shapes: held_out.HeldOut) -> dict[str, float]:
    """The values of `Evaluator.run`, of embeddings [count, dim], one per shape, in their order."""
    values = zero_shot.zero_shot(embeddings, shapes)
    found = retrieval.retrieval(embeddings, shapes, by_class=False)
    return {f"test/{name}": value for name, value in values.items()} | {
        f"test/retrieval/{name}": value for name, value in found.items()
    }


def metric_names() -> list[str]:
    """What evaluations may report: what they do report of a shape of which everything is known."""
    feature = np.ones((1, 1), np.float32)
    shape = {
        "id": "shape", "name": "name", "label": 0, "picture": "", "creator": "", "licence": "",
        "image_features": feature, "text_features": feature, "caption_kinds": ["name"],
    }  # fmt: skip
    shapes = held_out.collect(
        [shape],
        class_names=("class",),
        class_features=feature,
        unseen_ids=["shape"],
        pictures=pathlib.Path(),
    )
    return sorted(measure(feature, shapes))


def write_results(evaluator: Evaluator, variables: dict[str, Any], *, workdir: str) -> None:
    """Evaluates once more and writes `embeddings.npz`, `results.json`, `report.html` and the table.

    Every process embeds; process 0 writes.

    Args:
      evaluator: of the run.
      variables: of the student, on the devices.
      workdir: of the run.
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
    np.savez(folder / EMBEDDINGS_FILE, **saved)
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
    (folder / "results.json").write_text(json.dumps(as_json(lines, evaluator.config), indent=1))
    page = report.write_report(
        folder,
        held_out=evaluator.held_out,
        embeddings=embeddings,
        results=lines,
        gallery=gallery,
        gallery_embeddings=gallery_embeddings,
        watched=evaluator.watched,
    )
    print(report.format_table(lines))
    LOGGER.info("evaluation: %.0f s", time.perf_counter() - started)
    LOGGER.info("wrote %s and %s", folder / "results.json", page)


def gallery_of(
    evaluator: Evaluator, variables: dict[str, Any]
) -> tuple[held_out.HeldOut | None, np.ndarray | None]:
    """The training shapes and their embeddings.

    None for a run that is tested on another set, and for one that left out damaged records: what is
    measured on the others would look like a figure of the whole split.
    """
    data = evaluator.config.data
    if data.test_directory:
        return None, None
    records = source.open_split(data.directory, data.train_split)
    # Every process looks at every record, so that all of them decide alike.
    if data.damaged_records and (error := source.first_damaged(records)):
        LOGGER.warning("nothing is measured on the training split, which is damaged: %s", error)
        return None, None
    embeddings = evaluator.embed(variables, records)
    return held_out.load_held_out(data.directory, data.train_split), embeddings


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
