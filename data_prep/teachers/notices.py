# SPDX-License-Identifier: Apache-2.0
"""What transformers says at every load, and nobody who loads a teacher can act upon."""

import contextlib
import logging
from collections.abc import Iterator

# setup.py keeps transformers below 5, which has no Flax models.
FLAX_ENDS = "TensorFlow and JAX classes are deprecated"


@contextlib.contextmanager
def without_flax_notice() -> Iterator[None]:
    """Keeps transformers from saying that its Flax models end; whatever else it says is heard."""
    logger = logging.getLogger("transformers.modeling_flax_utils")
    logger.addFilter(_is_news)
    try:
        yield
    finally:
        logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    return not record.getMessage().startswith(FLAX_ENDS)
