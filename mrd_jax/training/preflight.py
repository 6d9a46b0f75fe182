# SPDX-License-Identifier: Apache-2.0
"""Checks a run before it is started on many hosts: `mrd_jax.main --mode check`."""

import json
import logging
import uuid
from collections.abc import Callable

import jax
import jax.numpy as jnp
from ml_collections import ConfigDict

from mrd_jax import storage
from mrd_jax.checkpoints import initial_weights, run_identity
from mrd_jax.cli import command
from mrd_jax.data import dataset_metadata, source
from mrd_jax.distributed import compilation_cache, versions
from mrd_jax.kernels import platforms
from mrd_jax.training import run as run_lib
from mrd_jax.training import trackers, validation

LOGGER = logging.getLogger(__name__)

# Devices of a host of a slice; of a slice with no more devices than this, the host has all.
_DEVICES_PER_HOST = 4
_DEVICES_OF_LARGEST_HOST = 8


class PreflightError(ValueError):
    """A run that cannot start; the message has a line per fault."""


def validate(config: ConfigDict, _: storage.PathLike = "", *, devices: int) -> None:
    """Validates a config for a number of devices, and prints its fields as JSON.

    Reads neither data nor workdir.

    Args:
      config: config of a run, or of a benchmark, of which nothing is checked here.
      devices: devices of the run, over all processes; 0 leaves the batch size unchecked.

    Raises:
      mrd_jax.training.validation.ConfigError: lists every invalid field of the config.
    """
    if _is_run(config):
        validation.validate(config)
    if _is_run(config) and devices:
        hosts = 1 if devices <= _DEVICES_OF_LARGEST_HOST else devices // _DEVICES_PER_HOST
        validation.validate_devices(config, device_count=devices, process_count=hosts)
    print(json.dumps(run_identity.flatten(config)))


def check(config: ConfigDict, workdir: storage.PathLike, *, devices: int) -> None:
    """Checks everything that a run needs, on this host alone, and leaves the workdir as it is.

    Args:
      config: config of a run; of a benchmark, devices and folders are checked.
      workdir: folder of the run.
      devices: devices of the run, over all processes; 0 for those of this host.

    Raises:
      PreflightError: lists every fault.
    """
    LOGGER.info("versions: %s", ", ".join(f"{k} {v}" for k, v in versions.installed().items()))
    found: dict[str, object] = {}
    checks: dict[str, Callable[[], str]] = {
        "devices": _check_devices,
        "workdir": lambda: _check_folder(workdir),
        "compilation cache": lambda: _check_folder(compilation_cache.directory() or ""),
    }
    if _is_run(config):
        checks |= {
            "config": lambda: _check_config(config, devices),
            "training data": lambda: _check_data(config, found),
            "test data": lambda: _check_test_data(config),
            "initial weights": lambda: _check_weights(config.initial_weights),
            "tracker": lambda: _check_tracker(config),
            "run": lambda: _check_identity(config, workdir, found),
        }
    faults = []
    for name, run_check in checks.items():
        try:
            LOGGER.info("%s: %s", name, run_check())
        except Exception as error:
            # A fault of the program keeps its traceback.
            if not command.is_user_error(error):
                raise
            faults.append(f"{name}: {error}")
    if faults:
        raise PreflightError("\n".join(faults))


def _is_run(config: ConfigDict) -> bool:
    return "sets" not in config


def _check_config(config: ConfigDict, devices: int) -> str:
    validation.validate(config)
    if not devices:
        # Else the run is on other machines than this one.
        platform = platforms.of_device(jax.local_devices()[0])
        validation.validate_platform(config, platform=platform)
    devices = devices or jax.device_count()
    hosts = max(1, devices // max(jax.local_device_count(), 1)) if devices else 1
    validation.validate_devices(config, device_count=devices, process_count=hosts)
    return f"valid for {devices} devices"


def _check_devices() -> str:
    """Computes on the first device, which shows that driver and compiler work."""
    device = jax.local_devices()[0]
    total = float(jnp.sum(jax.device_put(jnp.ones((8, 128)), device)))
    if total != 8 * 128:
        raise ValueError(f"{device} computes a sum of {total}; expected 1024: replace the host")
    return f"{jax.local_device_count()} x {device.device_kind}"


def _check_data(config: ConfigDict, found: dict[str, object]) -> str:
    config = run_lib.resolve(config)
    data = run_lib.open_data(config)
    data.records[len(data.records) - 1]
    found["fingerprint"] = data.fingerprint
    return f"{len(data.records)} records, the last one read"


def _check_test_data(config: ConfigDict) -> str:
    if not config.data.test_split:
        return "none"
    directory = config.data.test_directory or config.data.directory
    if config.data.test_directory:
        dataset_metadata.check_test_set(directory, config)
    records = source.open_split(directory, config.data.test_split)
    records[len(records) - 1]
    return f"{len(records)} records, the last one read"


def _check_weights(path: str) -> str:
    if not path:
        return "none"
    arrays = len(jax.tree.leaves(initial_weights.load(path)))
    return f"{arrays} arrays read"


def _check_tracker(config: ConfigDict) -> str:
    trackers.check(config)
    return str(config.tracker)


def _check_folder(folder: storage.PathLike) -> str:
    """Writes, reads and deletes a small file."""
    if not folder:
        return "none"
    path, text = storage.path(folder) / f".preflight-{uuid.uuid4().hex}", "mrd_jax"
    storage.make_folder(path.parent)
    path.write_text(text)
    if (read := path.read_text()) != text:
        raise OSError(f"{path} holds {read!r} after {text!r} was written")
    path.unlink()
    storage.check_rights(path)
    return f"{folder} can be written to"


def _check_identity(config: ConfigDict, workdir: storage.PathLike, found: dict[str, object]) -> str:
    """Checks that an existing workdir belongs to this run."""
    if not (storage.path(workdir) / run_identity.RUN_FILE).exists():
        return "new"
    if "fingerprint" not in found:
        return "exists; not compared, since the data cannot be read"
    identity = run_identity.of_run(
        dataset_metadata.with_points(config), fingerprint=str(found["fingerprint"])
    )
    run_identity.claim(storage.path(workdir), identity)
    return "will be continued"
