# SPDX-License-Identifier: Apache-2.0
"""Suppression of a transformers warning that users of a teacher cannot act upon."""

import contextlib
import logging
from collections.abc import Iterator

# Start of the warning. setup.py requires transformers < 5, which still has Flax models.
FLAX_DEPRECATED = "TensorFlow and JAX classes are deprecated"


@contextlib.contextmanager
def suppress_flax_deprecation() -> Iterator[None]:
    """Suppresses the deprecation warning of transformers' Flax models, and no other message."""
    logger = logging.getLogger("transformers.modeling_flax_utils")
    logger.addFilter(_is_other_message)
    try:
        yield
    finally:
        logger.removeFilter(_is_other_message)


def _is_other_message(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(FLAX_DEPRECATED)
