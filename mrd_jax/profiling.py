# SPDX-License-Identifier: Apache-2.0
"""A profile of a few steps, for TensorBoard's profiler."""

import logging
import os
from typing import Any

import jax

LOGGER = logging.getLogger(__name__)

# Steps of this process before the first that is recorded: compilation and first batches are not
# what a run is made of.
AFTER = 5


class Profile:
    """Records some steps of this process, once, into the TensorBoard folder of the workdir."""

    def __init__(self, workdir: str, *, steps: int):
        """Nothing is recorded yet.

        Args:
          workdir: of the run.
          steps: to record; 0 records none.
        """
        self._folder = os.path.join(workdir, "tensorboard")
        self._steps = steps
        self._running = False

    def before(self, done: int, in_flight: Any) -> None:
        """Begins or ends where it is time to.

        Args:
          done: steps that this process has begun so far.
          in_flight: results of the last of them, waited for at either end.
        """
        if not self._steps:
            return
        if done == AFTER:
            jax.block_until_ready(in_flight)
            jax.profiler.start_trace(self._folder)
            self._running = True
        elif self._running and done == AFTER + self._steps:
            jax.block_until_ready(in_flight)
            self.close()

    def close(self) -> None:
        """Ends what is being recorded."""
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            LOGGER.info("profile: tensorboard --logdir %s (with xprof installed)", self._folder)
