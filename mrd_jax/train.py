# SPDX-License-Identifier: Apache-2.0
"""Builds a run from its config, and the training loop, whose order is a law."""

import dataclasses
import functools
import logging
import time
from collections.abc import Sequence
from typing import Any

import jax
import optax
from flax import linen as nn
from ml_collections import ConfigDict, FrozenConfigDict

from mrd_jax import card as cards
from mrd_jax import checkpointing, evaluation, initial, metrics, models, sharding, step
from mrd_jax import optimizer as optimizers
from mrd_jax import state as states
from mrd_jax.data import captions, loader, source

LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
    """What a config builds: everything but the state and the data."""

    config: FrozenConfigDict
    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    runner: sharding.Runner

    def initial_state(self) -> states.TrainState:
        """A new state, where the runner wants it."""
        return states.create_state(
            self.config,
            model=self.model,
            optimizer=self.optimizer,
            shardings=self.runner.state_shardings,
        )

    def train_step(self) -> Any:
        """The compiled step: (state, placed batch) -> (state, metrics)."""
        return self.runner.train(
            functools.partial(
                step.train_step,
                model=self.model,
                optimizer=self.optimizer,
                config=self.config,
                axis_name=sharding.AXIS,
            )
        )


def build_run(config: ConfigDict, *, devices: Sequence[jax.Device] | None = None) -> Run:
    """Checks the config and builds what does not depend on data.

    Args:
      config: of the run.
      devices: of the run; every device by default.

    Raises:
      ValueError: naming the field and the values that do not fit.
    """
    if config.model.out_dim != config.teacher.dim:
        raise ValueError(
            f"config.model.out_dim is {config.model.out_dim} and config.teacher.dim is "
            f"{config.teacher.dim}; the student's embedding must be as long as the teacher's"
        )
    if config.model.points > config.data.points:
        raise ValueError(
            f"config.model.points is {config.model.points}, but config.data.points gives only "
            f"{config.data.points} per record; lower the first or prepare more points"
        )
    if not 1 <= config.eval_windows <= config.data.points // config.model.points:
        raise ValueError(
            f"config.eval_windows is {config.eval_windows}; with data.points {config.data.points} "
            f"and model.points {config.model.points} it must be 1 to "
            f"{config.data.points // config.model.points}"
        )
    captions.check(config.data)
    runner = sharding.make_runner(
        config.spmd,
        batch_size=config.batch_size,
        shard_state=config.shard_state,
        devices=devices,
    )
    share = config.batch_size // len(runner.devices)
    if config.model.micro_batch and share % config.model.micro_batch:
        raise ValueError(
            f"config.model.micro_batch is {config.model.micro_batch}; it must divide the {share} "
            f"clouds that each device gets of config.batch_size {config.batch_size}"
        )
    return Run(
        config=FrozenConfigDict(config),
        model=models.build_model(config.model),
        optimizer=optimizers.build_optimizer(config.optimizer, total_steps=config.total_steps),
        schedule=optimizers.learning_rate_schedule(
            config.optimizer, total_steps=config.total_steps
        ),
        runner=runner,
    )


def train_and_evaluate(
    config: ConfigDict, workdir: str, *, devices: Sequence[jax.Device] | None = None
) -> None:
    """Trains to the end, continuing what the workdir holds, then evaluates and reports.

    Without a test split (`config.data.test_split` empty), it trains only.

    Args:
      config: of the run.
      workdir: its folder.
      devices: of the run; every device by default.

    Raises:
      ValueError: config, data set and workdir do not fit together.
    """
    run = build_run(config, devices=devices)
    records, checkpoints = open_run(config, workdir)
    evaluator = evaluation.Evaluator(run) if config.data.test_split else None
    state = run.initial_state()
    if checkpoints.latest_step() is not None:
        state = checkpoints.restore(state)
        LOGGER.info("continuing %s at step %d", workdir, int(state.step))
    elif config.initial_weights:
        state = initial.start_from(state, initial.load(config.initial_weights))
        state = run.runner.place_state(state)
    writer = None
    if jax.process_index() == 0:
        writer = metrics.MetricWriter(workdir, start_step=int(state.step))
    started = time.perf_counter()
    try:
        state = _loop(run, state, records, checkpoints, evaluator, writer)
    finally:
        checkpoints.close()
        if writer:
            writer.close()
    LOGGER.info("training: %.0f s", time.perf_counter() - started)
    if evaluator is None:
        LOGGER.info("no evaluation: config.data.test_split is empty")
        return
    evaluation.write_results(evaluator, state.variables(), workdir=workdir)


def evaluate(
    config: ConfigDict, workdir: str, *, devices: Sequence[jax.Device] | None = None
) -> None:
    """Evaluates the newest checkpoint of a workdir and writes its table and report.

    Args:
      config: of the run.
      workdir: its folder.
      devices: to evaluate on; every device by default.

    Raises:
      FileNotFoundError: the workdir has no checkpoint.
      ValueError: config, data set and workdir do not fit together, or there is no test split.
    """
    if not config.data.test_split:
        raise ValueError(
            "config.data.test_split is empty, so there is nothing to evaluate on; name a split of "
            "config.data.directory"
        )
    run = build_run(config, devices=devices)
    checkpointing.require_run(workdir)
    _, checkpoints = open_run(config, workdir)
    try:
        state = checkpoints.restore(run.initial_state())
    finally:
        checkpoints.close()
    evaluator = evaluation.Evaluator(run)
    evaluation.write_results(evaluator, state.variables(), workdir=workdir)


def open_run(
    config: ConfigDict, workdir: str
) -> tuple[source.RecordSource, checkpointing.Checkpoints]:
    """The training records and the workdir, both checked against the config."""
    metadata = source.read_metadata(config.data.directory)
    source.check_metadata(metadata, config)
    records = source.open_split(
        config.data.directory, config.data.train_split, cache=config.data.cache
    )
    checkpoints = checkpointing.Checkpoints(
        workdir,
        config=config,
        fingerprint=source.fingerprint(metadata),
        card=cards.from_run(config, metadata=metadata),
    )
    return records, checkpoints


def _loop(
    run: Run,
    state: states.TrainState,
    records: source.RecordSource,
    checkpoints: checkpointing.Checkpoints,
    evaluator: evaluation.Evaluator | None,
    writer: metrics.MetricWriter | None,
) -> states.TrainState:
    """Runs the steps that are left.

    The order is a law: evaluate, save, only then take the next batch. What is saved at step s is
    then exactly what a run stopped at s would hold, and batch s is the first one to come after it.
    """
    config, start = run.config, int(state.step)
    stream = loader.train_stream(
        records,
        config,
        start_step=start,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
    )
    train_step = run.train_step()
    stopwatch = metrics.Stopwatch()
    in_flight = None
    for s in range(start, config.total_steps):
        # Evaluated and saved already if the run has just been restored at s.
        if s > start:
            if _evaluate_and_save(s, config, state, checkpoints, evaluator, writer):
                stopwatch.restart()

        asked = time.perf_counter()
        batch = next(stream)
        stopwatch.step(waited=time.perf_counter() - asked)
        state, values = train_step(state, run.runner.place_batch(batch))

        # The host stays one step ahead of the devices, not more: batches in flight take memory.
        jax.block_until_ready(values if in_flight is None else in_flight)
        if in_flight is None:
            LOGGER.info("compiled the step in %.0f s", time.perf_counter() - asked)
            stopwatch.restart()
        in_flight = values
        if (s + 1) % config.log_every == 0 or s + 1 == config.total_steps:
            # The only transfer from the devices in this loop.
            line = {f"train/{name}": float(x) for name, x in jax.device_get(values).items()}
            line["train/learning_rate"] = float(run.schedule(s))
            line |= stopwatch.lap(batch_size=config.batch_size)
            if writer:
                writer.write(s + 1, line)
                LOGGER.info("%s", metrics.progress_line(s + 1, config.total_steps, line))
    if start < config.total_steps:
        _evaluate_and_save(config.total_steps, config, state, checkpoints, evaluator, writer)
    return state


def _evaluate_and_save(
    s: int,
    config: FrozenConfigDict,
    state: states.TrainState,
    checkpoints: checkpointing.Checkpoints,
    evaluator: evaluation.Evaluator | None,
    writer: metrics.MetricWriter | None,
) -> bool:
    """Does what is due at step s, and says whether anything was; the last step owes everything."""
    last = s == config.total_steps
    evaluates = evaluator is not None and (last or s % config.eval_every == 0)
    saves = last or s % config.checkpoint_every == 0
    if evaluates:
        values = evaluator.run(state.variables())
        if writer:
            writer.write(s, values)
            LOGGER.info("step %d: test top-1 %.1f%%", s, 100 * values["test/top1"])
    if saves:
        checkpoints.save(state, step=s)
    return evaluates or saves
