# SPDX-License-Identifier: Apache-2.0
"""How a run's relations come to resemble the teacher's: the same few shapes at every evaluation."""

import io
from typing import NamedTuple

import matplotlib
import numpy as np
from etils import epath
from matplotlib import figure as mpl_figure
from ml_collections import ConfigDict

from mrd_jax import atomic_io
from mrd_jax.evaluation import held_out_split
from mrd_jax.report import figures

# Folder of a workdir with one file per evaluation.
FOLDER = "relations"
# Shapes that are tracked, and how many of one class: a matrix that can still be read.
MOST, MOST_OF_A_CLASS = 40, 8
# Evaluations in the figure, spread over those there are.
SHOWN = 4
# Side of an entry in TensorBoard's pictures.
PIXELS = 6


class Snapshot(NamedTuple):
    """What the student made of the tracked shapes.

    Attributes:
      step: of the run.
      rows: float32 [tracked, dim], unit norm.
    """

    step: int
    rows: np.ndarray


def relation(rows: np.ndarray, *, temperature: float) -> np.ndarray:
    """R_ij = softmax over j != i of x_i . x_j / temperature, the intra relation of the method.

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
      config: `config.loss` of the run; reads the two temperatures.
    """
    return TrackedShapes(
        held_out,
        teacher_temperature=config.teacher_temperature,
        student_temperature=config.student_temperature,
    )


class TrackedShapes:
    """A fixed choice of held-out shapes, and their relations as the teacher sees them.

    Attributes:
      positions: int64 [tracked], in the split, sorted by class; shapes without image are left out.
      teacher: float64 [tracked, tracked], R^VV.
    """

    def __init__(
        self,
        held_out: held_out_split.HeldOut,
        *,
        teacher_temperature: float,
        student_temperature: float,
    ):
        """Chooses the shapes: of the most frequent classes, a few of each.

        Args:
          held_out: the split.
          teacher_temperature: of R^VV.
          student_temperature: of R^PP; a learnt one is drawn at its initial value.
        """
        self.positions = _choose(held_out)
        self._ids = [held_out.ids[i] for i in self.positions]
        self._classes = [held_out.class_names[held_out.labels[i]] for i in self.positions]
        self._temperature = student_temperature
        rows = held_out.image_features[self.positions]
        rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
        self.teacher = relation(rows, temperature=teacher_temperature)

    def __bool__(self) -> bool:
        """Whether there are shapes enough to relate."""
        return len(self.positions) > 0

    def student(self, rows: np.ndarray) -> np.ndarray:
        """R^PP of the tracked shapes' embeddings [tracked, dim]; [tracked, tracked]."""
        return relation(rows, temperature=self._temperature)

    def save(self, workdir: str, *, step: int, embeddings: np.ndarray) -> None:
        """Keeps the tracked shapes' embeddings of one evaluation, to be drawn at the end.

        Args:
          workdir: of the run.
          step: that was evaluated.
          embeddings: [count, dim] of the whole split.
        """
        rows = embeddings[self.positions].astype(np.float16)
        path = epath.Path(workdir) / FOLDER / f"{step}.npz"
        atomic_io.write_npz(path, rows=rows, ids=np.asarray(self._ids))

    def read(self, workdir: str) -> list[Snapshot]:
        """What was saved of exactly these shapes, in the order of the steps."""
        found = []
        for path in (epath.Path(workdir) / FOLDER).glob("*.npz"):
            with np.load(io.BytesIO(path.read_bytes())) as file:
                if file["ids"].tolist() == self._ids:
                    found.append(Snapshot(int(path.stem), file["rows"].astype(np.float32)))
        return sorted(found, key=lambda snapshot: snapshot.step)

    def pictures(self, embeddings: np.ndarray) -> dict[str, np.ndarray]:
        """Teacher, student and difference as pictures for TensorBoard.

        Args:
          embeddings: [count, dim] of the whole split.

        Returns:
          uint8 [side, side, 3] by name.
        """
        student = self.student(embeddings[self.positions])
        most = max(self.teacher.max(), student.max())
        shades = {"teacher": self.teacher / most, "student": student / most}
        drawn = {name: _pixels(shade, "viridis") for name, shade in shades.items()}
        return drawn | {"difference": _pixels(0.5 + (student - self.teacher) / (2 * most), "RdBu")}

    def draw(self, snapshots: list[Snapshot]) -> figures.Figure:
        """The teacher's matrix, the student's over time, and what is left between them.

        Args:
          snapshots: one or more, as `read` gives them.
        """
        places = np.linspace(0, len(snapshots) - 1, min(SHOWN, len(snapshots)))
        shown = [snapshots[i] for i in places.round().astype(int)]
        students = [self.student(snapshot.rows) for snapshot in shown]
        most = max(self.teacher.max(), *(student.max() for student in students))
        # Square roots: small entries can be told from none.
        panels = [("teacher, images", self.teacher**0.5, "viridis", 0.0, most**0.5)]
        panels += [
            (f"student, step {snapshot.step}", student**0.5, "viridis", 0.0, most**0.5)
            for snapshot, student in zip(shown, students, strict=True)
        ]
        panels.append(("student - teacher", students[-1] - self.teacher, "RdBu", -most, most))
        gaps = [
            float(np.abs(student - self.teacher).sum(axis=1).mean() / 2) for student in students
        ]
        return figures.Figure(
            title="Relations over time",
            caption=f"How alike {len(self.positions)} held-out shapes are to one another, a row "
            "each, sorted by class: the softmax of their similarities at the temperatures of the "
            "objective, without the diagonal; shades are square roots. In the last panel red is "
            "what the teacher finds alike and the student not yet, blue the reverse.",
            alt="Mean total variation distance between the rows of student and teacher: "
            + ", ".join(
                f"{gap:.2f} at step {snapshot.step}"
                for gap, snapshot in zip(gaps, shown, strict=True)
            )
            + ".",
            source=self._canvas(panels),
        )

    def _canvas(self, panels: list[tuple[str, np.ndarray, str, float, float]]) -> str:
        starts = [
            i for i, name in enumerate(self._classes) if i == 0 or name != self._classes[i - 1]
        ]
        with matplotlib.rc_context(figures.STYLE):
            canvas = mpl_figure.Figure(figsize=(3.1 * len(panels) + 1, 3.6), layout="constrained")
            for number, (title, matrix, colours, low, high) in enumerate(panels):
                axes = canvas.add_subplot(1, len(panels), number + 1)
                axes.imshow(matrix, cmap=colours, vmin=low, vmax=high, interpolation="nearest")
                axes.set_title(title, fontsize=9)
                axes.set_xticks([])
                names = [self._classes[i] for i in starts] if number == 0 else []
                axes.set_yticks(starts if number == 0 else [], names, fontsize=7, va="top")
                axes.spines[:].set_visible(False)
            return figures.data_uri(canvas)


def _choose(held_out: held_out_split.HeldOut) -> np.ndarray:
    """Positions, class by class from the most frequent on; none where there are not two."""
    seen = held_out.image_features.any(axis=1) & (held_out.labels >= 0)
    labels, counts = np.unique(held_out.labels[seen], return_counts=True)
    chosen: list[int] = []
    for label in labels[np.argsort(-counts, kind="stable")]:
        members = np.flatnonzero(seen & (held_out.labels == label))[:MOST_OF_A_CLASS]
        chosen.extend(members[: MOST - len(chosen)])
    return np.asarray(chosen if len(chosen) > 1 else [], dtype=np.int64)


def _pixels(shade: np.ndarray, colours: str) -> np.ndarray:
    """Entries from 0 to 1 as squares of colour."""
    rgb = (255 * matplotlib.colormaps[colours](shade)[..., :3]).round().astype(np.uint8)
    return rgb.repeat(PIXELS, axis=0).repeat(PIXELS, axis=1)
