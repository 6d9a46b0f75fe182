# SPDX-License-Identifier: Apache-2.0
"""Validates a config once, before devices and data are used, and reports every fault at once."""

import difflib
from collections.abc import Callable, Mapping

from ml_collections import ConfigDict

from mrd_jax import models, storage
from mrd_jax.checkpoints import run_identity
from mrd_jax.data import batch_spec, captions
from mrd_jax.data.hard_negatives import neighbour_index
from mrd_jax.losses import options
from mrd_jax.training import config_schema

# Fields that are paths.
PATHS = ("data.directory", "data.test_directory", "data.neighbours_file", "initial_weights")


class ConfigError(ValueError):
    """A config with invalid fields; the message has one line per fault."""


def validate(config: ConfigDict) -> None:
    """Checks every field of a run's config, and the fields against each other.

    Args:
      config: config of a run.

    Raises:
      ConfigError: has a line for every fault, which names the field, its value and what is allowed.
    """
    flat = run_identity.flatten(config)
    rules = config_schema.rules(config)
    faults = _name_faults(set(flat), rules)
    if not faults:
        faults = _value_faults(config, set(flat), rules)
    if faults:
        raise ConfigError("\n".join(faults))


def validate_devices(config: ConfigDict, *, device_count: int, process_count: int) -> None:
    """Checks that the batch divides over the devices.

    Args:
      config: config of a run.
      device_count: devices of the run, over all processes.
      process_count: processes of the run.

    Raises:
      ConfigError: the batch, or a device's share of it, does not divide.
    """
    faults = _messages(
        lambda: batch_spec.check_batch_size(
            config.batch_size, process_count=process_count, device_count=device_count
        )
    )
    if not faults:
        faults = _messages(lambda: micro_batch(config, device_count=device_count))
    if faults:
        raise ConfigError("\n".join(faults))


def validate_platform(config: ConfigDict, *, platform: str) -> None:
    """Checks that the devices' platform has what the config asks for.

    Args:
      config: config of a run.
      platform: platform of the devices, see `mrd_jax.kernels.platforms`.

    Raises:
      ConfigError: the platform lacks `config.model.attention`.
    """
    if faults := _messages(lambda: models.check_attention(config.model, platform=platform)):
        raise ConfigError("\n".join(faults))


def micro_batch(config: ConfigDict, *, device_count: int) -> int:
    """Returns the samples per micro-batch that fit the samples per device.

    A run that continues on another number of devices has another number of samples per device. The
    result is the largest divisor of that number up to `config.model.micro_batch`: it takes no more
    memory, and changes the result up to rounding only.

    Args:
      config: config of a run.
      device_count: devices of the run, over all processes; divides config.batch_size.

    Returns:
      Number of samples; 0 if the config has no micro-batches.

    Raises:
      ValueError: that divisor is less than half of `config.model.micro_batch`, which would make the
        step slow.
    """
    wanted = config.model.get("micro_batch", 0)
    local_batch = config.batch_size // device_count
    divisors = [size for size in range(1, local_batch + 1) if local_batch % size == 0]
    found = max((size for size in divisors if size <= wanted), default=0)
    if 2 * found < min(wanted, local_batch):
        raise ValueError(
            f"config.model.micro_batch is {wanted}; with {local_batch} samples per device "
            f"(config.batch_size {config.batch_size} over {device_count} devices), expected one of "
            f"{', '.join(map(str, divisors))}"
        )
    return found


def validate_records(config: ConfigDict, *, records: int) -> None:
    """Checks the batch size against the training split.

    Args:
      config: config of a run.
      records: number of records of the training split.

    Raises:
      ConfigError: a batch is larger than the split.
    """
    if config.batch_size > records:
        raise ConfigError(
            f"config.batch_size is {config.batch_size}, but split {config.data.train_split!r} of "
            f"{config.data.directory} has {records} records; expected at most {records}"
        )


def renamed(field: str) -> str:
    """Returns the fault of a field that has another name now; "" if it was not renamed."""
    new = run_identity.RENAMED_FIELDS.get(field)
    return f"config.{field} has been renamed to config.{new}" if new else ""


def _name_faults(names: set[str], rules: Mapping[str, config_schema.Rule]) -> list[str]:
    """Finds fields that are unknown, renamed or missing."""
    known = set(rules)
    own = {name for name in names if not name.startswith("model.")}
    faults = [renamed(name) or _unknown(name, known) for name in sorted(own - known)]
    current = {run_identity.RENAMED_FIELDS.get(name) for name in own}
    faults += [
        f"config.{name} is missing; expected {rules[name].expected} (configs/base.py "
        "has every field)"
        for name in sorted(known - own - current)
    ]
    return faults


def _unknown(name: str, known: set[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean config.{close[0]}?" if close else ""
    return f"config.{name} is not a field of a run{hint}"


def _value_faults(
    config: ConfigDict, names: set[str], rules: Mapping[str, config_schema.Rule]
) -> list[str]:
    """Finds fields outside their range, and fields that contradict each other."""
    invalid = {
        name: f"config.{name} is {_value(config, name)!r}; expected {rule.expected}"
        for name, rule in rules.items()
        if name in names and not rule.accepts(_value(config, name))
    }
    if model_faults := _model_faults(config.model):
        invalid["model"] = "\n".join(model_faults)
    checks: dict[Callable[[], object], tuple[str, ...]] = {
        lambda: captions.check(config.data): ("data.caption",),
        lambda: neighbour_index.check(config): ("data.hard", "data.neighbours", "batch_size"),
        lambda: options.check(config.loss): ("loss.",),
        lambda: _check_positives(config): ("data.image_pos", "data.text_pos", "loss."),
        lambda: _check_warmup(config): ("optimizer.warmup_steps", "total_steps"),
        lambda: _check_sizes(config): ("model", "teacher.dim", "data.points", "eval_windows"),
        lambda: _check_paths(config): ("initial_weights", "data."),
        lambda: _check_heads(config): ("model", "eval_head", "loss."),
        lambda: _check_modes(config): ("checkpoints_best", "spmd", "shard_state", "data.test"),
    }
    faults = list(invalid.values())
    for check, fields in checks.items():
        # A relation between fields is meaningful only if each of them is valid.
        if not any(name.startswith(fields) for name in invalid):
            faults += _messages(check)
    return faults


def _value(config: ConfigDict, name: str) -> object:
    value: object = config
    for key in name.split("."):
        value = value[key]  # type: ignore[index]
    return value


def _messages(check: Callable[[], object]) -> list[str]:
    """Runs a check and returns the message of its `ValueError`, if it raises one."""
    try:
        check()
    except ValueError as error:
        return [str(error)]
    return []


def _model_faults(config: ConfigDict) -> list[str]:
    """Checks `config.model`: the fields that every run needs, and those of the student."""
    faults = models.find_faults(config)
    faults += [
        f"config.model.{name} is missing; expected {rule.expected}"
        for name, rule in config_schema.MODEL_RULES.items()
        if name not in config and not any(f"config.model.{name} " in fault for fault in faults)
    ]
    return faults


def _check_sizes(config: ConfigDict) -> None:
    """Checks lengths of embeddings and numbers of points against each other."""
    if config.model.out_dim != config.teacher.dim:
        raise ValueError(
            f"config.model.out_dim is {config.model.out_dim} and config.teacher.dim is "
            f"{config.teacher.dim}; expected equal numbers, the length of the embedding"
        )
    points, available = config.model.points, config.data.points
    if not available:
        return  # Known once the data set is read, see `dataset_metadata.with_points`.
    if points > available:
        raise ValueError(
            f"config.model.points is {points}, but records have {available} points "
            "(config.data.points); lower the first, or prepare records with more points"
        )
    if config.eval_windows > available // points:
        raise ValueError(
            f"config.eval_windows is {config.eval_windows}; with {available} points per record and "
            f"model.points {points} it must be 1 to {available // points}"
        )


def _check_positives(config: ConfigDict) -> None:
    """Checks that a contrastive term uses several positives; relations use one feature."""
    for name in ("image", "text"):
        count, weight = config.data[f"{name}_positives"], config.loss[f"{name}_weight"]
        if count > 1 and not weight:
            raise ValueError(
                f"config.data.{name}_positives is {count}, but config.loss.{name}_weight is "
                f"{weight}, so that no term uses them; set the first to 1, or the weight to a "
                "number > 0"
            )


def _check_paths(config: ConfigDict) -> None:
    """Checks the kinds of the paths; whether there are such files shows when they are opened."""
    for name in PATHS:
        given = _value(config, name)
        try:
            if isinstance(given, str) and given:
                storage.path(given)
        except ValueError as error:
            raise ValueError(f"config.{name} is {error}") from error


def _check_warmup(config: ConfigDict) -> None:
    """Checks that the warm-up ends before the run does."""
    if config.optimizer.warmup_steps >= config.total_steps:
        raise ValueError(
            f"config.optimizer.warmup_steps is {config.optimizer.warmup_steps}; expected less than "
            f"config.total_steps, which is {config.total_steps}"
        )


def _check_heads(config: ConfigDict) -> None:
    """Checks that every head is trained, and that the one that embeds exists."""
    has_relation_head = models.has_relation_head(config.model)
    if config.eval_head != "contrastive" and not has_relation_head:
        raise ValueError(
            f"config.eval_head is {config.eval_head!r}, but the student has a contrastive head "
            "alone; set 'contrastive', or config.model.relation_head to 'linear'"
        )
    contrasts = config.loss.image_weight or config.loss.text_weight
    if has_relation_head and not (contrasts and options.active_terms(config.loss)):
        raise ValueError(
            f"config.model.relation_head is {config.model.relation_head!r}, but the objective has "
            f"no {'distillation' if contrasts else 'contrastive'} term, which would leave a head "
            "untrained; set config.model.relation_head to 'none'"
        )


def _check_modes(config: ConfigDict) -> None:
    """Checks options that need other options."""
    if config.shard_state and config.spmd != "shard_map":
        raise ValueError(
            f"config.shard_state is True, but config.spmd is {config.spmd!r}, which replicates the "
            "state; set config.spmd to 'shard_map'"
        )
    if config.checkpoints_best and not config.data.test_split:
        raise ValueError(
            f"config.checkpoints_best is {config.checkpoints_best}, but without "
            "config.data.test_split there are no evaluations to rank by; set a split, or 0"
        )
