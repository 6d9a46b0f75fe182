# SPDX-License-Identifier: Apache-2.0
"""Logs of a command: this package's messages, and only the warnings of the libraries."""

import logging
import os
import sys
from pathlib import Path

from absl import logging as absl_logging

# Warnings of libraries that report no fault here. Orbax looks for a metadata file in each item of a
# checkpoint and writes it only for some.
_EXPECTED = ("Metadata file does not exist", "does not exist, returning empty metadata")
# libtpu, installed without a TPU, prints errors about these variables where they are not set, at
# every log level. Any valid value will do.
_LIBTPU_VARIABLES = {"TPU_ACCELERATOR_TYPE": "v5litepod-4", "TPU_WORKER_HOSTNAMES": "localhost"}


def show() -> None:
    """Sends this package's messages to stderr, with the process index if there are several.

    Asks JAX for its devices, so call it after joining the other processes.
    """
    import jax  # not at the top: `command` imports this module, also for commands without JAX

    handler = logging.StreamHandler(sys.stderr)
    process = f"[{jax.process_index()}] " if jax.process_count() > 1 else ""
    handler.setFormatter(logging.Formatter(f"%(asctime)s {process}%(message)s", datefmt="%H:%M:%S"))
    logger = logging.getLogger("mrd_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def quiet_libraries() -> None:
    """Drops the libraries' messages below warnings, and messages that report no fault.

    `command.reports_errors` calls it. absl's app sets the root logger to INFO, at which JAX lists
    the backends that a machine lacks.
    """
    if not _has_tpu():
        for name, value in _LIBTPU_VARIABLES.items():
            os.environ.setdefault(name, value)
    absl_logging.set_verbosity(absl_logging.WARNING)
    # On the logger and not on its handlers: absl adds one with its first message.
    absl_logging.get_absl_logger().addFilter(_is_unexpected)


def _has_tpu() -> bool:
    """Returns whether there may be a TPU: accel* up to v4, groups of vfio since v5e."""
    return any(Path("/dev").glob("accel*")) or any(Path("/dev/vfio").glob("[0-9]*"))


def _is_unexpected(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(expected in message for expected in _EXPECTED)
