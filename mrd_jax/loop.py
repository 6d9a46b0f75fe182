# SPDX-License-Identifier: Apache-2.0
"""The training loop, whose order is a law."""

import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import jax
import numpy as np
from ml_collections import FrozenConfigDict

from mrd_jax import evaluation, hosts, profiling
from mrd_jax import state as states
from mrd_jax.data import damaged, source
from mrd_jax.faults import bad_steps, stopping, watchdog
from mrd_jax.workdir import checkpointing, metrics

if TYPE_CHECKING:
    from mrd_jax import train

LOGGER = logging.getLogger(__name__)

Batches = Iterator[dict[str, np.ndarray]]


@dataclasses.dataclass(frozen=True)
class Loop:
    """Runs the steps that are left.

    The order is a law: evaluate, save, only then take the next batch. What is saved at step s is
    then exactly what a run stopped at s would hold, and batch s is the first one to come after it.
    A run that is asked to stop saves first, since its machine may be gone in seconds; the
    checkpoint remembers that the evaluation is owed, and the continuation begins with it.
    """

    run: "train.Run"
    records: source.RecordSource
    damaged: damaged.DamagedRecords
    checkpoints: checkpointing.Checkpoints
    evaluator: evaluation.Evaluator | None
    writer: metrics.MetricWriter | None
    workdir: str

    def run_from(
        self, state: states.TrainState, stream: Batches, *, evaluated: bool
    ) -> states.TrainState:
        """Trains to the end, or until a signal asks to stop.

        Args:
          state: to begin with.
          stream: batches of this process, from the state's step on.
          evaluated: whether an evaluation that is due at this very step has been done.

        Returns:
          the state that was saved last.
        """
        watch = watchdog.Watchdog(minutes=self.config.stall_minutes, leave=self.config.stall_leaves)
        profile = profiling.Profile(self.workdir, steps=self.config.profile_steps)
        try:
            with stopping.StopRequest() as request:
                return self._steps(state, stream, evaluated, request, watch, profile)
        finally:
            profile.close()
            watch.stop()

    @property
    def config(self) -> FrozenConfigDict:
        """Of the run."""
        return self.run.config

    def _steps(
        self,
        state: states.TrainState,
        stream: Batches,
        evaluated: bool,
        request: stopping.StopRequest,
        watch: watchdog.Watchdog,
        profile: profiling.Profile,
    ) -> states.TrainState:
        config, start = self.config, int(state.step)
        train_step = self.run.train_step()
        bad = bad_steps.BadSteps(self.workdir, limit=config.max_bad_steps, names=self._sample_ids)
        stopwatch = metrics.Stopwatch()
        in_flight = None
        for s in range(start, config.total_steps):
            watch.seen()
            if request.at(s):
                return self._leave(s, state, request, evaluated=evaluated)
            # Evaluated and saved already if the run has just been restored at s.
            if s > start or not evaluated:
                if self._evaluate_and_save(s, state):
                    stopwatch.restart()

            profile.before(s - start, in_flight)
            asked = time.perf_counter()
            batch = next(stream)
            stopwatch.step(waited=time.perf_counter() - asked)
            state, values = train_step(state, self.run.runner.place_batch(batch))

            # The host stays one step ahead of the devices, not more: batches in flight take memory.
            jax.block_until_ready(values if in_flight is None else in_flight[1])
            if in_flight is None:
                LOGGER.info("compiled the step in %.0f s", time.perf_counter() - asked)
                stopwatch.restart()
            else:
                bad.see(*in_flight)
            in_flight, evaluated = (s, values, batch["index"]), False
            if (s + 1) % config.log_every == 0 or s + 1 == config.total_steps:
                self._log(s, values, stopwatch)
        if in_flight is not None:
            bad.see(*in_flight)
        if start < config.total_steps:
            self._evaluate_and_save(config.total_steps, state)
        return state

    def _log(self, s: int, values: dict[str, jax.Array], stopwatch: metrics.Stopwatch) -> None:
        """Writes the metrics of step s; all but the guard's scalar come from the devices here."""
        line = {f"train/{name}": float(x) for name, x in jax.device_get(values).items()}
        line["train/learning_rate"] = float(self.run.schedule(s))
        line["train/damaged_records"] = self.damaged.count(s)
        line |= stopwatch.lap(batch_size=self.config.batch_size)
        if jax.process_count() > 1:
            # All go at the pace of the one that waits longest for its data.
            waited, process = hosts.largest(line["train/waiting_for_data"])
            line |= {"train/waiting_for_data": waited, "train/waiting_process": process}
        if self.writer:
            self.writer.write(s + 1, line)
            LOGGER.info("%s", metrics.progress_line(s + 1, self.config.total_steps, line))

    def _leave(
        self,
        s: int,
        state: states.TrainState,
        request: stopping.StopRequest,
        *,
        evaluated: bool,
    ) -> states.TrainState:
        """Saves at once, whatever is due."""
        self.checkpoints.save(state, step=s, evaluated=evaluated or not self._evaluates(s))
        LOGGER.info("stopped at step %d by %s; everything is saved", s, request)
        return state

    def _evaluates(self, s: int) -> bool:
        """Whether an evaluation is due at step s; the last step owes everything."""
        last = s == self.config.total_steps
        return self.evaluator is not None and (last or s % self.config.eval_every == 0)

    def _evaluate_and_save(self, s: int, state: states.TrainState) -> bool:
        """Does what is due at step s, and says whether anything was."""
        saves = s == self.config.total_steps or s % self.config.checkpoint_every == 0
        # The best are among those that were evaluated.
        saves |= self._evaluates(s) and self.config.checkpoints_best > 0
        if self._evaluates(s):
            values, embeddings = self.evaluator.run(state.variables())
            self.checkpoints.see(s, values)
            if self.writer:
                self.writer.write(s, values)
                LOGGER.info("step %d: test top-1 %.1f%%", s, 100 * values["test/top1"])
                self._watch(s, embeddings)
        if saves:
            self.checkpoints.save(state, step=s)
        return self._evaluates(s) or saves

    def _watch(self, s: int, embeddings: np.ndarray) -> None:
        """Keeps how the watched shapes relate at step s, for the report and TensorBoard."""
        watched = self.evaluator.watched
        if watched:
            watched.save(self.workdir, step=s, embeddings=embeddings)
            drawn = watched.pictures(embeddings)
            self.writer.pictures(s, {f"relations/{name}": one for name, one in drawn.items()})

    def _sample_ids(self, index: Sequence[int]) -> list[str]:
        return [self.records[position]["id"] for position in index]
