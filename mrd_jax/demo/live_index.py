# SPDX-License-Identifier: Apache-2.0
"""The searcher of the current version of an index, which other processes may change."""

import contextlib
import logging
import os
import threading
from collections.abc import Iterator

from mrd_jax.search import manifest, queries, shape_index

LOGGER = logging.getLogger(__name__)


class LiveIndex:
    """Opens new versions of an index in a thread.

    A request that takes `searcher` once finishes on the version that it began with.

    Args:
      searcher: searcher of the current version.

    Attributes:
      searcher: searcher of the newest version.
    """

    def __init__(self, searcher: queries.Searcher):
        self.searcher = searcher
        self._file = searcher.index.folder / manifest.INFO_FILE
        self._seen = self._stamp()
        self._lock = threading.Lock()

    def _stamp(self) -> tuple[int, ...]:
        """Returns what changes whenever the manifest is replaced."""
        try:
            status = os.stat(self._file)
        except OSError:
            return ()
        return status.st_ino, status.st_mtime_ns, status.st_size

    def refresh(self) -> None:
        """Opens the index again if its manifest has changed; keeps the old one if that fails."""
        with self._lock:
            stamp = self._stamp()
            if stamp == self._seen:
                return
            self._seen = stamp
            try:
                index = shape_index.read(self.searcher.index.folder)
                self.searcher = self.searcher.with_index(index)
            except (ValueError, OSError) as error:
                LOGGER.error("the old version of the index is served: %s", error)
                return
            LOGGER.info("version %d of the index: %d shapes", index.version, len(index))

    @contextlib.contextmanager
    def polling(self, seconds: float) -> Iterator[None]:
        """Looks for a new version every so many seconds while the block runs."""
        stopped = threading.Event()

        def poll() -> None:
            while not stopped.wait(seconds):
                self.refresh()

        thread = threading.Thread(target=poll, daemon=True, name="index versions")
        thread.start()
        try:
            yield
        finally:
            stopped.set()
            thread.join()
