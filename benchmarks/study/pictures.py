# SPDX-License-Identifier: Apache-2.0
"""Draws the relations of the teacher and of the students of finished runs of the study.

python -m benchmarks.study.pictures --output docs/images/study_relations.png \
    --runs runs/study/relations/{contrastive,mrd_lambda_1,lambda_0_1}_1_050_steps_0 \
    --titles contrastive "lambda 1" "lambda 0.1"

The runs must have the same held-out split. Each row of a matrix is the softmax of a shape's
similarities to the others; the shades are square roots.
"""

import json
import pathlib
import sys
from collections.abc import Sequence

import matplotlib
import numpy as np

from benchmarks.study import worker
from mrd_jax import storage
from mrd_jax.cli import command
from mrd_jax.evaluation import held_out_split
from mrd_jax.report import figures, relations

# Temperature of all relations.
TEMPERATURE = 0.1


@command.reports_errors
def main(arguments: Sequence[str] | None = None) -> None:
    """Writes the picture, and prints how far each student is from the teacher."""
    parser = command.Parser(__doc__, prog="python -m benchmarks.study.pictures")
    add = parser.add_argument
    add("--runs", nargs="+", required=True, type=pathlib.Path, help="workdirs")
    add("--titles", nargs="+", required=True, help="title of each run")
    add("--output", required=True, type=pathlib.Path, help="PNG file to write")
    options = parser.parse_args(arguments)
    if len(options.titles) != len(options.runs):
        parser.error(f"{len(options.titles)} titles for {len(options.runs)} runs")
    tracked, students = read(options.runs)
    panels = tracked.panels(dict(zip(options.titles, students, strict=True)))
    with matplotlib.rc_context(figures.STYLE):
        tracked.draw_panels(panels).savefig(options.output, dpi=110)
    for title, student in zip(options.titles, students, strict=True):
        distance = round(tracked.distance(student), 3)
        print(json.dumps({"run": title, "total_variation": distance}))


def read(runs: Sequence[pathlib.Path]) -> tuple[relations.TrackedShapes, list[np.ndarray]]:
    """Reads the relations of runs between the same held-out shapes.

    Args:
      runs: workdirs of finished runs.

    Returns:
      The shapes with the teacher's relation, and each student's, [tracked, tracked].

    Raises:
      FileNotFoundError: a workdir is not that of a finished run.
      ValueError: a run was measured on other shapes than the first, or too few have a class.
    """
    specs = [worker.Spec(**json.loads((run / "spec.json").read_text("utf-8"))) for run in runs]
    held_out = held_out_split.load_held_out(specs[0].data, specs[0].split)
    tracked = relations.TrackedShapes(
        held_out, teacher_temperature=TEMPERATURE, student_temperature=TEMPERATURE
    )
    if not tracked:
        raise ValueError(f"{specs[0].data} has fewer than two labelled shapes with a picture")
    students = []
    for run in runs:
        arrays = storage.read_arrays(run / worker.EMBEDDINGS_FILE)
        if arrays["ids"].tolist() != list(held_out.ids):
            raise ValueError(f"{run} was measured on other shapes than {runs[0]}")
        students.append(tracked.student(arrays["rows"][tracked.positions].astype(np.float32)))
    return tracked, students


if __name__ == "__main__":
    sys.exit(main())
