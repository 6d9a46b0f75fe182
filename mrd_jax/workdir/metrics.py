# SPDX-License-Identifier: Apache-2.0
"""Where a run's numbers go: JSON lines, TensorBoard, and one line for people."""

import json
import math
import time
from collections.abc import Mapping

import numpy as np
import tensorboardX
from etils import epath

from mrd_jax.faults import whole_files
from mrd_jax.workdir import history


class MetricWriter:
    """Writes `WORKDIR/metrics.jsonl` and TensorBoard events; only process 0 makes one.

    A line is {"step": s, name: value, ...}. Training metrics of step s were computed by the update
    that led to state s; evaluations were computed on state s.
    """

    def __init__(self, workdir: str, *, start_step: int, evaluated: bool = True):
        """Opens the files for a run that continues at `start_step`.

        Lines beyond it come from updates that the checkpoint does not hold; they will be computed
        again, so they are dropped here.

        Args:
          workdir: of the run.
          start_step: that the run continues at.
          evaluated: whether the evaluation of that very step has been done for good; otherwise
            its lines are dropped, too.
        """
        self._path = epath.Path(workdir) / history.FILE
        kept = []
        if self._path.exists():
            for line in self._path.read_text().splitlines():
                # A line cut by a crash can only be the last, and belongs to a step not saved.
                if not line.endswith("}"):
                    continue
                values = json.loads(line)
                owed = not evaluated and any(name.startswith("test/") for name in values)
                if values["step"] < start_step + (not owed):
                    kept.append(line + "\n")
        whole_files.write_text(self._path, "".join(kept))
        self._board = tensorboardX.SummaryWriter(
            str(epath.Path(workdir) / "tensorboard"), purge_step=start_step + 1
        )

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line; values are Python floats or ints."""
        # json has no NaN: a number that is not finite is written as its name.
        line = {k: v if math.isfinite(v) else str(v) for k, v in values.items()}
        with self._path.open("a") as file:
            file.write(json.dumps({"step": step, **line}) + "\n")
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()

    def pictures(self, step: int, pictures: Mapping[str, np.ndarray]) -> None:
        """Writes pictures, uint8 [height, width, 3], to TensorBoard."""
        for name, pixels in pictures.items():
            self._board.add_image(name, pixels, step, dataformats="HWC")
        self._board.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._board.close()


class Stopwatch:
    """Rates of the loop between two metric lines."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Forgets everything so far: compilation and evaluation are not part of the rates."""
        self._since, self._waited, self._steps = time.perf_counter(), 0.0, 0

    def step(self, *, waited: float) -> None:
        """Counts one step, for whose batch the loop stood still for `waited` seconds."""
        self._waited += waited
        self._steps += 1

    def lap(self, *, batch_size: int) -> dict[str, float]:
        """Samples per second, and the share of time waiting for data, since the last lap."""
        seconds = time.perf_counter() - self._since
        rates = {
            "train/samples_per_second": self._steps * batch_size / seconds,
            "train/waiting_for_data": self._waited / seconds,
        }
        self.restart()
        return rates


def progress_line(step: int, total_steps: int, values: Mapping[str, float]) -> str:
    """One line that a person can read, such as `step 40/600  loss 5.1  ...`."""
    shown = {
        "loss": "train/total",
        "contrastive": "train/contrastive",
        "intra": "train/intra",
        "image": "train/image",
        "text": "train/text",
        "|g|": "train/grad_norm",
        "lr": "train/learning_rate",
        "samples/s": "train/samples_per_second",
        "waiting": "train/waiting_for_data",
        "on process": "train/waiting_process",
    }
    parts = [f"{label} {values[name]:.3g}" for label, name in shown.items() if name in values]
    return "  ".join([f"step {step}/{total_steps}", *parts])
