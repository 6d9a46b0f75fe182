# SPDX-License-Identifier: Apache-2.0
"""On-disk cache of backbone features, so that no image is encoded twice."""

import hashlib
import pathlib
import threading
import zipfile
from collections.abc import Sequence

import numpy as np

from mrd_jax import atomic_io

# Rows per file; an interrupted run loses at most this many.
PART_ROWS = 2048
PATTERN = "part-*.npz"


def picture_key(pixels: np.ndarray, *, context: str) -> bytes:
    """Returns the cache key of a feature, a hash of everything that it depends on.

    Args:
      pixels: uint8 [height, width, 3], input of the backbone.
      context: checksum of the weights, and dtype of the activations.

    Returns:
      16 bytes.
    """
    digest = hashlib.blake2b(f"{context} {pixels.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(pixels))
    return digest.digest()


class FeatureCache:
    """Features by key, in memory and in a folder to which files are only added.

    Several processes may write to the same folder, since files are written atomically. Several
    threads may use one cache.

    Args:
      directory: folder of the cache; None keeps the features in memory only.
      write: whether to add features to the folder.
    """

    def __init__(self, directory: pathlib.Path | None = None, *, write: bool = True):
        self._directory = directory if write else None
        self._rows: dict[bytes, np.ndarray] = {}
        self._unsaved: list[bytes] = []
        self._lock = threading.Lock()
        if directory is not None and directory.is_dir():
            for path in sorted(directory.glob(PATTERN)):
                self._rows.update(_read_part(path))

    def __contains__(self, key: bytes) -> bool:
        return key in self._rows

    def add(self, keys: Sequence[bytes], features: np.ndarray) -> None:
        """Adds features [len(keys), dim]; call `save` after the last ones."""
        self._rows.update(zip(keys, features, strict=True))
        if self._directory is not None:
            with self._lock:
                self._unsaved += keys
                is_full = len(self._unsaved) >= PART_ROWS
            if is_full:
                self.save()

    def rows(self, keys: Sequence[bytes]) -> np.ndarray:
        """Returns the features of keys in the cache, float32 [len(keys), dim]."""
        return np.stack([self._rows[key] for key in keys])

    def save(self) -> None:
        """Writes the features that were added since the last call."""
        with self._lock:
            unsaved, self._unsaved = self._unsaved, []
        if self._directory is None or not unsaved:
            return
        name = hashlib.blake2b(b"".join(unsaved), digest_size=8).hexdigest()
        # An array of type bytes would strip trailing zeros from the keys.
        keys = np.frombuffer(b"".join(unsaved), np.uint8).reshape(len(unsaved), -1)
        path = self._directory / PATTERN.replace("*", name)
        atomic_io.write_npz(path, keys=keys, features=self.rows(unsaved))


def _read_part(path: pathlib.Path) -> dict[bytes, np.ndarray]:
    try:
        # When np.load fails, it does not close a file that it has opened itself.
        with open(path, "rb") as file, np.load(file) as part:
            keys, features = part["keys"], part["features"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"{path}: expected arrays `keys` and `features`, found: {error}. "
            "Delete the file; its features will be recomputed."
        ) from error
    return {key.tobytes(): row for key, row in zip(keys, features, strict=True)}
