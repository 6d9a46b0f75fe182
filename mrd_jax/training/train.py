# SPDX-License-Identifier: Apache-2.0
"""Trains and evaluates a run: restore or initialise, the training loop, the final evaluation."""

import contextlib
import logging
import time
from collections.abc import Sequence

import jax
from ml_collections import ConfigDict, FrozenConfigDict

from mrd_jax import atomic_io, storage
from mrd_jax.checkpoints import manager, run_identity, train_state
from mrd_jax.distributed import processes
from mrd_jax.evaluation import history
from mrd_jax.evaluation.evaluator import Evaluator
from mrd_jax.report import final
from mrd_jax.training import (
    metrics,
    nonfinite,
    preemption,
    profiling,
    start_log,
    trackers,
    watchdog,
)
from mrd_jax.training import run as run_lib

LOGGER = logging.getLogger(__name__)

# File that a completed run leaves in its workdir. A run that was shut down gracefully has none,
# although its exit status is 0, too.
FINISHED = "finished"


def train_and_evaluate(
    config: ConfigDict, workdir: storage.PathLike, *, devices: Sequence[jax.Device] | None = None
) -> bool:
    """Trains to the last step, continuing the run in the workdir, then evaluates and reports.

    Without a test split (`config.data.test_split` is empty) the run is only trained. On SIGTERM or
    SIGINT it saves a checkpoint and returns. A completed run leaves a file `finished` in the
    workdir.

    Args:
      config: config of the run.
      workdir: folder of the run.
      devices: devices of the run, over all processes; all devices by default.

    Returns:
      Whether the run is finished; not after a graceful shutdown.

    Raises:
      ValueError: config, data set and workdir do not fit together, or the tracker cannot be used.
      mrd_jax.training.nonfinite.NonFiniteError: too many consecutive updates were not finite.
      mrd_jax.data.corrupt_records.TooManyCorruptRecordsError: too many records cannot be read.
    """
    workdir = storage.path(workdir)
    config = run_lib.resolve(config)
    run = run_lib.build_run(config, devices=devices)
    trackers.check(config)
    data = run_lib.open_data(config)
    run = run.calibrated(data)
    # Opened before the workdir is claimed: the test set may not fit the run either.
    evaluator = run.evaluator()
    with contextlib.ExitStack() as stack:
        with contextlib.closing(run_lib.open_checkpoints(config, workdir, data)) as checkpoints:
            state = run_lib.restore_or_initialise(run, checkpoints)
            checkpoints.warm_up(state)
            start_log.log_start(run, data, state, workdir=workdir)
            # Once the workdir is claimed, and until the final evaluation is sent.
            tracking = stack.enter_context(trackers.open_tracking(config, workdir))
            started = time.perf_counter()
            state = train(
                run,
                state,
                data=data,
                evaluator=evaluator,
                checkpoints=checkpoints,
                workdir=workdir,
                tracking=tracking,
            )
        LOGGER.info("training: %.0f s", time.perf_counter() - started)
        if int(state.step) < config.total_steps:
            LOGGER.info("the same command continues this run")
            return False

        if config.checkpoints_best:
            LOGGER.info("best step by %s: %d", config.best_metric, checkpoints.find("best"))
        if evaluator is None:
            LOGGER.info("no evaluation: config.data.test_split is empty")
        else:
            final.write_results(evaluator, state.variables(), workdir=workdir)
            tracking.log_results(workdir)
    if jax.process_index() == 0:
        atomic_io.write_text(storage.path(workdir) / FINISHED, f"{config.total_steps} steps\n")
    return True


def train(
    run: run_lib.Run,
    state: train_state.TrainState,
    *,
    data: run_lib.TrainingData,
    evaluator: Evaluator | None,
    checkpoints: manager.CheckpointManager,
    workdir: storage.PathLike,
    tracking: trackers.Tracking | None = None,
) -> train_state.TrainState:
    """Runs the training loop from the step of `state` on.

    The order of operations is a checkpoint invariant: evaluate, save, and only then take the next
    batch. The checkpoint of step s is then the state before batch s, wherever the run was stopped.
    A graceful shutdown saves without evaluating, since the machine may be gone within seconds; the
    evaluation is then missing from `metrics.jsonl`, and the continued run begins with it.

    Args:
      run: what the config builds.
      state: train state to continue from.
      data: training split.
      evaluator: evaluator of the held-out split; None trains without evaluations.
      checkpoints: checkpoints of the workdir.
      workdir: folder of the run.
      tracking: gets a copy of metrics and pictures; None for none.

    Returns:
      The last state; its step is less than `config.total_steps` after a graceful shutdown.

    Raises:
      mrd_jax.training.nonfinite.NonFiniteError: too many consecutive updates were not finite.
      mrd_jax.data.corrupt_records.TooManyCorruptRecordsError: too many records cannot be read.
    """
    config, start = run.config, int(state.step)
    evaluated = processes.any_process(start in history.evaluations(workdir))
    batches, corrupt = data.open_stream(config, workdir=workdir, start_step=start)
    train_step = run.train_step()
    updates = nonfinite.NonFiniteUpdates(
        workdir, limit=config.max_nonfinite_steps, names=data.sample_ids
    )
    stopwatch = metrics.Stopwatch(batch_size=config.batch_size)
    tracked = run.track(evaluator) if evaluator else None
    writer = metrics.MetricWriter(workdir, start_step=start, tracked=tracked, tracking=tracking)
    with (
        contextlib.closing(writer) as log,
        preemption.ShutdownRequest() as shutdown,
        watchdog.Watchdog(minutes=config.hang_minutes, exit_on_hang=config.exit_on_hang) as hang,
        profiling.Profile(workdir, steps=config.profile_steps) as profile,
    ):
        for step in range(start, config.total_steps + 1):
            hang.reset()
            # After the last update, the run is finished instead: nothing would be left to resume.
            if step < config.total_steps and shutdown.requested(step):
                log.flush()
                checkpoints.save(state, step=step)
                LOGGER.info("stopped at step %d by %s; a checkpoint is saved", step, shutdown)
                return state
            evaluates, saves = _due(config, step)

            # 1. Evaluate, unless this was done before the restart.
            if evaluates or saves:
                updates.check()
            if evaluator and evaluates and not (step == start and evaluated):
                evaluation = run.evaluate(state, evaluator)
                checkpoints.note_evaluation(step, evaluation.metrics)
                log.write_evaluation(step, evaluation)
                stopwatch.restart()

            # 2. Save.
            if saves:
                log.flush()
                checkpoints.save(state, step=step)
                stopwatch.restart()
            if step == config.total_steps:
                return state

            # 3. Take the next batch.
            profile.before(step - start, state)
            with stopwatch.data_wait():
                batch = next(batches)

            # 4. Update. The host stays one step ahead of the devices: batches in flight use memory.
            placed = run.backend.place_batch(batch)
            with jax.profiler.StepTraceAnnotation("train", step_num=step):
                with jax.transfer_guard("disallow"):
                    state, values = train_step(state, placed)
            updates.check()
            updates.add(step, values, batch["index"])
            if step == start:
                stopwatch.log_compilation(values)

            # 5. Log.
            if (step + 1) % config.log_every == 0 or step + 1 == config.total_steps:
                line = metrics.training_line(values) | stopwatch.lap()
                line["train/learning_rate"] = float(run.schedule(step))
                line["train/corrupt_records"] = corrupt.count(step)
                log.write_progress(step + 1, line, total_steps=config.total_steps)
    return state


def _due(config: FrozenConfigDict, step: int) -> tuple[bool, bool]:
    """Returns whether an evaluation and whether a checkpoint is due at a step."""
    if step == 0:
        return False, False
    last = step == config.total_steps
    evaluates = bool(config.data.test_split) and (last or step % config.eval_every == 0)
    saves = last or step % config.checkpoint_every == 0
    # The best checkpoints are among those that were evaluated.
    return evaluates, saves or (evaluates and config.checkpoints_best > 0)


def evaluate(
    config: ConfigDict,
    workdir: storage.PathLike,
    *,
    which: str = "newest",
    devices: Sequence[jax.Device] | None = None,
) -> None:
    """Evaluates a checkpoint of a workdir and writes its results, table and report.

    Args:
      config: config of the run.
      workdir: folder of the run.
      which: "newest", "best" by `config.best_metric`, or the number of a step.
      devices: devices to evaluate on, over all processes; all devices by default.

    Raises:
      FileNotFoundError: the workdir has no such checkpoint.
      mrd_jax.checkpoints.manifest.CorruptCheckpointError: the checkpoint is corrupt.
      ValueError: config, data set and workdir do not fit together, or there is no test split.
    """
    workdir = storage.path(workdir)
    config = run_lib.resolve(config)
    run = run_lib.build_run(config, devices=devices)
    run_identity.require_run(workdir)
    data = run_lib.open_data(config)
    run = run.calibrated(data)
    evaluator = run.evaluator()
    if evaluator is None:
        raise ValueError(
            "config.data.test_split is empty, so there is nothing to evaluate on; name a split of "
            "config.data.directory"
        )
    with contextlib.closing(
        run_lib.open_checkpoints(config, workdir, data, read_only=True)
    ) as checkpoints:
        state = checkpoints.read(checkpoints.find(which), run.initial_state())
    final.write_results(evaluator, state.variables(), workdir=workdir)
