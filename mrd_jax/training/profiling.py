# SPDX-License-Identifier: Apache-2.0
"""Records a few steps for TensorBoard's profiler."""

import logging
from typing import Any

import jax

from mrd_jax import storage, transfer

LOGGER = logging.getLogger(__name__)

# Steps of this process before the first recorded one: compilation and the first batches are not
# representative.
AFTER = 5


class Profile:
    """Records a few steps of this process, once, in the TensorBoard folder of the workdir.

    As a context manager, it ends a recording that is still running at the end of the block.
    """

    def __init__(self, workdir: storage.PathLike, *, steps: int):
        """Configures the recording.

        Args:
          workdir: folder of the run.
          steps: number of steps to record; 0 records none.
        """
        self._folder = storage.path(workdir) / "tensorboard"
        self._steps = steps
        self._running = False

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def before(self, done: int, state: Any) -> None:
        """Starts or stops the recording if it is due before the next step.

        Args:
          done: number of steps that this process has dispatched.
          state: train state after them; waited for when the recording starts or stops.
        """
        if self._steps and done == AFTER:
            jax.block_until_ready(state)
            self._local = transfer.scratch(self._folder)
            jax.profiler.start_trace(str(self._local))
            self._running = True
        elif self._running and done == AFTER + self._steps:
            jax.block_until_ready(state)
            self._stop()

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            transfer.publish(self._local, self._folder)
            transfer.discard(self._local, self._folder)
            LOGGER.info("profile: tensorboard --logdir %s (with xprof installed)", self._folder)
