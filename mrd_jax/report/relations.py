# SPDX-License-Identifier: Apache-2.0
"""Relations over time: how the student's relations between a few shapes approach the teacher's.

The same held-out shapes are tracked at every evaluation of a run.
"""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib import figure as mpl_figure
from ml_collections import ConfigDict

from mrd_jax import atomic_io, storage
from mrd_jax.evaluation import held_out_split
from mrd_jax.losses import temperatures
from mrd_jax.report import figures

# Folder of the workdir with one file per evaluation.
FOLDER = "relations"
# Maximum numbers of tracked shapes, in total and per class, that keep a matrix readable.
MAX_SHAPES, MAX_SHAPES_PER_CLASS = 40, 8
# Maximum number of evaluations in the figure, evenly spaced over the run.
MAX_EVALUATIONS = 4
# Side of a matrix entry in the images for TensorBoard, in pixels.
PIXELS = 6


class Snapshot(NamedTuple):
    """Embeddings of the tracked shapes at one evaluation.

    Attributes:
      step: training step.
      rows: float32 [tracked, dim], unit norm.
    """

    step: int
    rows: np.ndarray


class Panel(NamedTuple):
    """A matrix of the figure, and the colours that it is drawn in."""

    title: str
    matrix: np.ndarray
    colour_map: str
    low: float
    high: float


def relation(rows: np.ndarray, *, temperature: float) -> np.ndarray:
    """Computes R_ij = softmax over j != i of x_i . x_j / temperature, the intra relation of MRD.

    Args:
      rows: [count, dim], unit norm.
      temperature: > 0.

    Returns:
      float64 [count, count], 0 on the diagonal; rows sum to 1.
    """
    logits = rows.astype(np.float64) @ rows.astype(np.float64).T / temperature
    np.fill_diagonal(logits, -np.inf)
    weights = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return weights / weights.sum(axis=1, keepdims=True)


def track(held_out: held_out_split.HeldOut, config: ConfigDict) -> "TrackedShapes":
    """Chooses the held-out shapes whose relations a run tracks.

    Args:
      held_out: held-out split.
      config: `config.loss` of the run, with the teacher's temperatures solved for.
    """
    teacher = config.teacher_temperature
    if "VV" in config.candidates.intra:
        teacher = temperatures.teacher_temperature(config, term="intra", target="VV")
    student = {
        "none": config.student_temperature,
        "contrastive": math.exp(-config.log_scale_init),
        "teacher": teacher,
    }[config.student_temperature_follows]
    return TrackedShapes(held_out, teacher_temperature=teacher, student_temperature=student)


class TrackedShapes:
    """A fixed choice of held-out shapes, and the teacher's relations between them.

    Its truth value is False if fewer than two shapes can be tracked.

    Attributes:
      positions: int64 [tracked], indices into the split, sorted by class; shapes without an image
        feature or a class are excluded.
      teacher: float64 [tracked, tracked], relation R^VV of the image features.
    """

    def __init__(
        self,
        held_out: held_out_split.HeldOut,
        *,
        teacher_temperature: float,
        student_temperature: float,
    ):
        """Chooses a few shapes of each of the most frequent classes.

        Args:
          held_out: held-out split.
          teacher_temperature: temperature of R^VV.
          student_temperature: temperature of R^PP; a learned one is drawn at its initial value.
        """
        self.positions = _choose(held_out)
        self._ids = [held_out.ids[i] for i in self.positions]
        self._classes = [held_out.class_names[held_out.labels[i]] for i in self.positions]
        self._temperature = student_temperature
        rows = held_out.image_features[self.positions]
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        self.teacher = relation(rows, temperature=teacher_temperature)

    def __bool__(self) -> bool:
        """Returns whether any shapes are tracked."""
        return len(self.positions) > 0

    def student(self, rows: np.ndarray) -> np.ndarray:
        """Computes the relation R^PP, [tracked, tracked], from embeddings [tracked, dim]."""
        return relation(rows, temperature=self._temperature)

    def distance(self, student: np.ndarray) -> float:
        """Returns the mean total variation distance of the rows to the teacher's, 0 to 1.

        Args:
          student: [tracked, tracked], as `student` returns it.
        """
        return float(np.abs(student - self.teacher).sum(axis=1).mean() / 2)

    def save(self, workdir: storage.PathLike, *, step: int, embeddings: np.ndarray) -> None:
        """Saves the embeddings of the tracked shapes at one evaluation.

        Args:
          workdir: folder of the run.
          step: training step.
          embeddings: [count, dim], embeddings of the whole split.
        """
        rows = embeddings[self.positions].astype(np.float16)
        path = storage.path(workdir) / FOLDER / f"{step}.npz"
        atomic_io.write_npz(path, rows=rows, ids=np.asarray(self._ids))

    def read(self, workdir: storage.PathLike) -> list[Snapshot]:
        """Reads the saved embeddings of exactly these shapes, in the order of the steps."""
        snapshots = []
        for path in (storage.path(workdir) / FOLDER).glob("*.npz"):
            arrays = storage.read_arrays(path)
            if arrays["ids"].tolist() == self._ids:
                snapshots.append(Snapshot(int(path.stem), arrays["rows"].astype(np.float32)))
        return sorted(snapshots, key=lambda snapshot: snapshot.step)

    def pictures(self, embeddings: np.ndarray) -> dict[str, np.ndarray]:
        """Draws the relations of teacher and student and their difference for TensorBoard.

        Args:
          embeddings: [count, dim], embeddings of the whole split.

        Returns:
          Images, uint8 [side, side, 3], by the names `teacher`, `student` and `difference`.
        """
        student = self.student(embeddings[self.positions])
        peak = max(self.teacher.max(), student.max())
        shades = {"teacher": self.teacher / peak, "student": student / peak}
        images = {name: _to_pixels(shade, "viridis") for name, shade in shades.items()}
        difference = 0.5 + (student - self.teacher) / (2 * peak)
        return images | {"difference": _to_pixels(difference, "RdBu")}

    def draw(self, snapshots: list[Snapshot]) -> figures.Figure:
        """Draws the teacher's matrix, the student's at several steps, and their last difference.

        Args:
          snapshots: one or more snapshots, as `read` returns them.
        """
        shown = [snapshots[i] for i in figures.evenly_spaced(len(snapshots), limit=MAX_EVALUATIONS)]
        students = [self.student(snapshot.rows) for snapshot in shown]
        peak = max(self.teacher.max(), *(student.max() for student in students))
        titles = [f"student, step {snapshot.step}" for snapshot in shown]
        panels = self.panels(dict(zip(titles, students, strict=True)))
        panels.append(Panel("student - teacher", students[-1] - self.teacher, "RdBu", -peak, peak))
        distances = [self.distance(student) for student in students]
        return figures.Figure(
            title="Relations over time",
            caption=f"Relations between {len(self.positions)} held-out shapes, sorted by class. "
            "Each row is the softmax of a shape's similarities to the others, at the temperature "
            "of the loss; the shades are square roots of the values. In the last panel, red marks "
            "pairs that are more similar to the teacher, blue pairs that are more similar to the "
            "student.",
            alt="Mean total variation distance between the rows of student and teacher (0: equal, "
            "1: disjoint): "
            + ", ".join(
                f"{distance:.2f} at step {snapshot.step}"
                for distance, snapshot in zip(distances, shown, strict=True)
            )
            + ".",
            source=figures.figure_uri(self.draw_panels(panels)),
        )

    def panels(self, students: Mapping[str, np.ndarray]) -> list[Panel]:
        """Returns the teacher's matrix and those of students, with the same shades.

        Args:
          students: [tracked, tracked] by title, as `student` returns them.
        """
        peak = max(matrix.max() for matrix in (self.teacher, *students.values())) ** 0.5
        # Square roots make small entries visible.
        return [
            Panel(title, matrix**0.5, "viridis", 0.0, peak)
            for title, matrix in {"teacher, images": self.teacher, **students}.items()
        ]

    def draw_panels(self, panels: Sequence[Panel]) -> mpl_figure.Figure:
        """Draws matrices between the tracked shapes side by side, with class names on the first.

        Args:
          panels: matrices [tracked, tracked].
        """
        starts = [
            i for i, name in enumerate(self._classes) if i == 0 or name != self._classes[i - 1]
        ]
        with matplotlib.rc_context(figures.STYLE):
            canvas = mpl_figure.Figure(figsize=(3.1 * len(panels) + 1, 3.6), layout="constrained")
            for number, panel in enumerate(panels):
                axes = canvas.add_subplot(1, len(panels), number + 1)
                axes.imshow(
                    panel.matrix,
                    cmap=panel.colour_map,
                    vmin=panel.low,
                    vmax=panel.high,
                    interpolation="nearest",
                )
                axes.set_title(panel.title, fontsize=9)
                axes.set_xticks([])
                names = [self._classes[i] for i in starts] if number == 0 else []
                axes.set_yticks(starts if number == 0 else [], names, fontsize=7, va="top")
                axes.spines[:].set_visible(False)
        return canvas


def _choose(held_out: held_out_split.HeldOut) -> np.ndarray:
    """Returns indices class by class, the most frequent class first; none for fewer than two."""
    usable = held_out.image_features.any(axis=1) & (held_out.labels >= 0)
    labels, counts = np.unique(held_out.labels[usable], return_counts=True)
    chosen: list[int] = []
    for label in labels[np.argsort(-counts, kind="stable")]:
        members = np.flatnonzero(usable & (held_out.labels == label))[:MAX_SHAPES_PER_CLASS]
        chosen.extend(members[: MAX_SHAPES - len(chosen)])
    return np.asarray(chosen if len(chosen) > 1 else [], dtype=np.int64)


def _to_pixels(shade: np.ndarray, colour_map: str) -> np.ndarray:
    """Draws entries between 0 and 1 as coloured squares."""
    rgb = (255 * matplotlib.colormaps[colour_map](shade)[..., :3]).round().astype(np.uint8)
    return rgb.repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)
