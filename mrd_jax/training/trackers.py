# SPDX-License-Identifier: Apache-2.0
"""Experiment trackers: copies of a run's metrics, pictures, results and report on a server.

`metrics.jsonl` and the TensorBoard events are complete without a tracker. A tracker that fails
during a run is closed with a warning, and the run goes on.
"""

import importlib.util
import json
import logging
import pathlib
import queue
import threading
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax
import numpy as np
from ml_collections import ConfigDict, FrozenConfigDict

from mrd_jax import atomic_io, storage, transfer
from mrd_jax.evaluation import results, table
from mrd_jax.report import final
from mrd_jax.training import config_schema

LOGGER = logging.getLogger(__name__)

NONE, WANDB = config_schema.TRACKERS
# File in the workdir with the tracker's id of the run, by which a resumed run continues it.
ID_FILE = "tracker.json"
REPORT_FILE = "report.html"
# Seconds to wait for a tracker at the end of a run.
CLOSE_TIMEOUT = 120.0


class TrackerUnsupportedError(ImportError):
    """The package of the tracker is not installed; the message has the command to install it."""


class Tracker(Protocol):
    """A run on a tracker. Every method may raise any exception."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Adds metrics of a step."""

    def log_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Adds pictures of a step, uint8 [height, width, 3] by name."""

    def log_results(self, headings: list[str], rows: list[list[str]], report: str) -> None:
        """Adds the table of the final evaluation and the HTML report."""

    def close(self, *, failed: bool) -> None:
        """Ends the run, or this part of a run that will be resumed."""


class WandbTracker:
    """A run of Weights & Biases.

    The environment configures the client: WANDB_MODE=offline needs neither network nor account,
    WANDB_PROJECT and WANDB_ENTITY set the place of the run.

    Args:
      run_id: id of the run; a run with this id is continued.
      name: name of the run.
      folder: local folder for the client's files.
      config: config of the run.
    """

    def __init__(self, run_id: str, *, name: str, folder: pathlib.Path, config: dict[str, Any]):
        import wandb  # an optional extra

        self._wandb = wandb
        self._run = wandb.init(
            id=run_id, name=name, dir=str(folder), config=config, resume="allow", reinit=True
        )
        # A resumed run repeats steps, which the client's own counter would drop.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Implements `Tracker.log`."""
        self._run.log({"step": step, **values})

    def log_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Implements `Tracker.log_images`."""
        pictures = {name: self._wandb.Image(pixels) for name, pixels in images.items()}
        self._run.log({"step": step, **pictures})

    def log_results(self, headings: list[str], rows: list[list[str]], report: str) -> None:
        """Implements `Tracker.log_results`."""
        page = self._wandb.Html(report, inject=False)
        self._run.log({"results": self._wandb.Table(columns=headings, data=rows), "report": page})

    def close(self, *, failed: bool) -> None:
        """Implements `Tracker.close`."""
        self._run.finish(exit_code=int(failed))


class Tracking:
    """Sends a run to a tracker from a thread of its own, on process 0; without one, does nothing.

    No method blocks or raises because of the tracker: after its first failure nothing more is sent.

    Args:
      tracker: the tracker; None for none.
    """

    def __init__(self, tracker: Tracker | None = None):
        self._tracker = tracker
        self._calls: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._failed = False
        if tracker is not None:
            # A daemon: a client that hangs must not keep the process from ending.
            self._thread = threading.Thread(target=self._work, name="tracker", daemon=True)
            self._thread.start()

    def __enter__(self) -> "Tracking":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(failed=kind is not None)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Sends metrics of a step."""
        if tracker := self._tracker:
            copy = dict(values)
            self._calls.put(lambda: tracker.log(step, copy))

    def log_images(self, step: int, images: Mapping[str, np.ndarray]) -> None:
        """Sends pictures of a step, uint8 [height, width, 3] by name."""
        if (tracker := self._tracker) and images:
            copy = dict(images)
            self._calls.put(lambda: tracker.log_images(step, copy))

    def log_results(self, workdir: storage.PathLike) -> None:
        """Sends the results table and the report that `final.write_results` has written."""
        if (tracker := self._tracker) is None:
            return
        folder = storage.path(workdir)

        def send() -> None:
            content = json.loads((folder / final.RESULTS_FILE).read_text())
            rows = [table.cells(results.from_dict(row)) for row in content["results"]]
            report = (folder / REPORT_FILE).read_text(encoding="utf-8")
            tracker.log_results(["method", *table.headings()[1:]], [[*row] for row in rows], report)

        self._calls.put(send)

    def close(self, *, failed: bool = False) -> None:
        """Waits until everything is sent, at most `CLOSE_TIMEOUT` seconds, and ends the run.

        Args:
          failed: whether an exception ends the run.
        """
        if (tracker := self._tracker) is None:
            return
        self._tracker = None
        self._calls.put(lambda: tracker.close(failed=failed))
        self._calls.put(None)
        self._thread.join(CLOSE_TIMEOUT)
        if self._thread.is_alive():
            LOGGER.warning(
                "the tracker did not finish in %.0f s; what is left is not sent", CLOSE_TIMEOUT
            )

    def _work(self) -> None:
        """Makes the calls in order until one fails."""
        while call := self._calls.get():
            if self._failed:
                continue
            try:
                call()
            # Clients raise exceptions of many kinds, and none of them may stop the training.
            except Exception as error:
                self._failed = True
                LOGGER.warning(
                    "the tracker failed and gets nothing more of this run, which goes on: %s: %s",
                    type(error).__name__,
                    error,
                )


def check(config: ConfigDict | FrozenConfigDict) -> None:
    """Checks, before a run uses devices and data, that the package of its tracker is installed.

    Raises:
      TrackerUnsupportedError: it is not.
    """
    if config.tracker == WANDB and importlib.util.find_spec("wandb") is None:
        raise TrackerUnsupportedError(
            "config.tracker is 'wandb', but wandb is not installed. Run pip install "
            "\"mrd_jax[wandb]\", or set config.tracker to 'none'"
        )


def open_tracking(config: ConfigDict | FrozenConfigDict, workdir: storage.PathLike) -> Tracking:
    """Opens the tracker of a run; a run that is resumed continues its run on the tracker.

    Args:
      config: config of the run.
      workdir: folder of the run.

    Raises:
      TrackerUnsupportedError: the package of the tracker is not installed.
      ValueError: a new run cannot be opened on the tracker. A failure to continue one is a warning,
        so that a restarted run trains on.
    """
    check(config)
    if config.tracker == NONE or jax.process_index() != 0:
        return Tracking()
    folder = storage.path(workdir)
    file = folder / ID_FILE
    resumed = file.is_file()
    run_id = json.loads(file.read_text())[config.tracker] if resumed else uuid.uuid4().hex
    try:
        tracker = WandbTracker(
            run_id,
            name=folder.name,
            folder=transfer.scratch(folder),
            config=json.loads(config.to_json()),
        )
    # Any exception of the client, such as for a missing key or a network that is down.
    except Exception as error:
        if resumed:
            LOGGER.warning("the run goes on without its tracker: %s", error)
            return Tracking()
        raise ValueError(
            f"config.tracker is {config.tracker!r}, but the run cannot be opened there: {error}. "
            "Log in with `wandb login`, or set WANDB_MODE=offline and send it later with wandb sync"
        ) from error
    if not resumed:
        atomic_io.write_text(file, json.dumps({config.tracker: run_id}) + "\n")
    return Tracking(tracker)
