# SPDX-License-Identifier: Apache-2.0
"""Builds the parts of a run from its config: model, optimizer, backend, data and checkpoints."""

import dataclasses
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from ml_collections import ConfigDict, FrozenConfigDict

from mrd_jax import models, storage
from mrd_jax.checkpoints import initial_weights, manager, model_card, run_identity, train_state
from mrd_jax.data import corrupt_records, dataset_metadata, loader, source, teacher_features
from mrd_jax.data.hard_negatives import neighbour_index
from mrd_jax.distributed import backends, determinism, processes, versions
from mrd_jax.evaluation import evaluator, history, relation_softness
from mrd_jax.kernels import platforms
from mrd_jax.report import relations
from mrd_jax.training import (
    calibration,
    initial_state,
    objectives,
    optimizer,
    step,
    validation,
)

LOGGER = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Run:
    """Everything that a config builds, except the train state and the data.

    Attributes:
      config: config of the run.
      model: the student.
      optimizer: optax transformation of the parameters.
      schedule: learning rate by step.
      backend: SPMD backend that compiles the step and places state and batches.
    """

    config: FrozenConfigDict
    model: nn.Module
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule
    backend: backends.Backend

    @property
    def objective(self) -> objectives.Objective:
        """Loss of the run."""
        return objectives.Distillation(self.config)

    def calibrated(self, data: "TrainingData") -> "Run":
        """Returns the run with the teacher's temperatures that its numbers of neighbours ask for.

        Args:
          data: training split, on which they are solved for.

        Raises:
          ValueError: no temperature gives the number of neighbours that the config asks for.
        """
        config = calibration.calibrate(
            ConfigDict(self.config), data.records, neighbours=data.neighbours
        )
        return dataclasses.replace(self, config=FrozenConfigDict(config))

    def initial_state(self) -> train_state.TrainState:
        """Initialises the train state from `config.seed`, placed as the backend needs it."""
        return initial_state.create_state(
            self.config,
            model=self.model,
            optimizer=self.optimizer,
            objective=self.objective,
            shardings=self.backend.state_shardings,
        )

    def train_step(self) -> Callable:
        """Returns the compiled step: (state, placed batch) -> (state, metrics)."""
        return self.backend.train(
            functools.partial(
                step.train_step,
                model=self.model,
                optimizer=self.optimizer,
                config=self.config,
                objective=self.objective,
                axis_name=backends.AXIS,
            )
        )

    # `evaluate` and `track` come first: the method `evaluator` hides the module below it.
    def evaluate(
        self, state: train_state.TrainState, tested: evaluator.Evaluator
    ) -> evaluator.Evaluation:
        """Evaluates a train state on the held-out split.

        Args:
          state: train state, on the devices.
          tested: evaluator of the held-out split.
        """
        evaluation = tested.run(state.variables())
        return evaluation.with_metrics(
            relation_softness.measure(
                evaluation.relation_embeddings,
                tested.held_out,
                self.config.loss,
                weights=state.params["loss"],
                batch_size=self.config.batch_size,
            )
        )

    def track(self, tested: evaluator.Evaluator) -> relations.TrackedShapes | None:
        """Returns the shapes whose relations are saved at every evaluation; None for none."""
        return relations.track(tested.held_out, self.config.loss)

    def evaluator(self) -> evaluator.Evaluator | None:
        """Opens the held-out split; None if `config.data.test_split` is empty.

        Raises:
          ValueError: the held-out split does not fit the run.
        """
        if not self.config.data.test_split:
            return None
        return evaluator.Evaluator(self.config, model=self.model, backend=self.backend)


@dataclasses.dataclass(frozen=True)
class TrainingData:
    """Training split of a run.

    Attributes:
      records: records of the split.
      neighbours: nearest neighbours that hard negatives are drawn from; None without them.
      fingerprint: identifies everything that the batches are drawn from.
      metadata: metadata of the data set.
    """

    records: source.RecordSource
    neighbours: neighbour_index.NeighbourIndex | None
    fingerprint: str
    metadata: dict[str, Any]

    def open_stream(
        self, config: ConfigDict, *, workdir: storage.PathLike, start_step: int
    ) -> tuple[Iterator[dict[str, np.ndarray]], corrupt_records.CorruptRecords]:
        """Opens the batches of this process.

        Args:
          config: config of the run.
          workdir: folder of the run, which persists the corrupt records that it has met.
          start_step: step of the first batch.

        Returns:
          Infinite iterator of batches, see `loader.train_stream`; and the corrupt records of the
          run, which the iterator updates.
        """
        corrupt = corrupt_records.CorruptRecords(
            self.records, config, workdir=workdir, process_index=jax.process_index()
        )
        batches = loader.train_stream(
            self.records,
            config,
            neighbours=self.neighbours,
            corrupt=corrupt,
            start_step=start_step,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )
        return batches, corrupt

    def sample_ids(self, index: Sequence[int]) -> list[str]:
        """Returns the ids of the records at these positions of the split."""
        return [self.records[position]["id"] for position in index]


def resolve(config: ConfigDict) -> ConfigDict:
    """Returns a valid config with the number of points of its data set, see `config.data.points`.

    Args:
      config: config of the run.

    Raises:
      mrd_jax.training.validation.ConfigError: lists every invalid field of the config.
      FileNotFoundError: there is no data set.
    """
    validation.validate(config)
    resolved = dataset_metadata.with_points(config)
    if resolved is not config:
        validation.validate(resolved)
        LOGGER.info("config.data.points is %d, as prepared", resolved.data.points)
    return resolved


def build_run(config: ConfigDict, *, devices: Sequence[jax.Device] | None = None) -> Run:
    """Validates a config and builds what does not depend on data; every process calls it.

    Args:
      config: config of the run.
      devices: devices of the run, over all processes; all devices by default.

    Raises:
      ValueError: the processes differ in their versions, configs or numbers of devices.
      mrd_jax.training.validation.ConfigError: lists every invalid field of the config.
    """
    validation.validate(config)
    processes.check_devices()
    processes.require_same(versions.settings(), remedy=f"To mend it, {versions.REMEDY}.")
    processes.require_same(
        {
            f"config.{name}": value
            for name, value in run_identity.flatten(config).items()
            if name not in run_identity.HOST_FIELDS
        }
    )
    devices = tuple(jax.devices() if devices is None else devices)
    if config.deterministic and devices[0].platform == "gpu":
        determinism.check()
    validation.validate_devices(
        config, device_count=len(devices), process_count=jax.process_count()
    )
    platform = platforms.of_device(devices[0])
    validation.validate_platform(config, platform=platform)
    model_config = ConfigDict(config.model)
    if config.model.get("micro_batch", 0):
        model_config.micro_batch = validation.micro_batch(config, device_count=len(devices))
        if model_config.micro_batch != config.model.micro_batch:
            LOGGER.info(
                "config.model.micro_batch is %d; %d is used, which divides the samples per device",
                config.model.micro_batch,
                model_config.micro_batch,
            )
    model = models.build_model(model_config)
    if models.uses_cudnn(config.model, platform=platform):
        model = model.clone(save_attention=False)
    return Run(
        config=FrozenConfigDict(config),
        model=model,
        optimizer=optimizer.build_optimizer(config.optimizer, total_steps=config.total_steps),
        schedule=optimizer.learning_rate_schedule(config.optimizer, total_steps=config.total_steps),
        backend=backends.make_backend(config.spmd, shard_state=config.shard_state, devices=devices),
    )


def open_data(config: ConfigDict) -> TrainingData:
    """Opens the training split and checks its metadata against the config.

    Raises:
      FileNotFoundError: there is no data set, no such split or no file of neighbours.
      ValueError: the data set was prepared for another teacher or other conventions.
    """
    metadata = dataset_metadata.read(config.data.directory)
    dataset_metadata.check(metadata, config)
    records = source.open_split(
        config.data.directory, config.data.train_split, cache=config.data.cache
    )
    validation.validate_records(config, records=len(records))
    teacher_features.check_positives(records, config)
    fingerprint = dataset_metadata.fingerprint(metadata)
    neighbours = neighbour_index.open_for(config, fingerprint=fingerprint, records=len(records))
    if neighbours is not None:
        # The neighbours determine the batches as the records do.
        fingerprint += f" with neighbours {neighbours.content_fingerprint()}"
    return TrainingData(records, neighbours, fingerprint, metadata)


def open_checkpoints(
    config: ConfigDict, workdir: storage.PathLike, data: TrainingData, *, read_only: bool = False
) -> manager.CheckpointManager:
    """Opens the checkpoints of a workdir, with the evaluations of its `metrics.jsonl`.

    Args:
      config: config of the run.
      workdir: workdir of the run; created if it does not exist.
      data: training split of the run.
      read_only: whether to leave the workdir unchanged, because another process may train in it.

    Raises:
      mrd_jax.checkpoints.run_identity.WorkdirMismatchError: the workdir belongs to a run with
        another config or other data.
    """
    checkpoints = manager.CheckpointManager(
        workdir,
        config=config,
        fingerprint=data.fingerprint,
        card=model_card.from_run(config, metadata=data.metadata),
        read_only=read_only,
    )
    checkpoints.recall_evaluations(history.evaluations(workdir))
    return checkpoints


def restore_or_initialise(
    run: Run, checkpoints: manager.CheckpointManager
) -> train_state.TrainState:
    """Restores the newest checkpoint; without one, initialises the state.

    A new run starts from `config.initial_weights` if they are given, otherwise from random ones.

    Raises:
      mrd_jax.checkpoints.manifest.CorruptCheckpointError: every checkpoint is corrupt.
      ValueError: checkpoint or initial weights do not fit the config.
    """
    state = run.initial_state()
    if checkpoints.latest_step() is not None:
        state = checkpoints.restore(state)
        LOGGER.info("restored the checkpoint of step %d", int(state.step))
    elif run.config.initial_weights:
        variables = initial_weights.load(run.config.initial_weights)
        state = run.backend.place_state(initial_weights.start_from(state, variables))
    return state
