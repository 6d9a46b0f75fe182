# SPDX-License-Identifier: Apache-2.0
"""Saves, verifies, retains and restores the checkpoints of a run."""

import contextlib
import functools
import logging
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax
import orbax.checkpoint as ocp
from ml_collections import ConfigDict

from mrd_jax import storage
from mrd_jax.checkpoints import (
    checksums,
    manifest,
    model_card,
    paths,
    restore,
    retention,
    run_identity,
)
from mrd_jax.distributed import processes

LOGGER = logging.getLogger(__name__)


class StateMismatchError(ValueError):
    """The checkpoint is intact, but holds other arrays than the config asks for."""


class CheckpointManager:
    """Manages the newest and the best checkpoints of one run.

    A checkpoint holds the train state (whose step is also the position in the data stream), a
    manifest of it, the config and the data set's fingerprint, and the model card, so that
    `mrd_jax.encoder` can load the student. Saving is asynchronous and atomic.
    """

    def __init__(
        self,
        workdir: storage.PathLike,
        *,
        config: ConfigDict,
        fingerprint: str,
        card: model_card.ModelCard | None = None,
        read_only: bool = False,
    ):
        """Opens or creates the workdir; every process must call this.

        Args:
          workdir: folder of the run; created if it does not exist.
          config: config of the run.
          fingerprint: fingerprint of the data set, see `mrd_jax.data.dataset_metadata`, and of
            whatever else the batches are drawn from.
          card: model card of the student; a checkpoint without one can be continued, but not
            loaded as an encoder.
          read_only: whether to leave the workdir unchanged, because another process may train in
            it. Otherwise the remains of an interrupted save are removed.

        Raises:
          mrd_jax.checkpoints.run_identity.WorkdirMismatchError: the workdir belongs to a run with
            another config or other data.
        """
        self._workdir = storage.path(workdir)
        self._card = card
        self._read_only = read_only
        self._identity = run_identity.of_run(config, fingerprint=fingerprint)
        processes.require_same({"data set": fingerprint})
        processes.first_process_first(
            functools.partial(run_identity.claim, self._workdir, self._identity)
        )
        self._best = retention.BestCheckpoints(config.best_metric, count=config.checkpoints_best)
        policies = ocp.checkpoint_managers
        newest_or_best = [policies.LatestN(config.checkpoints_kept), self._best]
        self._manager = ocp.CheckpointManager(
            self._workdir / paths.FOLDER,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=policies.AnyPreservationPolicy(newest_or_best),
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
            ),
        )

    def latest_step(self) -> int | None:
        """Returns the step of the newest complete checkpoint; None in a new workdir."""
        return self._manager.latest_step()

    def recall_evaluations(self, evaluations: Mapping[int, Mapping[str, float]]) -> None:
        """Adds the evaluations of earlier processes, by which the best checkpoints are kept.

        Args:
          evaluations: metric values by step, see `mrd_jax.evaluation.history.evaluations`.
        """
        self._best.recall(evaluations)

    def note_evaluation(self, step: int, values: Mapping[str, float]) -> None:
        """Adds an evaluation, by which the best checkpoints are kept.

        Args:
          step: step that was evaluated; its checkpoint is saved afterwards, or was saved before.
          values: metric values by name.

        Raises:
          ValueError: `config.best_metric` is not among them.
        """
        self._best.note(step, values)

    def find(self, which: str) -> int:
        """Finds the step that a user means.

        Args:
          which: "newest"; "best", by `config.best_metric`; or the number of a step.

        Raises:
          FileNotFoundError: there is no such checkpoint; lists those there are.
        """
        steps = [int(folder.name) for folder in paths.steps(self._workdir)]
        choices = {"newest": steps[-1:], "best": self._best.ranked(steps)[:1]}
        matches = choices.get(which, [step for step in steps if str(step) == which])
        if not matches:
            raise FileNotFoundError(
                f"{self._workdir} has no checkpoint {which!r}; there are {steps}, of which "
                f"{self._best.ranked(steps)} have been evaluated by {self._best.metric}"
            )
        return matches[0]

    def save(self, state: Any, *, step: int) -> None:
        """Starts saving; returns once the device arrays may be donated again.

        Args:
          state: train state of the run.
          step: step that it has reached; nothing is saved if this is the newest checkpoint.
        """
        if step == self.latest_step():
            return
        started = time.perf_counter()
        state = processes.global_arrays(state)
        items = {
            paths.STATE: ocp.args.StandardSave(state),
            paths.RUN: ocp.args.JsonSave(self._identity),
        }
        facts = {"step": step, "run": manifest.fingerprint(self._identity)}
        if self._card:
            items[paths.CARD] = ocp.args.JsonSave(self._card.as_dict())
            facts["card"] = manifest.fingerprint(self._card.as_dict())
        items[paths.MANIFEST] = ocp.args.JsonSave(manifest.describe(state, **facts))
        self._manager.save(step, args=ocp.args.Composite(**items))
        LOGGER.info(
            "saving the checkpoint of step %d; the loop waited %.1f s for it",
            step,
            time.perf_counter() - started,
        )

    def warm_up(self, state: Any) -> None:
        """Compiles what `save` runs, so that a save within a notice of preemption is short.

        Args:
          state: train state of the run.
        """
        started = time.perf_counter()
        checksums.tree_checksums(processes.global_arrays(state))
        LOGGER.info("prepared saving in %.1f s", time.perf_counter() - started)

    def restore(self, target: Any) -> Any:
        """Restores the newest intact checkpoint, never the best: a run continues where it was.

        A corrupt checkpoint is never trained on. It is moved to WORKDIR/corrupt, with a warning
        that names the fault, and the one before it is restored. If the workdir is read only, a
        corrupt checkpoint is an error.

        Args:
          target: tree with the shapes, types and shardings of the state.

        Returns:
          The state.

        Raises:
          FileNotFoundError: the workdir has no checkpoint.
          mrd_jax.checkpoints.manifest.CorruptCheckpointError: every checkpoint is corrupt.
          StateMismatchError: the checkpoint holds another state than `target`.
        """
        self._manager.wait_until_finished()
        steps = [int(folder.name) for folder in paths.steps(self._workdir)]
        for step in reversed(steps):
            try:
                return self.read(step, target)
            except manifest.CorruptCheckpointError as error:
                if self._read_only:
                    raise
                LOGGER.warning("%s", error)
                self._move_away(step)
        raise manifest.CorruptCheckpointError(
            f"{self._workdir}: every checkpoint was corrupt ({steps}) and is now in "
            f"{self._workdir / paths.CORRUPT}; copy an intact one back into {paths.FOLDER}/, or "
            "start the run again in another workdir"
        )

    def read(self, step: int, target: Any) -> Any:
        """Restores one checkpoint.

        Args:
          step: step of the checkpoint.
          target: tree with the shapes, types and shardings of the state.

        Returns:
          The state.

        Raises:
          mrd_jax.checkpoints.manifest.CorruptCheckpointError: it is corrupt; raised on every
            process if one process finds a fault.
          StateMismatchError: it holds another state than `target`; lists the differences.
        """
        folder = self._workdir / paths.FOLDER / str(step)
        with _on_every_process(folder):
            described = restore.read_manifest(folder)
        if differs := manifest.difference(described, target):
            raise StateMismatchError(
                f"{folder} holds another state than this version of mrd_jax trains with this "
                f"config:\n{differs}\nContinue it with the version that wrote it "
                f"({described['versions']})."
            )
        wanted = {paths.STATE: ocp.args.StandardRestore(processes.global_arrays(target))}
        with _on_every_process(folder), manifest.reading(folder):
            state = self._manager.restore(step, args=ocp.args.Composite(**wanted))[paths.STATE]
        with _on_every_process(folder):
            manifest.compare(described, state, where=folder)
        return processes.local_arrays(state, target)

    def _move_away(self, step: int) -> None:
        """Moves a corrupt checkpoint to WORKDIR/corrupt."""
        if jax.process_index() == 0:
            target = self._workdir / paths.CORRUPT / str(step)
            while target.exists():
                target = target.with_name(target.name + "_again")
            storage.move(self._workdir / paths.FOLDER / str(step), target)
            LOGGER.warning("checkpoint %d was moved to %s", step, target)
        # The other processes list the folder only after the move.
        processes.any_process(False)
        self._manager.reload()

    def wait(self) -> None:
        """Waits until all saves are complete."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until all saves are complete, and ends the threads that save."""
        self.wait()
        self._manager.close()


@contextlib.contextmanager
def _on_every_process(folder: storage.Path) -> Iterator[None]:
    """Raises `CorruptCheckpointError` on every process if the block raises it on one."""
    fault = None
    try:
        yield
    except manifest.CorruptCheckpointError as error:
        fault = error
    if processes.any_process(fault is not None):
        raise fault or manifest.CorruptCheckpointError(
            f"{folder}: corrupt, according to another process"
        )
