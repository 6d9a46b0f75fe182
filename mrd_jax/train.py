# SPDX-License-Identifier: Apache-2.0
"""From a config to a trained, evaluated student: builds every part and joins them."""

import dataclasses
import functools
import logging
import time
from collections.abc import Sequence
from typing import Any

import jax
import optax
from etils import epath
from flax import linen as nn
from ml_collections import ConfigDict, FrozenConfigDict

import mrd_jax
from mrd_jax import card as cards
from mrd_jax import evaluation, hosts, initial, models, sharding, step
from mrd_jax import loop as loops
from mrd_jax import optimizer as optimizers
from mrd_jax import state as states
from mrd_jax.data import captions, damaged, loader, source
from mrd_jax.data import neighbours as neighbours_lib
from mrd_jax.faults import whole_files
from mrd_jax.workdir import best, checkpointing, identity, metrics

LOGGER = logging.getLogger(__name__)

# In the workdir of a run that has nothing left to do; its exit status alone does not say so.
FINISHED = "finished"


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
    """Checks the config and builds what does not depend on data; every process calls it.

    Args:
      config: of the run.
      devices: of the run; every device by default.

    Raises:
      ValueError: naming the field and the values that do not fit.
    """
    hosts.check_devices()
    hosts.require_same(
        {"mrd_jax": mrd_jax.__version__, "jax": jax.__version__}
        | {
            f"config.{name}": value
            for name, value in identity.flatten(config).items()
            if name not in identity.HOST_FIELDS
        }
    )
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
    best.check(config, metrics=evaluation.metric_names())
    captions.check(config.data)
    damaged.check(config.data)
    neighbours_lib.check(config)
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

    Without a test split (`config.data.test_split` empty), it trains only. Asked to stop by SIGTERM
    or SIGINT, it saves where it is and returns; only a run that came to its end leaves a file
    `finished` in the workdir.

    Args:
      config: of the run.
      workdir: its folder.
      devices: of the run; every device by default.

    Raises:
      ValueError: config, data set and workdir do not fit together.
      mrd_jax.faults.bad_steps.NotFiniteError: too many updates in a row were not finite.
      mrd_jax.data.damaged.TooManyDamagedError: too many records cannot be read.
    """
    run = build_run(config, devices=devices)
    # Before the workdir is claimed: what is tested on may not fit either.
    evaluator = evaluation.Evaluator(run) if config.data.test_split else None
    records, neighbours, checkpoints = open_run(config, workdir)
    state = run.initial_state()
    evaluated = True
    if checkpoints.latest_step() is not None:
        state, evaluated = checkpoints.restore(state)
        LOGGER.info("continuing %s at step %d", workdir, int(state.step))
    elif config.initial_weights:
        state = initial.start_from(state, initial.load(config.initial_weights))
        state = run.runner.place_state(state)
    writer = None
    if jax.process_index() == 0:
        writer = metrics.MetricWriter(workdir, start_step=int(state.step), evaluated=evaluated)
    started = time.perf_counter()
    lost = damaged.DamagedRecords(
        records, run.config, workdir=workdir, process_index=jax.process_index()
    )
    loop = loops.Loop(run, records, lost, checkpoints, evaluator, writer, workdir)
    try:
        stream = loader.train_stream(
            records,
            run.config,
            neighbours=neighbours,
            damaged=lost,
            start_step=int(state.step),
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        state = loop.run_from(state, stream, evaluated=evaluated)
    finally:
        checkpoints.close()
        if writer:
            writer.close()
    LOGGER.info("training: %.0f s", time.perf_counter() - started)
    if int(state.step) < config.total_steps:
        LOGGER.info("the same command continues this run")
        return
    if config.checkpoints_best:
        LOGGER.info("best step by %s: %d", config.best_metric, checkpoints.find("best"))
    if evaluator is None:
        LOGGER.info("no evaluation: config.data.test_split is empty")
    else:
        evaluation.write_results(evaluator, state.variables(), workdir=workdir)
    if jax.process_index() == 0:
        whole_files.write_text(epath.Path(workdir) / FINISHED, f"{config.total_steps} steps\n")


def evaluate(
    config: ConfigDict,
    workdir: str,
    *,
    which: str = "newest",
    devices: Sequence[jax.Device] | None = None,
) -> None:
    """Evaluates a checkpoint of a workdir and writes its table and report.

    Args:
      config: of the run.
      workdir: its folder.
      which: "newest", "best" by `config.best_metric`, or the number of a step.
      devices: to evaluate on; every device by default.

    Raises:
      FileNotFoundError: the workdir has no such checkpoint.
      mrd_jax.faults.manifest.DamagedError: it is damaged.
      ValueError: config, data set and workdir do not fit together, or there is no test split.
    """
    if not config.data.test_split:
        raise ValueError(
            "config.data.test_split is empty, so there is nothing to evaluate on; name a split of "
            "config.data.directory"
        )
    run = build_run(config, devices=devices)
    identity.require_run(workdir)
    *_, checkpoints = open_run(config, workdir, read_only=True)
    try:
        state = checkpoints.read(checkpoints.find(which), run.initial_state()).state
    finally:
        checkpoints.close()
    evaluator = evaluation.Evaluator(run)
    evaluation.write_results(evaluator, state.variables(), workdir=workdir)


def open_run(
    config: ConfigDict, workdir: str, *, read_only: bool = False
) -> tuple[source.RecordSource, neighbours_lib.Neighbours | None, checkpointing.Checkpoints]:
    """The training records, their neighbours and the workdir, all checked against the config."""
    metadata = source.read_metadata(config.data.directory)
    source.check_metadata(metadata, config)
    records = source.open_split(
        config.data.directory, config.data.train_split, cache=config.data.cache
    )
    fingerprint = source.fingerprint(metadata)
    neighbours = neighbours_lib.open_for(config, fingerprint=fingerprint, records=len(records))
    if neighbours is not None:
        # They decide the batches as the records do: a run keeps to the ones it began with.
        fingerprint += f" with neighbours {neighbours.digest()}"
    checkpoints = checkpointing.Checkpoints(
        workdir,
        config=config,
        fingerprint=fingerprint,
        card=cards.from_run(config, metadata=metadata),
        read_only=read_only,
    )
    return records, neighbours, checkpoints
