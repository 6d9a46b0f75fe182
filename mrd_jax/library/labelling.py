# SPDX-License-Identifier: Apache-2.0
"""Classes of embeddings: the nearest names of a list of any length, or those of a class head."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
import tqdm

from data_prep import teachers
from data_prep.teachers import prompts
from mrd_jax.encoder import ClassHead
from mrd_jax.library import class_names
from mrd_jax.search import shape_index

# Prompts of a name: those of the evaluation, or those of the search, which take an eighth of the
# time.
PROMPTS = {"evaluation": prompts.TEMPLATES, "search": prompts.NAME_TEMPLATES}
# Names that are embedded and scored at a time, and texts per call of the teacher.
NAMES_PER_CHUNK, TEXT_BATCH = 64, 64
# Shapes of an index that "none of these" is calibrated on.
_CALIBRATION_SHAPES = 4_096


@dataclasses.dataclass(frozen=True)
class Labels:
    """The best classes of each query, best first.

    Attributes:
      names: [queries][top] class names; fewer if there are fewer different names.
      scores: [queries][top] cosine similarities, or probabilities of a class head.
    """

    names: list[list[str]]
    scores: list[list[float]]

    def margins(self) -> list[float | None]:
        """Returns the difference of the two best scores; None for a single class."""
        return [row[0] - row[1] if len(row) > 1 else None for row in self.scores]


class NameEncoder:
    """Embeds the names of a list, a chunk at a time.

    Args:
      teacher: teacher of the encoder.
      classes: checked list of names.
      templates: key of `PROMPTS`.
    """

    def __init__(
        self, teacher: teachers.Teacher, classes: class_names.ClassList, *, templates: str
    ):
        self._teacher, self._classes = teacher, classes
        self._templates = PROMPTS[templates]

    def chunks(self) -> Iterator[tuple[list[str], np.ndarray]]:
        """Yields names and their features, float32 [names, dim] of unit norm."""
        with tqdm.tqdm(total=self._classes.count, desc="classes", unit="name") as bar:
            for names in self._classes.chunks(NAMES_PER_CHUNK):
                yield names, prompts.prompt_average(self._teacher, names, templates=self._templates)
                bar.update(len(names))


class TopClasses:
    """Keeps the best classes of queries while chunks of classes pass.

    Args:
      queries: [queries, dim], unit norm.
      count: number of classes to keep per query.
    """

    def __init__(self, queries: np.ndarray, *, count: int):
        self._queries = np.asarray(queries, np.float32)
        self._scores = np.full((len(queries), count), -np.inf, np.float32)
        # Numbers of names; 0 where there is no class yet.
        self._ids = np.zeros((len(queries), count), np.uint64)
        self._names: dict[int, str] = {}

    def add(self, names: Sequence[str], features: np.ndarray) -> None:
        """Adds a chunk of classes; a name that was added before has no effect.

        Args:
          names: class names.
          features: [names, dim], unit norm.
        """
        column: dict[int, int] = {}
        for position, name in enumerate(names):
            column.setdefault(class_names.fingerprint(name), position)
        ids = np.array([*column], np.uint64)
        scores = self._queries @ features[[*column.values()]].T
        # Few rows change once the best classes are found.
        rows = np.flatnonzero(scores.max(axis=1) > self._scores[:, -1])
        if not len(rows):
            return
        scores = scores[rows]
        # A name that occurs twice in the list would take the place of another class.
        repeated = (self._ids[rows][:, :, None] == ids).any(axis=1)
        scores = np.concatenate([self._scores[rows], np.where(repeated, -np.inf, scores)], axis=1)
        all_ids = np.concatenate([self._ids[rows], np.tile(ids, (len(rows), 1))], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self._scores.shape[1]]
        self._scores[rows] = np.take_along_axis(scores, best, axis=1)
        self._ids[rows] = np.take_along_axis(all_ids, best, axis=1)
        self._names |= {key: names[position] for key, position in column.items()}
        self._names = {key: self._names[key] for key in np.unique(self._ids).tolist() if key}

    def labels(self) -> Labels:
        """Returns the best classes of each query."""
        known = np.isfinite(self._scores)
        return Labels(
            [
                [self._names[key] for key in row[keep].tolist()]
                for row, keep in zip(self._ids, known, strict=True)
            ],
            [row[keep].tolist() for row, keep in zip(self._scores, known, strict=True)],
        )


class BestScores:
    """Best score of the shapes of an index among classes, while chunks of classes pass.

    Args:
      rows: [shapes, dim], unit norm.
    """

    def __init__(self, rows: np.ndarray):
        self._rows = np.asarray(rows, np.float32)
        self.scores = np.full(len(rows), -np.inf, np.float32)

    def add(self, features: np.ndarray) -> None:
        """Adds a chunk of classes [names, dim], unit norm."""
        np.maximum(self.scores, (self._rows @ features.T).max(axis=1), out=self.scores)


def calibration_rows(index: shape_index.ShapeIndex) -> np.ndarray:
    """Returns the embeddings of a random sample of the shapes of an index, float32 [n, dim]."""
    chosen = np.arange(len(index))
    if len(index) > _CALIBRATION_SHAPES:
        rng = np.random.default_rng(0)
        chosen = np.sort(rng.choice(len(index), _CALIBRATION_SHAPES, replace=False))
    return np.asarray(index.rows[chosen], np.float32)


def label(
    queries: np.ndarray, encoder: NameEncoder, *, count: int, calibration: np.ndarray
) -> tuple[Labels, np.ndarray]:
    """Finds the nearest classes of queries, in memory that does not depend on the list's length.

    Args:
      queries: [queries, dim], unit norm.
      encoder: embeds the class names.
      count: number of classes per query.
      calibration: [shapes, dim], embeddings of known shapes.

    Returns:
      The classes, and the best scores of the known shapes, float32 [shapes] in ascending order.
    """
    best = TopClasses(queries, count=count)
    known = BestScores(calibration)
    for names, features in encoder.chunks():
        best.add(names, features)
        known.add(features)
    return best.labels(), np.sort(known.scores)


def label_with_head(
    queries: np.ndarray, head: ClassHead, *, count: int, calibration: np.ndarray | None
) -> tuple[Labels, np.ndarray]:
    """Finds the most probable classes of queries.

    Args:
      queries: [queries, dim], unit norm.
      head: class head of the encoder.
      count: number of classes per query.
      calibration: [shapes, dim], embeddings of known shapes; None for none.

    Returns:
      As `label`.
    """
    chances = head.probabilities(queries)
    best = np.argsort(-chances, axis=1, kind="stable")[:, :count]
    labels = Labels(
        [[head.names[i] for i in row] for row in best],
        np.take_along_axis(chances, best, axis=1).tolist(),
    )
    if calibration is None:
        return labels, np.zeros(0, np.float32)
    return labels, np.sort(head.probabilities(calibration).max(axis=1))
