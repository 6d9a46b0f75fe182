# SPDX-License-Identifier: Apache-2.0
"""Writes metrics to JSON lines, to TensorBoard, to the tracker of the run and to the log."""

import contextlib
import json
import logging
import math
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent import futures
from typing import Any

import jax
import tensorboardX

from mrd_jax import atomic_io, storage, transfer
from mrd_jax.distributed import processes
from mrd_jax.evaluation import evaluator, history
from mrd_jax.report import relations
from mrd_jax.training import trackers

LOGGER = logging.getLogger(__name__)

# Seconds between uploads of the event file, which are whole: a bucket cannot append.
EVENTS_EVERY = 30


class MetricWriter:
    """Writes `WORKDIR/metrics.jsonl` and TensorBoard events on process 0; elsewhere nothing.

    A line is {"step": s, name: value, ...}. Training metrics of step s were computed by the update
    that led to state s; evaluations were computed on state s.

    A thread writes the files, because a write to a bucket takes a tenth of a second. `flush` waits
    for it. The loop calls `flush` before it saves a checkpoint, so that no checkpoint exists
    without the lines up to its step.
    """

    def __init__(
        self,
        workdir: storage.PathLike,
        *,
        start_step: int,
        tracked: relations.TrackedShapes | None = None,
        tracking: trackers.Tracking | None = None,
    ):
        """Opens the files of a run that continues at `start_step`.

        Lines of later steps come from updates that the checkpoint does not hold. They will be
        computed again and are dropped.

        Args:
          workdir: folder of the run.
          start_step: step that the run continues at.
          tracked: shapes whose relations are saved at every evaluation; None saves none.
          tracking: gets a copy of everything; None for none.
        """
        self._workdir = workdir
        self._tracked = tracked
        self._tracking = tracking or trackers.Tracking()
        self._board = None
        if jax.process_index() != 0:
            return
        self._path = storage.path(workdir) / history.FILE
        kept = ""
        if self._path.exists():
            kept = "".join(
                line + "\n"
                for line in history.complete_lines(self._path)
                if json.loads(line)["step"] <= start_step
            )
        atomic_io.write_text(self._path, kept)
        self._events = storage.path(workdir) / "tensorboard"
        self._local_events = transfer.scratch(self._events)
        self._board = tensorboardX.SummaryWriter(str(self._local_events), purge_step=start_step + 1)
        self._lock = threading.Lock()
        self._pending = ""
        self._published = time.monotonic()
        self._thread = futures.ThreadPoolExecutor(1, "metrics")

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Appends one line.

        Args:
          step: step of the run.
          values: Python numbers by name.
        """
        if self._board is None:
            return
        # JSON has no NaN: a non-finite value is written as its name.
        line = {k: v if math.isfinite(v) else str(v) for k, v in values.items()}
        with self._lock:
            self._pending += json.dumps({"step": step, **line}) + "\n"
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        self._board.flush()
        self._tracking.log(step, values)
        self._thread.submit(self._write_pending)

    def flush(self) -> None:
        """Waits until everything is written."""
        if self._board is None:
            return
        self._board.flush()
        self._thread.submit(self._write_pending, publish=True).result()

    def _write_pending(self, *, publish: bool = False) -> None:
        """Writes the lines that are not written yet; keeps them if that fails."""
        with self._lock:
            lines = self._pending
        if lines:
            storage.append_text(self._path, lines)
            with self._lock:
                self._pending = self._pending.removeprefix(lines)
        if publish or time.monotonic() - self._published > EVENTS_EVERY:
            transfer.mirror(self._local_events, self._events)
            self._published = time.monotonic()

    def write_progress(self, step: int, values: Mapping[str, float], *, total_steps: int) -> None:
        """Writes training metrics and logs the most important ones.

        Args:
          step: number of updates so far.
          values: metric values by name, such as "train/loss".
          total_steps: number of steps of the run.
        """
        self.write(step, values)
        if self._board is not None:
            LOGGER.info("%s", progress_line(step, total_steps, values))

    def write_evaluation(self, step: int, evaluation: evaluator.Evaluation) -> None:
        """Writes an evaluation and the relations of the tracked shapes.

        The metrics are written last: once they are in the file, the evaluation is complete and is
        not repeated after a restart.

        Args:
          step: step that was evaluated.
          evaluation: its metrics and embeddings.
        """
        if self._board is None:
            return
        if self._tracked:
            rows = evaluation.relation_embeddings
            self._tracked.save(self._workdir, step=step, embeddings=rows)
            drawn = self._tracked.pictures(rows)
            images = {f"relations/{name}": pixels for name, pixels in drawn.items()}
            for name, pixels in images.items():
                self._board.add_image(name, pixels, step, dataformats="HWC")
            self._tracking.log_images(step, images)
        self.write(step, evaluation.metrics)
        LOGGER.info("step %d: test top-1 %.1f%%", step, 100 * evaluation.metrics["test/top1"])

    def close(self) -> None:
        """Writes what is left, and closes the event file."""
        if self._board is None:
            return
        self._board.close()
        self._thread.submit(self._write_pending, publish=True).result()
        self._thread.shutdown()
        transfer.discard(self._local_events, self._events)


class Stopwatch:
    """Measures the throughput of the loop and its waiting time for data, between metric lines."""

    def __init__(self, *, batch_size: int):
        """Starts measuring.

        Args:
          batch_size: samples of a global batch.
        """
        self._batch_size = batch_size
        self.restart()

    def restart(self) -> None:
        """Discards what was measured: compilation and evaluation do not count."""
        self._since, self._waited, self._steps = time.perf_counter(), 0.0, 0

    @contextlib.contextmanager
    def data_wait(self) -> Iterator[None]:
        """Counts one step, and measures how long the block waits for its batch."""
        started = time.perf_counter()
        yield
        self._waited += time.perf_counter() - started
        self._steps += 1

    def log_compilation(self, values: Any) -> None:
        """Waits for the first step, logs how long it took to compile, and restarts."""
        jax.block_until_ready(values)
        LOGGER.info("compiled the step in %.0f s", time.perf_counter() - self._since)
        self.restart()

    def lap(self) -> dict[str, float]:
        """Returns the rates since the last lap, and restarts; every process calls it.

        Returns:
          train/samples_per_second, and train/data_wait_fraction in 0..1. With several processes,
          the latter is the largest of all, and train/data_wait_process the process it belongs to:
          all run at the pace of the slowest.
        """
        seconds = time.perf_counter() - self._since
        waited, process = processes.largest(self._waited / seconds)
        rates = {
            "train/samples_per_second": self._steps * self._batch_size / seconds,
            "train/data_wait_fraction": waited,
        }
        if jax.process_count() > 1:
            rates["train/data_wait_process"] = process
        self.restart()
        return rates


def training_line(values: Mapping[str, jax.Array]) -> dict[str, float]:
    """Copies the metrics of a step from the devices, named as in `metrics.jsonl`."""
    return {f"train/{name}": float(value) for name, value in jax.device_get(dict(values)).items()}


def progress_line(step: int, total_steps: int, values: Mapping[str, float]) -> str:
    """Formats the most important training metrics, such as `step 40/600  loss 5.1  ...`."""
    formats = {
        "train/loss": "loss {:.3g}",
        "train/contrastive": "contrastive {:.3g}",
        "train/intra": "intra {:.3g}",
        "train/image": "image {:.3g}",
        "train/text": "text {:.3g}",
        "train/grad_norm": "|g| {:.3g}",
        "train/learning_rate": "lr {:.3g}",
        "train/samples_per_second": "{:.3g} samples/s",
        "train/data_wait_fraction": "data wait {:.1%}",
        "train/data_wait_process": "on process {:.0f}",
    }
    parts = [text.format(values[name]) for name, text in formats.items() if name in values]
    return "  ".join([f"step {step}/{total_steps}", *parts])
