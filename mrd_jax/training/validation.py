# SPDX-License-Identifier: Apache-2.0
"""Validates a config once, before devices or data are used, and reports all faults together."""

from ml_collections import ConfigDict

from mrd_jax import models
from mrd_jax.data import batch_spec, captions, corrupt_records
from mrd_jax.data.hard_negatives import index as neighbour_index
from mrd_jax.evaluation import evaluator
from mrd_jax.losses import options
from mrd_jax.training import optimizer


class ConfigError(ValueError):
    """A config with invalid fields; the message lists all of them."""


def validate(config: ConfigDict, *, device_count: int, process_count: int) -> None:
    """Checks every field of a config.

    Args:
      config: config of a run.
      device_count: devices of the run, over all processes.
      process_count: processes of the run.

    Raises:
      ConfigError: lists every invalid field, what it is, and what is allowed.
    """
    faults = []
    for check in (
        lambda: _check_sizes(config, device_count=device_count),
        lambda: batch_spec.check_batch_size(
            config.batch_size, process_count=process_count, device_count=device_count
        ),
        lambda: captions.check(config.data),
        lambda: corrupt_records.check(config.data),
        lambda: neighbour_index.check(config),
        lambda: options.check(config.loss),
        lambda: optimizer.check(config.optimizer, total_steps=config.total_steps),
        lambda: models.build_model(config.model),
    ):
        try:
            check()
        except ValueError as error:
            faults.append(str(error))
    faults += _retention_faults(config)
    if faults:
        raise ConfigError("\n".join(faults))


def _check_sizes(config: ConfigDict, *, device_count: int) -> None:
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
    local_batch = config.batch_size // device_count
    if config.model.micro_batch and local_batch % config.model.micro_batch:
        raise ValueError(
            f"config.model.micro_batch is {config.model.micro_batch}; it must divide the "
            f"{local_batch} clouds that each device gets of config.batch_size {config.batch_size}"
        )


def _retention_faults(config: ConfigDict) -> list[str]:
    faults = [
        f"config.{name} is {config[name]}; expected {least} or more"
        for name, least in (("checkpoints_kept", 1), ("checkpoints_best", 0))
        if config[name] < least
    ]
    if config.checkpoints_best and not config.data.test_split:
        faults.append(
            f"config.checkpoints_best is {config.checkpoints_best}, but without "
            "config.data.test_split nothing tells which checkpoints are best: name one, or keep 0"
        )
    names = evaluator.metric_names()
    if config.best_metric not in names:
        faults.append(
            f"config.best_metric is {config.best_metric!r}, which no evaluation of this run "
            f"reports; expected one of {', '.join(names)}"
        )
    return faults
