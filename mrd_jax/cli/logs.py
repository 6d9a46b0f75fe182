# SPDX-License-Identifier: Apache-2.0
"""Logs of a command: this package's messages, and only the warnings of the libraries."""

import logging
import sys

from absl import logging as absl_logging

# Warnings of libraries that report no fault here. Orbax looks for a metadata file in each item of a
# checkpoint and writes it only for some.
_EXPECTED = ("Metadata file does not exist", "does not exist, returning empty metadata")


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
    """Drops the libraries' messages below warnings, and warnings that report no fault.

    `command.reports_errors` calls it. absl's app sets the root logger to INFO, at which JAX lists
    the backends that a machine lacks.
    """
    absl_logging.set_verbosity(absl_logging.WARNING)
    # On the logger and not on its handlers: absl adds one with its first message.
    absl_logging.get_absl_logger().addFilter(_is_unexpected)


def _is_unexpected(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(expected in message for expected in _EXPECTED)
