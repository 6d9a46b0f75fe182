# SPDX-License-Identifier: Apache-2.0
"""Logs of a command: this package's messages, and only the warnings of the libraries."""

import logging
import sys

import jax
from absl import logging as absl_logging

# Warnings of libraries that report no fault here. Orbax looks for a metadata file in each item of a
# checkpoint and writes it only for some.
_EXPECTED = ("Metadata file does not exist", "does not exist, returning empty metadata")


def show() -> None:
    """Sends this package's messages to stderr, with the process index if there are several.

    Asks JAX for its devices, so call it after joining the other processes.
    """
    quiet_libraries()
    handler = logging.StreamHandler(sys.stderr)
    process = f"[{jax.process_index()}] " if jax.process_count() > 1 else ""
    handler.setFormatter(logging.Formatter(f"%(asctime)s {process}%(message)s", datefmt="%H:%M:%S"))
    logger = logging.getLogger("mrd_jax")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False


def quiet_libraries() -> None:
    """Drops the libraries' messages below warnings, and warnings that report no fault."""
    absl_logging.set_verbosity(absl_logging.WARNING)
    for handler in (*absl_logging.get_absl_logger().handlers, absl_logging.get_absl_handler()):
        handler.addFilter(_is_unexpected)


def _is_unexpected(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(expected in message for expected in _EXPECTED)
